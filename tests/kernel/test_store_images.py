"""Importing images on a real file system: what is kept, what is refused; a failure leaves nothing."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import lzma
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
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.archives import NET_RAW, archive, folder, hard, link, member, packed
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


def test_an_archive_is_unpacked_with_owners_modes_times_capabilities_and_hard_links(store: Store) -> None:
    when = {"mtime": "1700000000.123456789"}
    layer = store.unpacked(
        folder("./", mode=0o711, uid=7, gid=8, pax_headers={"mtime": "1600000000.5"}),
        folder("bin", mode=0o755, pax_headers=when),
        member("bin/su", b"su", mode=0o4755, uid=0, gid=0, pax_headers=when),
        member("bin/wall", b"wall", mode=0o2755, gid=5),
        member("bin/ping", b"ping", mode=0o755, uid=12, gid=34, pax_headers={
            "SCHILY.xattr.security.capability": NET_RAW.decode("utf-8", "surrogateescape"),
            "SCHILY.xattr.user.note": "é\0x",
        }),
        hard("bin/ping6", "bin/ping"),
        hard("bin/ping", "bin/ping"),
        link("sh", "bin/su", uid=3, gid=4),
        folder("tmp", mode=0o1777),
        folder("closed", mode=0),
        member("closed/file", b"x", mode=0, uid=65535, gid=65535),
        member("deep/er/file", b"made without its parents"),
        member("odd\udcff\n name", b"odd"),
    )  # fmt: skip

    def seen(name: str) -> tuple[int, int, int]:
        status = os.lstat(layer / name)
        return status.st_mode, status.st_uid, status.st_gid

    assert {
        name: seen(name)
        for name in (
            "",
            "bin",
            "bin/su",
            "bin/wall",
            "bin/ping",
            "sh",
            "tmp",
            "closed",
            "closed/file",
            "deep",
        )
    } == {
        "": (stat.S_IFDIR | 0o711, 7, 8),
        "bin": (stat.S_IFDIR | 0o755, 0, 0),
        "bin/su": (stat.S_IFREG | 0o4755, 0, 0),
        "bin/wall": (stat.S_IFREG | 0o2755, 0, 5),
        "bin/ping": (stat.S_IFREG | 0o755, 12, 34),
        "sh": (stat.S_IFLNK | 0o777, 3, 4),
        "tmp": (stat.S_IFDIR | 0o1777, 0, 0),
        "closed": (stat.S_IFDIR, 0, 0),
        "closed/file": (stat.S_IFREG, 65535, 65535),
        "deep": (stat.S_IFDIR | 0o755, 0, 0),
    }
    assert os.lstat(layer).st_mtime_ns == 1600000000_500000000
    assert (
        os.lstat(layer / "bin").st_mtime_ns == os.lstat(layer / "bin/su").st_mtime_ns == 1700000000_123456789
    )
    assert os.getxattr(layer / "bin/ping", "security.capability") == NET_RAW
    assert os.getxattr(layer / "bin/ping", "user.note") == "é\0x".encode()
    assert os.lstat(layer / "bin/ping").st_nlink == 2
    assert os.path.samefile(layer / "bin/ping", layer / "bin/ping6")
    assert os.readlink(layer / "sh") == "bin/su"
    assert (layer / "deep/er/file").read_text() == "made without its parents"
    assert (layer / "odd\udcff\n name").read_text() == "odd"


@pytest.mark.parametrize(
    "compress",
    [
        bytes, gzip.compress, lzma.compress, bz2.compress, zstandard.compress,
        lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]),
        lambda data: zstandard.compress(data[:1000]) + zstandard.compress(data[1000:]),
    ],
    ids=["plain", "gz", "xz", "bz2", "zst", "gz in two", "zst in two"],
)  # fmt: skip
def test_the_compression_is_told_by_the_content_whatever_the_name(
    store: Store, compress: Callable[[bytes], bytes]
) -> None:
    path = store.folder / "base.zip"
    path.write_bytes(compress(packed(member("file", bytes(range(256)) * 20_000))))
    record = store.imported(tar(path))
    assert (store.layer(record) / "file").read_bytes() == bytes(range(256)) * 20_000
    assert record.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_tar_itself_packs_with_holes_unpacks_with_holes(store: Store) -> None:
    tree = store.folder / "tree"
    tree.mkdir()
    with open(tree / "sparse", "wb") as file:
        for at in (0, 3 * MIB, 7 * MIB):
            file.seek(at)
            file.write(b"data")
        file.truncate(20 * MIB)
    for options in (["--format=gnu"], ["--format=pax"], ["--format=pax", "--sparse-version=0.1"]):
        subprocess.run(
            ["tar", "-C", tree, "--sparse", *options, "-cf", store.folder / "s.tar", "."], check=True
        )
        assert (store.folder / "s.tar").stat().st_size < MIB
        layer = store.layer(store.imported(tar(store.folder / "s.tar")))
        assert (layer / "sparse").read_bytes() == (tree / "sparse").read_bytes()
        assert (layer / "sparse").stat().st_blocks * 512 < 8 * MIB


def test_a_later_member_replaces_an_earlier_one_of_its_name(store: Store) -> None:
    layer = store.unpacked(
        member("a", b"old"), member("a", b"new"), link("b", "a"), member("b", b"file"),
        folder("c"), link("c", "a"),
        link("d", "/tmp"), folder("d"), member("d/e", b"inside"), member("f", b"x"), folder("f"),
    )  # fmt: skip
    assert (layer / "a").read_bytes() == b"new"
    assert not (layer / "b").is_symlink()
    assert (layer / "b").read_bytes() == b"file"
    assert os.readlink(layer / "c") == "a"
    assert (layer / "d").is_dir()
    assert not (layer / "d").is_symlink()
    assert (layer / "f").is_dir()


def test_an_archive_that_debian_tools_make_of_a_real_tree_comes_back_the_same(store: Store) -> None:
    path = store.folder / "doc.tar.gz"
    subprocess.run(["tar", "-C", "/usr/share", "-czf", path, "perl", "base-files"], check=True)
    layer = store.layer(store.imported(tar(path)))
    for name in ("perl", "base-files"):
        subprocess.run(["diff", "-r", "--no-dereference", f"/usr/share/{name}", layer / name], check=True)


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

REFUSED_MEMBERS = [
    ([member("../e")], "'../e': '../e' leads out of the archive"),
    ([member("/e")], "'/e': '/e' leads out of the archive"),
    ([member("a/../../e")], "'a/../../e': 'a/../../e' leads out of the archive"),
    ([folder("../")], "'..': '..' leads out of the archive"),
    ([hard("h", "../../../../etc/hostname")], "'h': '../../../../etc/hostname' leads out of the archive"),
    ([hard("h", "/etc/hostname")], "'h': '/etc/hostname' leads out of the archive"),
    ([link("d", "/etc"), hard("h", "d/hostname")], "unpack: 'h': No such file or directory"),
    ([link("d", "../../../../../../etc"), hard("h", "d/hostname")], "unpack: 'h': No such file or directory"),
    ([member("dev/sda", type=tarfile.BLKTYPE, devmajor=8)],
     "'dev/sda': is a block device, which no image may hold"),
    ([member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
     "'null': is a character device, which no image may hold"),
    ([member("gone", type=tarfile.CHRTYPE)], "'gone': is a character device, which no image may hold"),
    ([member("etc/passwd", type=tarfile.FIFOTYPE)], "'etc/passwd': is a FIFO, which no image may hold"),
    ([member("x", type=b"V")], "'x': is of the unknown kind b'V'"),
    ([member(".wh.etc")], "'.wh.etc': is a whiteout, which only a layer over another may hold"),
    ([member("a/.wh..wh..opq")], "'a/.wh..wh..opq': is a whiteout, which only a layer over another may hold"),
    ([member("x", uid=65536)], "'x': belongs to 65536:0; a server's ids end at 65535"),
    ([folder("x", gid=4294967295)], "'x': belongs to 0:4294967295; a server's ids end at 65535"),
    ([member("x", pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"})],
     "'x': trusted.overlay.opaque: it is the upper layer of an overlay"),
    ([folder("x", pax_headers={"SCHILY.xattr.user.overlay.opaque": "y"})],
     "'x': user.overlay.opaque: it is the upper layer of an overlay"),
    ([member(".", b"x")], "'.': the top of the archive is no directory"),
    ([folder("d"), member("d/e"), member("d", b"file")], "unpack: 'd': Directory not empty"),
    ([member("f"), member("f/e")], "unpack: 'f/e': Not a directory"),
    ([member("a" * 256)], f"unpack: {'a' * 256!r}: File name too long"),
    ([member("a\0b", pax_headers={"path": "a\0b"})], "'a\\x00b': 'a\\x00b' leads out of the archive"),
    ([member("/".join(["d"] * 3000))],
     f"{'d/' * 30!r}…: lies too deep: 256 levels and 4095 bytes are the most"),
]  # fmt: skip


@pytest.mark.parametrize(("members", "said"), REFUSED_MEMBERS, ids=[said[:50] for _, said in REFUSED_MEMBERS])
def test_a_hostile_member_is_named_and_nothing_is_left(
    store: Store, members: list[tuple[tarfile.TarInfo, bytes]], said: str
) -> None:
    before = sorted(os.listdir(store.folder))
    assert store.refusal(packed(member("first", b"harmless"), *members)) == f"image.tar: {said}"
    assert sorted(os.listdir(store.folder)) == sorted([*before, "image.tar"])
    assert not Path("/e").exists()


def test_writing_through_a_symbolic_link_of_the_archive_stays_inside(store: Store) -> None:
    outside = store.folder / "outside"
    outside.mkdir()
    inside = str(outside).lstrip("/")
    layer = store.unpacked(
        member(f"{inside}/made", b""), link("absolute", str(outside)), link("relative", "../" * 30 + inside),
        member("absolute/one", b"1"), member("relative/two", b"2"), folder("absolute/three", mode=0o700),
        link("file", f"{outside}/four"), member("file", b"4"),
    )  # fmt: skip
    assert os.listdir(outside) == []
    assert sorted(os.listdir(layer / inside)) == ["made", "one", "three", "two"]
    assert (layer / "file").read_bytes() == b"4"


def test_extended_attributes_that_could_mean_something_to_the_host_are_left_out(store: Store) -> None:
    layer = store.unpacked(
        member("x", pax_headers={
            "SCHILY.xattr.trusted.vsprov.owner": f"{store.instance.name}/default",
            "SCHILY.xattr.security.ima": "x",
            "SCHILY.xattr.security.selinux": "x", "SCHILY.xattr.system.posix_acl_access": "x",
        }),
        link("l", "x", pax_headers={"SCHILY.xattr.user.note": "x"}),
    )  # fmt: skip
    assert marks.read_owner(str(layer / "x")) is None
    assert [name for name in os.listxattr(layer / "x") if name != "security.selinux"] == []


def test_a_bomb_stops_at_the_limit_and_is_removed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, bytes=MIB, entries=50)
    for bomb in (
        gzip.compress(packed(member("zeros", bytes(4 * MIB)))),
        zstandard.compress(packed(member("z", bytes(4 * MIB)))),
    ):
        assert store.refusal(bomb).endswith("makes the image larger than 1048576 bytes")
    endless = packed(member("x", b"x")) + bytes(4 * MIB)
    assert store.refusal(gzip.compress(endless)) == "image.tar: it unpacks to more than 1048576 bytes"
    assert (
        store.refusal(packed(*(member(f"f{n}") for n in range(51))))
        == "image.tar: it holds more than 50 files"
    )


def test_a_sparse_file_counts_with_its_holes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, bytes=MIB)
    with open(store.folder / "big", "wb") as file:
        file.truncate(1 << 40)
    path = store.folder / "image.tar"
    subprocess.run(["tar", "-C", store.folder, "--sparse", "-cf", path, "big"], check=True)
    assert store.refusal(path.read_bytes()) == "image.tar: 'big': makes the image larger than 1048576 bytes"


def test_headers_that_would_fill_the_memory_are_refused_unread(store: Store) -> None:
    header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
    for kind in (b"x", b"g", b"L", b"K"):
        header[156:157] = kind
        header[124:136] = b"%011o\0" % (5 << 30)
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
        bomb = gzip.compress(bytes(header) + bytes(8 * MIB))
        assert store.refusal(bomb) == "image.tar: 'x': has a header of 5368709120 bytes; 1048576 are the most"


def test_sizes_below_zero_are_refused(store: Store) -> None:
    for name in (b"\xff" * 12, b"\xff" * 11 + b"\0"):
        header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
        header[124:136] = name
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
        assert "image.tar: " in store.refusal(bytes(header) * 2 + bytes(1024))


def test_an_archive_that_asks_for_more_memory_than_it_gets_is_refused(store: Store) -> None:
    frame = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([(30 - 10) << 3]) + b"\x01\x00\x00"  # a window of 1 GiB
    assert "memory" in store.refusal(frame)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress, bz2.compress, zstandard.compress])
def test_an_archive_cut_short_anywhere_is_refused(store: Store, compress: Callable[[bytes], bytes]) -> None:
    plain = packed(*(member(f"file{n}", os.urandom(700)) for n in range(8)))
    body = plain.rstrip(b"\0")
    whole = compress(plain)
    end = len(body) // 512 * 512 + 512 if compress is bytes else len(whole) - 1
    for cut in (
        0,
        1,
        100,
        512,
        513,
        1024,
        1536,
        2048,
        end // 2,
        end - 512 if compress is bytes else end - 8,
        end,
    ):
        said = store.refusal(whole[:cut])
        assert "it is cut short" in said or "it is damaged" in said


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(store: Store) -> None:
    whole = bytearray(packed(member("a", b"a"), member("b", b"b"), member("c", b"c")))
    whole[1024 + 10] ^= 1
    assert (
        store.refusal(bytes(whole))
        == "image.tar: it is cut short or damaged: the end of the archive is missing"
    )


def test_what_is_no_archive_at_all_is_refused(store: Store) -> None:
    for data in (
        b"",
        b"hello",
        os.urandom(5000),
        b"\x1f\x8b",
        gzip.compress(b"hello" * 500),
        b"PK\x03\x04" + bytes(600),
        bytes(100),
    ):
        assert store.refusal(data).startswith("image.tar: it is ")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_an_archive_with_changed_bytes_is_imported_or_refused_but_never_a_crash(
    store: Store, data: st.DataObject
) -> None:
    whole = bytearray(packed(
        folder("d"), member("d/a", b"a" * 600, pax_headers={"mtime": "1.5", "SCHILY.xattr.user.x": "y"}),
        link("l", "d/a"), hard("h", "d/a"),
    ))  # fmt: skip
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    fixed = data.draw(st.booleans())
    for at in range(0, len(whole) if fixed else 0, 512):
        if any(whole[at : at + 512]):
            head = whole[at : at + 512]
            whole[at + 148 : at + 156] = b"%06o\0 " % (sum(head[:148]) + 8 * 32 + sum(head[156:]))
    path = store.folder / "image.tar"
    path.write_bytes(whole)
    try:
        store.imported(tar(path))
    except ImageError as error:
        assert "gave no reason" not in str(error)
    assert not [name for name in os.listdir(store.instance.layers) if not name.isalnum()]


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
        if any(word.endswith(b"unpack.py") for word in words) and any(
            os.fsencode(root) in word for word in words
        ):
            found.append(int(entry.name))
    return found


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a process still: what it has open does not change meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        while ") T " not in Path(f"/proc/{pid}/stat").read_text():
            time.sleep(0.001)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


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


def test_an_import_that_is_interrupted_ends_its_worker_and_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "PACE", 0.0)
    source = tar(archive(store.folder / "image.tar", *(member(f"f{n}", b"x") for n in range(2_000))))
    resolved = images.resolve(source)

    def interrupt(text: str) -> None:
        assert text.startswith("unpacked ")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        images.import_image(store.instance, "base", source, resolved, store.owner, interrupt)
    assert workers(store.instance.root) == []
    store.holds_nothing()


def test_the_worker_has_no_way_out_and_few_capabilities(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "PACE", 0.0)
    path = archive(store.folder / "image.tar", *(member(f"f{n}", b"x") for n in range(20_000)))
    source = tar(path)
    seen: dict[str, Any] = {}

    def look(_: str) -> None:
        if seen:
            return
        (pid,) = workers(store.instance.root)
        with stopped(pid):
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            seen["root"] = os.readlink(f"/proc/{pid}/root")
            seen["open"] = sorted(
                os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd") if fd not in "12"
            )
        seen["caps"] = status["CapEff"].strip(), status["CapPrm"].strip(), status["NoNewPrivs"].strip()

    resolved = images.resolve(source)
    images.import_image(store.instance, "base", source, resolved, store.owner, look)
    assert seen["root"] == f"{store.instance.layers}/.making-{resolved.digest}"
    assert [name for name in seen["open"] if not name.startswith(seen["root"])] == [str(path)]
    wanted = sum(1 << number for number in (0, 1, 3, 4, 31))
    assert seen["caps"] == (f"{wanted:016x}", f"{wanted:016x}", "1")


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
