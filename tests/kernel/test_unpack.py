"""Unpacking archives: all that makes an image is kept, whatever program packed it and however."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import stat
import subprocess
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from tests.archives import NET_RAW, archive, folder, hard, link, member, packed
from tests.kernel.stacks import MIB, Box
from tests.leaks import children
from tests.trees import listing
from vsprov.store.layers.unpacking import unpack
from vsprov.store.unpack.stream import AHEAD, PIECE


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_an_archive_is_unpacked_with_owners_modes_times_capabilities_and_hard_links(box: Box) -> None:
    when = {"mtime": "1700000000.123456789"}
    layer = box.unpacked(
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
        lambda data: gzip.compress(data[:1000]) + bytes(700) + gzip.compress(data[1000:]) + bytes(9),
        lambda data: b"".join(gzip.compress(data[at : at + 5000]) for at in range(0, len(data), 5000)),
        lambda data: lzma.compress(data[:1000]) + bytes(8) + lzma.compress(data[1000:]) + bytes(300_000),
        lambda data: bz2.compress(data[:1000]) + bz2.compress(data[1000:]) + bytes(9),
        lambda data: b"\x53\x2a\x4d\x18\3\0\0\0abc" + zstandard.compress(data) + b"\x50\x2a\x4d\x18\0\0\0\0",
    ],
    ids=[
        *("plain", "gz", "xz", "bz2", "zst", "gz in two", "zst in two"),
        *("gz with gaps", "gz in a thousand", "xz with gaps", "bz2 with padding", "zst with frames to skip"),
    ],
)  # fmt: skip
def test_the_compression_is_told_by_the_content_whatever_the_name(
    box: Box, compress: Callable[[bytes], bytes]
) -> None:
    path = box.folder / "base.zip"
    plain = packed(member("file", bytes(range(256)) * 20_000))
    path.write_bytes(compress(plain))
    tree, found = box.opened(path)
    assert (tree / "file").read_bytes() == bytes(range(256)) * 20_000
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.diff_id == hashlib.sha256(plain).hexdigest()


@pytest.mark.parametrize("whole", [True, False], ids=["image", "layer"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gz", "zst"])
def test_what_follows_the_end_mark_belongs_to_the_sums_however_long_it_is(
    box: Box, compress: Callable[[bytes], bytes], whole: bool
) -> None:
    """GNU tar pads to whole records, which `tar -b` makes as long as one likes; more than is read ahead."""
    path = box.folder / "base.tar"
    plain = packed(member("file", b"content")) + bytes((AHEAD + 4) * PIECE)
    path.write_bytes(compress(plain))
    tree, found = box.opened(path, whole=whole)
    assert (tree / "file").read_bytes() == b"content"
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.diff_id == hashlib.sha256(plain).hexdigest()


def test_what_tar_itself_packs_with_holes_unpacks_with_holes(box: Box) -> None:
    tree = box.folder / "tree"
    tree.mkdir()
    with open(tree / "sparse", "wb") as file:
        for at in (0, 3 * MIB, 7 * MIB):
            file.seek(at)
            file.write(b"data")
        file.truncate(20 * MIB)
    for options in (
        ["--format=gnu"],
        ["--format=pax"],
        ["--format=pax", "--sparse-version=0.1"],
        ["--format=pax", "--sparse-version=0.0"],
    ):
        subprocess.run(
            ["tar", "-C", tree, "--sparse", *options, "-cf", box.folder / "s.tar", "."], check=True
        )
        assert (box.folder / "s.tar").stat().st_size < MIB
        layer, _ = box.opened(box.folder / "s.tar")
        assert (layer / "sparse").read_bytes() == (tree / "sparse").read_bytes()
        assert (layer / "sparse").stat().st_blocks * 512 < 8 * MIB


def test_a_later_member_replaces_an_earlier_one_of_its_name(box: Box) -> None:
    layer = box.unpacked(
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


def test_a_file_replaces_a_directory_with_all_that_was_in_it(box: Box) -> None:
    tree = box.unpacked(
        folder("d", mtime=5), member("d/e/f", b"old"), member("d", b"file", mtime=7), member("x", b"x"),
        folder("c", mtime=8), link("c/up", ".."), member("c/up/c/deep", b""), link("c", "x", mtime=9),
    )  # fmt: skip
    assert sorted(os.listdir(tree)) == ["c", "d", "x"]
    assert ((tree / "d").read_bytes(), (tree / "d").stat().st_mtime) == (b"file", 7)
    assert (os.readlink(tree / "c"), os.lstat(tree / "c").st_mtime) == ("x", 9)


def test_an_archive_that_debian_tools_make_of_a_real_tree_comes_back_the_same(box: Box) -> None:
    path = box.folder / "doc.tar.gz"
    subprocess.run(["tar", "-C", "/usr/share", "-czf", path, "perl", "base-files"], check=True)
    layer, _ = box.opened(path)
    for name in ("perl", "base-files"):
        subprocess.run(["diff", "-r", "--no-dereference", f"/usr/share/{name}", layer / name], check=True)


def test_attributes_come_back_under_the_names_that_tar_writes(box: Box) -> None:
    """tar(1) quotes = and %, because the key of a record ends at its first =."""
    (box.folder / "tree").mkdir()
    names = ("user.plain", "user.a=b=c", "user.a%3Db", "user.100%")
    for name in names:
        os.setxattr(box.folder / "tree", name, name.encode())
    for more in ((), ("--sparse", "--pax-option=comment=x")):
        (box.folder / "tree/sparse").write_bytes(b"x")
        os.truncate(box.folder / "tree/sparse", MIB)
        os.setxattr(box.folder / "tree/sparse", "user.a=b", b"=")
        command = [
            "tar",
            "--xattrs",
            "--format=pax",
            *more,
            "-C",
            box.folder / "tree",
            "-cf",
            box.folder / "x.tar",
            ".",
        ]
        subprocess.run(command, check=True)
        tree, _ = box.opened(box.folder / "x.tar")
        assert {name: os.getxattr(tree, name) for name in os.listxattr(tree)} == {
            name: name.encode() for name in names
        }
        assert os.listxattr(tree / "sparse") == ["user.a=b"]


def test_the_same_archive_makes_the_same_tree_at_any_time(box: Box) -> None:
    first = listing(box.unpacked(member("a/b/c", b"no directory is in the archive", mtime=9)))
    assert {name: found.modified for name, found in first.items()} == {
        ".": 0, "a": 0, "a/b": 0, "a/b/c": 9 * 10**9
    }  # fmt: skip
    os.chmod(box.folder, 0o2777)  # what the next is made in
    os.chown(box.folder, 5, 5)
    assert listing(box.unpacked(member("a/b/c", b"no directory is in the archive", mtime=9))) == first


def test_owners_and_modes_are_what_the_archive_says_below_a_setgid_directory(box: Box) -> None:
    tree = box.unpacked(
        folder("log", mode=0o2755, gid=7), member("log/file"), folder("log/d"), link("log/l", "x"),
        member("log/more/file"),
    )  # fmt: skip
    seen = {name: (found.mode & 0o7777, found.owner) for name, found in listing(tree).items()}
    assert seen == {
        ".": (0o755, (0, 0)), "log": (0o2755, (0, 7)), "log/d": (0o755, (0, 0)), "log/l": (0o777, (0, 0)),
        "log/file": (0o644, (0, 0)), "log/more": (0o755, (0, 0)), "log/more/file": (0o644, (0, 0)),
    }  # fmt: skip


@pytest.mark.parametrize("format", ["v7", "oldgnu", "gnu", "ustar", "pax"])
def test_every_dialect_of_tar_comes_back_the_same(box: Box, format: str) -> None:
    tree = box.folder / "tree"
    longest = {"v7": 40, "ustar": 90}.get(format, 255)  # bytes of a name that it can hold
    long = "n" * longest
    (tree / "d" / long).mkdir(parents=True)
    for name in ("odd\n\udcff\\", f"d/{long}/{long}"):
        (tree / name).write_text(name, errors="surrogateescape")
    os.symlink(long, tree / "link")
    os.link(tree / "odd\n\udcff\\", tree / "second name")
    os.chown(tree / "d", 65535, 65534)
    os.chmod(tree / "d", 0o1777)
    for name in os.listdir(tree):
        os.utime(tree / name, ns=(0, 1_600_000_000_000_000_000), follow_symlinks=False)
    os.utime(tree, ns=(0, 1_500_000_000_000_000_000))
    for where, folders, files in os.walk(tree / "d", topdown=False):
        for name in (*folders, *files, "."):
            os.utime(os.path.join(where, name), ns=(0, 1_400_000_000_000_000_000))
    path = box.folder / "image.tar"
    subprocess.run(["tar", "-C", tree, f"--format={format}", "--numeric-owner", "-cf", path, "."], check=True)
    assert listing(box.opened(path)[0]) == listing(tree)


def test_headers_that_hold_for_all_that_follow_are_heeded(box: Box) -> None:
    path = box.folder / "image.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"mtime": "1234567890.5"}) as tar:
        for name in ("a", "b"):
            tar.addfile(member(name)[0])
    tree, _ = box.opened(path)
    assert [os.stat(tree / name).st_mtime_ns for name in ("a", "b")] == [1234567890_500000000] * 2


def test_the_nodes_that_every_dev_has_are_left_out(box: Box) -> None:
    def node(name: str, major: int, minor: int) -> tuple[tarfile.TarInfo, bytes]:
        return member(name, type=tarfile.CHRTYPE, devmajor=major, devminor=minor)

    tree = box.unpacked(
        folder("./"), folder("./dev"), node("./dev/null", 1, 3), node("./dev/zero", 1, 5),
        node("dev/full", 1, 7), node("dev/random", 1, 8), node("dev/urandom", 1, 9), node("dev/tty", 5, 0),
        node("dev/console", 5, 1), node("dev/ptmx", 5, 2), link("dev/fd", "/proc/self/fd"),
    )  # fmt: skip
    assert os.listdir(tree / "dev") == ["fd"]


def test_devices_and_fifos_are_left_out_and_told_unless_they_are_below_dev(box: Box) -> None:
    """Images of others hold them: moby/moby#41803, apptainer/singularity#5128."""
    path = archive(
        box.folder / "image.tar",
        member("dev/loop0", type=tarfile.BLKTYPE, devmajor=7),
        hard("dev/loop1", "dev/loop0"),
        member("dev/initctl", type=tarfile.FIFOTYPE),
        member("var/pipe\x1b", type=tarfile.FIFOTYPE, uid=70000),
        hard("var/again", "var/pipe\x1b"),
        member("later", type=tarfile.FIFOTYPE), member("later", b"a file"),
        member("sooner", b"a file"), member("sooner", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        *(member(f"more/{number}", type=tarfile.BLKTYPE, devmajor=8) for number in range(9)),
    )  # fmt: skip
    tree, found = box.opened(path)
    assert {name: each.content for name, each in listing(tree).items() if name != "."} == {"later": b"a file"}
    assert found.note == (
        "left out, because images keep no devices, FIFOs and sockets: 'var/pipe\\x1b' (a FIFO), "
        "'var/again' (a FIFO), 'sooner' (a character device), 'more/0' (a block device), "
        "'more/1' (a block device) and 7 more"
    )


def test_an_archive_may_come_through_a_pipe_and_goes_on_after_its_end(box: Box) -> None:
    data = packed(member("big", bytes(3 * MIB))) + b"what follows belongs to the digest"
    told: list[tuple[str, int, int]] = []
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        assert cat.stdin is not None and cat.stdout is not None
        writer = threading.Thread(target=lambda: (cat.stdin.write(data), cat.stdin.close()))
        writer.start()
        (box.folder / "tree").mkdir()
        found = unpack(
            cat.stdout.fileno(), str(box.folder / "tree"), whole=True, label="it",
            progress=lambda *words: told.append(words),
        )  # fmt: skip
        writer.join()
    assert found.sha256 == found.diff_id == hashlib.sha256(data).hexdigest()
    assert (box.folder / "tree/big").stat().st_size == 3 * MIB
    assert (told[0][0], told[-1]) == ("unpacked", ("unpacked", len(data), 0))
    assert len(told) > 3


def test_progress_comes_while_the_archive_keeps_one_waiting_and_may_end_the_work(box: Box) -> None:
    read, write = os.pipe()
    (box.folder / "tree").mkdir()
    before = children()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with open(read, "rb"), open(write, "wb"), pytest.raises(KeyboardInterrupt):
        unpack(read, str(box.folder / "tree"), progress=interrupt, label="it")
    assert children() == before


def test_the_bytes_read_are_told_against_the_size_of_the_file(box: Box) -> None:
    path = box.folder / "image.tar.gz"
    path.write_bytes(gzip.compress(packed(member("big", os.urandom(5 * MIB)))))
    told: list[tuple[str, int, int]] = []
    box.opened(path, progress=lambda *words: told.append(words))
    size = path.stat().st_size
    assert {(what, total) for what, _, total in told} == {("unpacked", size)}
    done = [done for _, done, _ in told]
    assert done == sorted(done) and done[-1] == size and len(done) > 4
