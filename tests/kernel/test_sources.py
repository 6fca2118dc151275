"""Sources that lie on the host, and what they are now: what is kept of them, what is refused."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.archives import NET_RAW, archive, member, packed
from tests.kernel.stores import MIB, Store, directory, tar
from tests.trees import listing
from vsprov.errors import ImageError
from vsprov.model.kinds.image import ImageLimits
from vsprov.model.sources import HostSource, Source
from vsprov.store.disk import durable
from vsprov.store.sources import Resolved


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
    layer = store.layer()
    assert listing(layer) == listing(tree)
    assert "trusted.other" not in os.listxattr(layer / "bin/ping")
    assert (layer / "sparse").stat().st_blocks * 512 < 8 * MIB
    assert store.resolve(directory(layer)).digest == record.digest


def test_the_same_files_have_the_same_digest_and_any_difference_another(store: Store) -> None:
    def tree(name: str) -> Path:
        top = store.folder / name
        (top / "etc").mkdir(parents=True)
        (top / "etc/a").write_text("a")
        (top / "etc/b").write_text("b")
        return top

    first = store.resolve(directory(tree("one"))).digest
    time.sleep(0.02)
    assert store.resolve(directory(tree("two"))).digest == first
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
        digests.add(store.resolve(directory(top)).digest)
    assert len(digests) == 1 + len(changes)


@pytest.mark.parametrize("hostile", [member("../e"), member("d/e", b"x"), member("a", uid=65536)])
def test_an_archive_that_is_refused_half_way_leaves_nothing(
    store: Store, hostile: tuple[tarfile.TarInfo, bytes]
) -> None:
    said = store.refusal(packed(member("d", b"harmless"), hostile))
    assert said.startswith(("image.tar: '", "image.tar: unpack: 'd/e'"))


def test_an_archive_of_an_image_is_no_root_file_system(store: Store) -> None:
    """Neither that of `docker save` and `podman save`, old and new, nor an OCI layout."""
    layer = f"{'0a' * 32}/layer.tar"
    old = (member("manifest.json", b"[]"), member("repositories", b"{}"), member(layer, b"x"))
    new = (member("manifest.json", b"[]"), member("oci-layout", b"{}"), member("blobs/sha256/0a", b"x"))
    for members in (old, new, (member("index.json", b"{}"), *new[1:])):
        said = store.refusal(packed(*members))
        assert said == "image.tar: an archive of an image, not of a root file system"
    path = archive(store.folder / "image.tar", *old, member("app", b"x"))
    store.imported(tar(path))


def test_an_archive_with_another_digest_than_the_manifest_means_is_refused_before_it_is_opened(
    store: Store,
) -> None:
    path = archive(store.folder / "image.tar", member("../e"))
    wanted = "0" * 64
    with pytest.raises(ImageError) as refused:
        store.resolve(tar(path, wanted))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert str(refused.value) == f"{path}: expected sha256 {wanted}, got {digest}"
    assert store.resolve(tar(path, digest.upper())).digest == digest


def test_a_source_that_changes_after_it_was_looked_at_is_refused(store: Store) -> None:
    path = archive(store.folder / "image.tar", member("x", b"1"))
    tree = store.folder / "tree"
    tree.mkdir()
    for source, change in (
        (tar(path), lambda: archive(path, member("x", b"2"))),
        (directory(tree), lambda: (tree / "new").write_text("x")),
    ):
        resolved = store.resolve(source)
        change()
        with pytest.raises(ImageError, match=r"changed (after it was checked|while it was being copied)"):
            store.take(source, resolved)
        store.holds_nothing()


def test_a_directory_with_what_no_image_may_hold_is_refused(store: Store) -> None:
    def tree(name: str) -> Path:
        (store.folder / name / "etc").mkdir(parents=True)
        return store.folder / name

    (tree("ids") / "x").write_text("x")
    os.chown(store.folder / "ids/x", 65536, 0)
    (tree("wh") / ".wh.x").write_text("x")
    os.setxattr(tree("upper") / "etc", "trusted.overlay.opaque", b"y")
    (store.folder / "link").symlink_to(tree("real"))
    (store.folder / "file").write_text("x")
    for name, said in {
        "ids": "ids: 'x': belongs to 65536:0; the highest id in a server is 65535",
        "wh": "wh: '.wh.x': is a whiteout, which only a layer on top of another may contain",
        "upper": "upper: 'etc': trusted.overlay.opaque: belongs to the upper layer of an overlay",
        "link": f"link: it is a symbolic link to {store.folder}/real",
        "link/": f"link: it is a symbolic link to {store.folder}/real",
        "file": "file: open as a directory: Not a directory",
        "none": "none: open as a directory: No such file or directory",
    }.items():
        with pytest.raises(ImageError) as refused:
            store.resolve(Source(directory=f"{store.folder}/{name}"))
        assert str(refused.value) == f"{store.folder}/{said}"
    store.limits = ImageLimits(files=2)
    (tree("many") / "x").write_text("x")
    with pytest.raises(ImageError, match="'x': is entry number 3; at most 2 are allowed"):
        store.resolve(directory(store.folder / "many"))


def test_a_directory_is_taken_without_its_devices_fifos_and_sockets(store: Store) -> None:
    tree = store.folder / "tree"
    (tree / "dev").mkdir(parents=True)
    (tree / "file").write_text("x")
    plain = store.resolve(directory(tree)).digest
    os.mkfifo(tree / "dev/initctl")
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "sda", stat.S_IFBLK | 0o600, os.makedev(8, 0))
    os.mknod(tree / "whiteout", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tree / "s\x1b"))
    resolved = store.resolve(directory(tree))
    assert resolved.digest == plain
    (note,) = store.take(directory(tree), resolved)
    assert note == (
        "left out, because images keep no devices, FIFOs and sockets: 'fifo' (a FIFO), "
        "'s\\x1b' (a socket), 'sda' (a block device) and 'whiteout' (a character device)"
    )
    assert sorted(listing(store.layer())) == [".", "dev", "file"]


def test_a_directory_with_a_mount_in_it_is_refused(store: Store) -> None:
    point = store.folder / "tree/proc"
    point.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", store.instance.name, point], check=True)
    try:
        with pytest.raises(ImageError, match="'proc': is on another file system: something is mounted there"):
            store.resolve(directory(store.folder / "tree"))
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
    with pytest.raises(ImageError, match="lies too deep: at most 256 levels and 4095 bytes are allowed"):
        store.resolve(directory(store.folder / "d"))
    durable.remove_tree(f"{store.folder}/d")


def test_the_folder_of_the_images_cannot_be_an_image(store: Store) -> None:
    os.makedirs(store.instance.root)
    source = directory(Path(store.instance.root).parent)
    with pytest.raises(ImageError, match="the state root of this instance"):
        store.imported(source)
    store.holds_nothing()


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
    again = store.resolve(source, store.record())
    second = bytes_read()
    assert first - start >= 8 * MIB
    assert second - first < 64 * 1024
    assert again == Resolved(record.digest, record.fingerprint)
    changed = path if kind == "tar" else tree / "big"
    with open(changed, "r+b") as file:
        file.seek(2 * MIB)
        file.write(b"changed")
    os.utime(changed, ns=(0, os.stat(changed).st_mtime_ns))
    assert store.resolve(source, record).digest != record.digest


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
        store.resolve(source)
    assert listing() == before
    assert not os.path.exists(store.instance.root)
