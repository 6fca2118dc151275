"""Importing images on a real file system: what is kept, what is refused; a failure leaves nothing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.archives import NET_RAW, archive, member, packed
from tests.conftest import Instance as Own
from vsprov.errors import ConflictError, FailedError, ImageError
from vsprov.model.objects import HostSource, Source, TarSource
from vsprov.store import durable, images, limits, marks, sealed, servers
from vsprov.store.instance import Instance
from vsprov.store.limits import Limits
from vsprov.store.marks import Owner

MIB = 1 << 20


class Store:
    """The store of one instance, with the few calls the tests make."""

    def __init__(self, instance: Instance, folder: Path) -> None:
        self.instance = instance
        self.folder = folder  # for sources
        self.owner = Owner(instance.name, "default")
        self.told: list[str] = []

    def imported(self, source: Source, name: str = "base") -> images.ImageRecord:
        record = images.observe(self.instance).get(name)
        resolved = images.resolve(source, record=record)
        return images.import_image(self.instance, name, source, resolved, self.owner, self.told.append)

    def unpacked(self, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
        """The layer of an archive of `members`."""
        return self.layer(self.imported(tar(archive(self.folder / "image.tar", *members))))

    def layer(self, record: images.ImageRecord) -> Path:
        return Path(images.layer_path(self.instance, record.digest))

    def refusal(self, source: Source | bytes) -> str:
        """What an import says, having left nothing."""
        if isinstance(source, bytes):
            (self.folder / "image.tar").write_bytes(source)
            source = tar(self.folder / "image.tar")
        with pytest.raises(ImageError) as refused:
            self.imported(source)
        self.holds_nothing()
        return str(refused.value).removeprefix("Image/base: ").replace(f"{self.folder}/", "")

    def holds_nothing(self) -> None:
        for path in (self.instance.layers, self.instance.images):
            assert not os.path.exists(path) or os.listdir(path) == []


@pytest.fixture
def store(instance: Own, tmp_path: Path) -> Iterator[Store]:
    yield Store(Instance(instance.name, str(instance.root)), tmp_path)
    durable.remove_tree(str(instance.root))


def tar(path: Path, sha256: str | None = None) -> Source:
    return Source(tar=TarSource(path=str(path), sha256=sha256))


def directory(path: Path) -> Source:
    return Source(directory=str(path))


def limited(monkeypatch: pytest.MonkeyPatch, **most: int) -> None:
    monkeypatch.setattr(limits, "LIMITS", Limits(**most))


# ---- what is kept


def test_a_directory_is_copied_with_all_that_makes_an_image(store: Store) -> None:
    tree = store.folder / "tree"
    for name in ("bin", "tmp", "closed"):
        (tree / name).mkdir(parents=True)
    (tree / "bin/ping").write_bytes(b"ping")
    os.chown(tree / "bin/ping", 12, 34)
    os.setxattr(tree / "bin/ping", "security.capability", NET_RAW)
    os.setxattr(tree / "bin/ping", "user.note", b"n")
    os.setxattr(tree / "bin/ping", "trusted.other", b"dropped")
    os.link(tree / "bin/ping", tree / "bin/ping6")
    (tree / "bin/su").write_bytes(b"su")
    os.chmod(tree / "bin/su", 0o4755)
    os.symlink("/etc/passwd", tree / "link")
    os.chown(tree / "link", 5, 6, follow_symlinks=False)
    os.link(tree / "link", tree / "link2", follow_symlinks=False)
    with open(tree / "sparse", "wb") as file:
        file.seek(3 * MIB)
        file.write(b"data")
        file.truncate(20 * MIB)
    (tree / "odd\udcff\n").write_bytes(b"odd")
    os.setxattr(tree / "tmp", "user.note", b"on a directory")
    os.chmod(tree / "tmp", 0o1777)
    os.chmod(tree / "closed", 0)
    os.utime(tree / "bin", ns=(1, 1700000000_123456789))
    os.chown(tree, 1, 2)
    os.chmod(tree, 0o751)
    record = store.imported(directory(tree))
    layer = store.layer(record)

    def listing(top: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for where, folders, files in os.walk(top):
            for name in (*folders, *files, "."):
                path = os.path.join(where, name)
                s = os.lstat(path)
                attributes = {
                    n: os.getxattr(path, n, follow_symlinks=False)
                    for n in os.listxattr(path, follow_symlinks=False)
                }
                attributes = {
                    n: v
                    for n, v in attributes.items()
                    if not n.startswith(("trusted.", "system.", "security.selinux"))
                }
                content = (
                    os.readlink(path)
                    if stat.S_ISLNK(s.st_mode)
                    else None
                    if stat.S_ISDIR(s.st_mode)
                    else Path(path).read_bytes()
                )
                links = s.st_nlink if not stat.S_ISDIR(s.st_mode) else 0
                found[os.path.relpath(path, top)] = (
                    s.st_mode,
                    s.st_uid,
                    s.st_gid,
                    s.st_mtime_ns,
                    links,
                    attributes,
                    content,
                )
        return found

    assert listing(layer) == listing(tree)
    assert "trusted.other" not in os.listxattr(layer / "bin/ping")
    assert (layer / "sparse").stat().st_blocks * 512 < 8 * MIB
    assert images.resolve(directory(layer)).digest == record.digest


def test_the_same_files_have_the_same_digest_and_any_difference_another(store: Store) -> None:
    def tree(name: str) -> Path:
        top = store.folder / name
        (top / "etc").mkdir(parents=True)
        (top / "etc/a").write_text("a")
        (top / "etc/b").write_text("b")
        return top

    first = images.resolve(directory(tree("one"))).digest
    time.sleep(0.02)
    assert images.resolve(directory(tree("two"))).digest == first
    changes: list[Callable[[Path], object]] = [
        lambda top: (top / "etc/a").write_text("A"),
        lambda top: os.chmod(top / "etc/a", 0o600),
        lambda top: os.chown(top / "etc", 1, 0),
        lambda top: os.chown(top / "etc/a", 0, 1),
        lambda top: os.setxattr(top / "etc/a", "user.x", b"1"),
        lambda top: os.rename(top / "etc/a", top / "etc/c"),
        lambda top: (os.unlink(top / "etc/b"), os.link(top / "etc/a", top / "etc/b")),
        lambda top: (os.unlink(top / "etc/b"), os.symlink("b", top / "etc/b")),
        lambda top: (top / "more").mkdir(),
        lambda top: os.chmod(top, 0o700),
    ]
    digests = {first}
    for number, change in enumerate(changes):
        top = tree(f"changed-{number}")
        change(top)
        digests.add(images.resolve(directory(top)).digest)
    assert len(digests) == 1 + len(changes)


# ---- what is refused, leaving nothing


@pytest.mark.parametrize(
    "hostile", [member("../e"), member("d/e", b"x"), member("sda", type=tarfile.BLKTYPE)]
)
def test_an_archive_that_is_refused_half_way_leaves_nothing(
    store: Store, hostile: tuple[tarfile.TarInfo, bytes]
) -> None:
    said = store.refusal(packed(member("d", b"harmless"), hostile))
    assert said.startswith(("image.tar: '", "image.tar: unpack: 'd/e'"))


def test_an_archive_with_another_digest_than_the_manifest_means_is_refused_before_it_is_opened(
    store: Store,
) -> None:
    path = archive(store.folder / "image.tar", member("../e"))
    wanted = "0" * 64
    with pytest.raises(ImageError) as refused:
        images.resolve(tar(path, wanted))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert str(refused.value) == f"{path}: sha256 {wanted} is wanted: the file has {digest}"
    assert images.resolve(tar(path, digest.upper())).digest == digest


def test_a_source_that_changes_after_it_was_looked_at_is_refused(store: Store) -> None:
    path = archive(store.folder / "image.tar", member("x", b"1"))
    tree = store.folder / "tree"
    tree.mkdir()
    for source, change in (
        (tar(path), lambda: archive(path, member("x", b"2"))),
        (directory(tree), lambda: (tree / "new").write_text("x")),
    ):
        resolved = images.resolve(source)
        change()
        with pytest.raises(ImageError, match=r"changed (since it was looked at|while it was being copied)"):
            images.import_image(store.instance, "base", source, resolved, store.owner, store.told.append)
        store.holds_nothing()


def test_a_directory_with_what_no_image_may_hold_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tree(name: str) -> Path:
        (store.folder / name / "etc").mkdir(parents=True)
        return store.folder / name

    os.mkfifo(tree("fifo") / "etc/passwd")
    os.mknod(tree("block") / "sda", stat.S_IFBLK | 0o600, os.makedev(8, 0))
    os.mknod(tree("whiteout") / "gone", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tree("socket") / "s"))
    (tree("ids") / "x").write_text("x")
    os.chown(store.folder / "ids/x", 65536, 0)
    (tree("wh") / ".wh.x").write_text("x")
    os.setxattr(tree("upper") / "etc", "trusted.overlay.opaque", b"y")
    (store.folder / "link").symlink_to(tree("real"))
    (store.folder / "file").write_text("x")
    for name, said in {
        "fifo": "fifo: 'etc/passwd': is a FIFO, which no image may hold",
        "block": "block: 'sda': is a block device, which no image may hold",
        "whiteout": "whiteout: 'gone': is a character device, which no image may hold",
        "socket": "socket: 's': is a socket, which no image may hold",
        "ids": "ids: 'x': belongs to 65536:0; a server's ids end at 65535",
        "wh": "wh: '.wh.x': is a whiteout, which only a layer over another may hold",
        "upper": "upper: 'etc': trusted.overlay.opaque: it is the upper layer of an overlay",
        "link": f"link: it is a symbolic link to {store.folder}/real",
        "link/": f"link: it is a symbolic link to {store.folder}/real",
        "file": "file: open as a directory: Not a directory",
        "none": "none: open as a directory: No such file or directory",
    }.items():
        with pytest.raises(ImageError) as refused:
            images.resolve(Source(directory=name), str(store.folder))
        assert str(refused.value) == f"{store.folder}/{said}"
    limited(monkeypatch, entries=2)
    (tree("many") / "x").write_text("x")
    with pytest.raises(ImageError, match="'x': is entry number 3; 2 are the most"):
        images.resolve(directory(store.folder / "many"))


def test_a_directory_with_a_mount_in_it_is_refused(store: Store) -> None:
    point = store.folder / "tree/proc"
    point.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", store.instance.name, point], check=True)
    try:
        with pytest.raises(ImageError, match="'proc': is on another file system: something is mounted there"):
            images.resolve(directory(store.folder / "tree"))
    finally:
        subprocess.run(["umount", point], check=True)


def test_a_very_deep_directory_is_refused_and_not_walked_to_its_end(store: Store) -> None:
    here = os.open(store.folder, os.O_RDONLY)
    for _ in range(400):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(ImageError, match="lies too deep: 256 levels and 4095 bytes are the most"):
        images.resolve(directory(store.folder / "d"))
    durable.remove_tree(f"{store.folder}/d")


def test_the_folder_of_the_images_cannot_be_an_image(store: Store) -> None:
    os.makedirs(store.instance.root)
    source = directory(Path(store.instance.root).parent)
    with pytest.raises(ImageError, match="where the images themselves are kept"):
        store.imported(source)
    store.holds_nothing()


def test_on_a_full_disk_nothing_is_left_of_an_import(store: Store) -> None:
    os.mkdir(store.instance.root)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", store.instance.name, store.instance.root],
        check=True,
    )
    tree = store.folder / "tree"
    tree.mkdir()
    (tree / "big").write_bytes(os.urandom(2 * MIB))
    try:
        for source in (
            tar(archive(store.folder / "b.tar", member("big", os.urandom(2 * MIB)))),
            directory(tree),
        ):
            said = store.refusal(source)
            assert said.endswith("'big': No space left on device") or said == "tree: No space left on device"
    finally:
        subprocess.run(["umount", store.instance.root], check=True)


# ---- records and layers


def test_a_record_reads_back_and_bears_its_owner(store: Store) -> None:
    record = store.imported(tar(archive(store.folder / "image.tar", member("x"))))
    path = Path(store.instance.images, "base.json")
    assert images.observe(store.instance) == {"base": record}
    assert (record.owner, record.problem, record.layers) == (store.owner, "", (record.digest,))
    assert record.source == {"tar": {"path": f"{store.folder}/image.tar"}}
    assert path.stat().st_mode & 0o7777 == 0o600
    assert os.listdir(store.instance.layers) == [record.digest]


def test_two_images_of_one_archive_share_a_layer_which_goes_with_the_last(store: Store) -> None:
    source = tar(archive(store.folder / "image.tar", member("x")))
    first = store.imported(source, "one")
    made = store.layer(first).stat().st_ino
    second = store.imported(source, "two")
    assert (second.digest, store.layer(second).stat().st_ino) == (first.digest, made)
    assert images.unused_layers(store.instance) == []
    images.remove_image(store.instance, "one")
    images.remove_image(store.instance, "one")
    assert images.unused_layers(store.instance) == []
    images.remove_image(store.instance, "two")
    assert images.unused_layers(store.instance, used=[first.digest]) == []
    assert images.unused_layers(store.instance) == [first.digest]
    images.remove_layer(store.instance, first.digest)
    images.remove_layer(store.instance, first.digest)
    store.holds_nothing()


def test_a_damaged_record_keeps_every_layer_and_is_mended_by_the_next_import(store: Store) -> None:
    source = tar(archive(store.folder / "image.tar", member("x")))
    record = store.imported(source)
    path = Path(store.instance.images, "base.json")
    incomplete = {"digest": "x"}
    traversing = {"digest": "../../x", "layers": ["../../x"]}
    traversing |= {"binds": [], "source": {}, "fingerprint": "", "config": {}}
    for damage in (path.read_bytes()[:-9], b"", b"{}", sealed.seal(incomplete), sealed.seal(traversing)):
        path.write_bytes(damage)
        (seen,) = images.observe(store.instance).values()
        assert (seen.owner, seen.digest, seen.layers) == (store.owner, "", ())
        assert seen.problem.startswith("base.json ")
        assert images.unused_layers(store.instance) == []
        assert store.imported(source) == record
        assert images.observe(store.instance) == {"base": record}


def test_a_missing_layer_is_told_and_made_again(store: Store) -> None:
    source = tar(archive(store.folder / "image.tar", member("x", b"x")))
    record = store.imported(source)
    shutil.rmtree(store.layer(record))
    assert images.observe(store.instance)["base"].problem == f"layer {record.digest} is missing"
    assert store.imported(source) == record
    assert images.observe(store.instance)["base"].problem == ""
    assert (store.layer(record) / "x").read_bytes() == b"x"


def test_records_and_layers_of_others_are_never_touched(store: Store) -> None:
    source = tar(archive(store.folder / "image.tar", member("x")))
    record = store.imported(source)
    path = Path(store.instance.images, "base.json")
    for owner in (Owner("another", "default"), Owner(store.instance.name, "another"), None):
        marks.remove_mark(str(path), marks.OWNER) if owner is None else marks.write_owner(str(path), owner)
        with pytest.raises(ConflictError, match="it is not touched"):
            store.imported(source)
    with pytest.raises(ConflictError, match="it is not touched"):
        images.remove_image(store.instance, "base")
    os.unlink(path)
    os.mkdir(f"{store.instance.layers}/{'0' * 64}")
    os.mkdir(f"{store.instance.layers}/lost+found")
    assert images.unused_layers(store.instance) == [record.digest]


@pytest.mark.parametrize(
    "digest", ["", "..", "../../x", "a" * 63, "A" * 64, "a" * 64 + "\n", f"sha256:{'a' * 64}"]
)
def test_what_is_no_digest_never_becomes_a_path(store: Store, digest: str) -> None:
    with pytest.raises(ImageError, match="is not a sha256"):
        images.layer_path(store.instance, digest)
    with pytest.raises(ImageError, match="is not a sha256"):
        images.remove_layer(store.instance, digest)
    source = tar(archive(store.folder / "image.tar", member("x")))
    with pytest.raises(ImageError, match="is not a sha256"):
        images.import_image(
            store.instance, "base", source, images.Resolved(digest, ""), store.owner, store.told.append
        )


def bytes_read() -> int:
    """How many bytes this process has read by system calls so far. proc_pid_io(5)."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.parametrize("kind", ["tar", "directory"])
def test_a_source_that_has_not_changed_is_not_read_again(store: Store, kind: str) -> None:
    tree = store.folder / "tree"
    tree.mkdir()
    (tree / "big").write_bytes(os.urandom(8 * MIB))
    path = archive(store.folder / "image.tar", member("big", os.urandom(8 * MIB)))
    source = tar(path) if kind == "tar" else directory(tree)
    start = bytes_read()
    record = store.imported(source)
    first = bytes_read()
    again = images.resolve(source, record=images.observe(store.instance)["base"])
    second = bytes_read()
    assert first - start >= 8 * MIB
    assert second - first < 64 * 1024
    assert again == images.Resolved(record.digest, record.fingerprint)
    changed = path if kind == "tar" else tree / "big"
    with open(changed, "r+b") as file:
        file.seek(2 * MIB)
        file.write(b"changed")
    os.utime(changed, ns=(0, os.stat(changed).st_mtime_ns))
    assert images.resolve(source, record=record).digest != record.digest


def test_resolving_writes_nothing(store: Store) -> None:
    archive(store.folder / "image.tar", member("x"))
    (store.folder / "tree").mkdir()

    def listing() -> list[tuple[str, int]]:
        return [(path, os.lstat(path).st_ctime_ns) for path, _, _ in os.walk(store.folder)] + [
            (name, os.lstat(store.folder / name).st_ctime_ns) for name in os.listdir(store.folder)
        ]

    before = listing()
    for source in (
        tar(store.folder / "image.tar"),
        directory(store.folder / "tree"),
        Source(host=HostSource()),
    ):
        images.resolve(source)
    assert listing() == before
    assert not os.path.exists(store.instance.root)


# ---- crashes


def workers(root: str) -> list[int]:
    """The processes that unpack below `root`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if any(word.endswith(b"unpack/__main__.py") for word in words) and any(
            os.fsencode(root) in word for word in words
        ):
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize("kind", ["tar", "directory"])
def test_an_import_killed_half_way_leaves_nothing_that_the_sweep_does_not_remove(
    store: Store, kind: str
) -> None:
    source = f"tar=TarSource(path={str(store.folder / 'image.tar')!r})"
    if kind == "tar":
        archive(store.folder / "image.tar", *(member(f"f{n}", b"x") for n in range(20_000)))
    else:
        source = f"directory={str(store.folder / 'tree')!r}"
        (store.folder / "tree").mkdir()
        for n in range(6_000):
            (store.folder / f"tree/f{n}").write_bytes(b"x")
    program = f"""
from vsprov.model.objects import Source, TarSource
from vsprov.store import images
from vsprov.store.instance import Instance
from vsprov.store.marks import Owner
source = Source({source})
store = Instance({store.instance.name!r}, {store.instance.root!r})
images.import_image(store, "base", source, images.resolve(source), Owner(store.name, "default"), print)
"""
    with subprocess.Popen([sys.executable, "-c", program]) as importer:
        deadline = time.monotonic() + 60
        making: list[Path] = []
        while not making or len(os.listdir(making[0])) < 20:
            assert importer.poll() is None and time.monotonic() < deadline
            making = list(Path(store.instance.layers).glob(".making-*"))
        assert len(workers(store.instance.root)) == (kind == "tar")
        importer.send_signal(signal.SIGKILL)
    while workers(store.instance.root):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert images.observe(store.instance) == {}
    assert images.unused_layers(store.instance) == []
    assert servers.sweep(store.instance) == [str(making[0])]
    store.holds_nothing()
    assert servers.sweep(store.instance) == []


def test_an_import_that_is_interrupted_ends_its_worker_and_leaves_nothing(store: Store) -> None:
    source = tar(archive(store.folder / "image.tar", *(member(f"f{n}", b"x") for n in range(2_000))))
    resolved = images.resolve(source)

    def interrupt(text: str) -> None:
        assert text.startswith("unpacked ")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        images.import_image(store.instance, "base", source, resolved, store.owner, interrupt)
    assert workers(store.instance.root) == []
    store.holds_nothing()


# ---- the host's own image


def test_the_host_image_runs_the_hosts_programs_and_knows_none_of_its_secrets(store: Store) -> None:
    record = store.imported(Source(host=HostSource()), "host")
    layer = store.layer(record)
    assert record.binds[0] == images.Bind("/usr", "/usr")
    assert not (layer / "etc/shadow").exists()
    assert os.listdir(layer / "usr") == os.listdir(layer / "home") == os.listdir(layer / "root") == []
    assert (layer / "etc/resolv.conf").read_bytes() == (layer / "etc/hostname").read_bytes() == b""
    owners = {(os.lstat(path).st_uid, os.lstat(path).st_gid) for path in layer.rglob("*")}
    assert owners == {(0, 0)}
    for line in (layer / "etc/passwd").read_text().splitlines():
        name, password, number, *_ = line.split(":")
        assert password == "*", name
        assert int(number) < 1000 or name == "nobody"
    host = socket.gethostname()
    binds = " ".join(f"mount --bind {bind.source} {layer}{bind.target};" for bind in record.binds)
    inside = f"exec chroot {layer} /bin/sh -lc 'id -un; id -gn nobody; echo $PATH'"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", f"{binds} {inside}"], capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [
        "root",
        "nogroup",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]
    if host != "localhost":
        assert host not in (layer / "etc/hosts").read_text()


def test_the_digest_of_the_host_image_stays_while_the_recipe_stays(store: Store) -> None:
    plain = images.resolve(Source(host=HostSource()))
    assert images.resolve(Source(host=HostSource(paths=("/usr/local",)))) == plain
    (store.folder / "shared").mkdir()
    more = images.resolve(Source(host=HostSource(paths=(str(store.folder / "shared"),))))
    assert more.digest != plain.digest


def test_a_path_of_the_host_becomes_a_bind_with_its_place_made_ready(store: Store) -> None:
    for name in ("shared/a", "shared/b"):
        (store.folder / name).mkdir(parents=True)
    paths = (str(store.folder / "shared/b"), f"{store.folder}/shared/", str(store.folder / "shared/b"))
    record = store.imported(Source(host=HostSource(paths=paths)))
    wanted = [str(store.folder / "shared"), str(store.folder / "shared/b")]
    assert [bind.source for bind in record.binds][-2:] == wanted
    assert [bind.target for bind in record.binds][-2:] == wanted
    assert (store.layer(record) / wanted[1][1:]).is_dir()


def test_the_state_root_is_never_shared_with_servers(store: Store) -> None:
    os.makedirs(store.instance.root)
    for path in (Path(store.instance.root).parent, store.instance.root):
        with pytest.raises(ImageError, match="which holds the images and all servers"):
            store.imported(Source(host=HostSource(paths=(str(path),))))
    store.holds_nothing()


def test_an_import_without_a_free_descriptor_fails_cleanly(store: Store) -> None:
    source = tar(archive(store.folder / "image.tar", member("x")))
    resolved = images.resolve(source)
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    failures = 0
    for spare in range(9):
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
        filling = []
        with contextlib.suppress(OSError):
            while True:
                filling.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(spare):
            os.close(filling.pop())
        try:
            images.import_image(store.instance, "base", source, resolved, store.owner, store.told.append)
        except FailedError as error:
            assert "Too many open files" in str(error)
            failures += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
            for fd in filling:
                os.close(fd)
        servers.sweep(store.instance)
        assert (
            images.observe(store.instance).get("base") is None
            or images.observe(store.instance)["base"].problem == ""
        )
        images.remove_image(store.instance, "base")
        images.remove_layer(store.instance, resolved.digest)
        store.holds_nothing()
    assert 3 <= failures <= 8
