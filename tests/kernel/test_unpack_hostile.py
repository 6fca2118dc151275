"""Unpacking archives that mean harm, or are damaged: what is refused, and that nothing gets outside."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import re
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.archives import folder, hard, link, member, packed
from tests.effort import examples
from tests.kernel.stacks import MIB, Box
from tests.leaks import children
from vsprov.errors import ImageError
from vsprov.store.disk import marks
from vsprov.store.layers.unpacking import unpack
from vsprov.store.trees.limits import Limits


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


REFUSED_MEMBERS = [
    ([member("../e")], "'../e': '../e' leads out of the archive"),
    ([member("/e")], "'/e': '/e' leads out of the archive"),
    ([member("a/../../e")], "'a/../../e': 'a/../../e' leads out of the archive"),
    ([folder("../")], "'..': '..' leads out of the archive"),
    ([hard("h", "../../../../etc/hostname")], "'h': '../../../../etc/hostname' leads out of the archive"),
    ([hard("h", "/etc/hostname")], "'h': '/etc/hostname' leads out of the archive"),
    ([link("d", "/etc"), hard("h", "d/hostname")], "unpack: 'h': No such file or directory"),
    ([link("d", "../../../../../../etc"), hard("h", "d/hostname")], "unpack: 'h': No such file or directory"),
    ([member("x", type=b"V")], "'x': has the unknown type b'V'"),
    ([member(".wh.etc")], "'.wh.etc': is a whiteout, which only a layer on top of another may contain"),
    ([member("a/.wh..wh..opq")],
     "'a/.wh..wh..opq': is a whiteout, which only a layer on top of another may contain"),
    ([member("x", uid=65536)], "'x': belongs to 65536:0; the highest id in a server is 65535"),
    ([folder("x", gid=4294967295)], "'x': belongs to 0:4294967295; the highest id in a server is 65535"),
    ([member("x", pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"})],
     "'x': trusted.overlay.opaque: belongs to the upper layer of an overlay"),
    ([folder("x", pax_headers={"SCHILY.xattr.user.overlay.opaque": "y"})],
     "'x': user.overlay.opaque: belongs to the upper layer of an overlay"),
    ([member("x", pax_headers={"SCHILY.acl.access": "user::rw-,user:1:rw-"})],
     "'x': set system.posix_acl_access: Invalid argument"),
    ([member("x", pax_headers={"SCHILY.acl.access": "user::rw-,all:1:rw-"})],
     "'x': SCHILY.acl.access: is not an access control list: 'all:1:rw-'"),
    ([folder("x", pax_headers={"SCHILY.xattr.system.posix_acl_default": "no"})],
     "'x': system.posix_acl_default: is not an access control list"),
    ([member("x", pax_headers={"SCHILY.acl.access": "u::rw-,u:a:rw-,g::r--,m::r--,o::---"})],
     "'x': access control list: user 'a' is not in /etc/passwd of the image"),
    ([member(".", b"x")], "'.': the root of the archive is not a directory"),
    ([member("f"), member("f/e")], "unpack: 'f/e': Not a directory"),
    ([member("a" * 256)], f"unpack: {'a' * 256!r}: File name too long"),
    ([member("a\0b", pax_headers={"path": "a\0b"})], "'a\\x00b': 'a\\x00b' leads out of the archive"),
    ([member("/".join(["d"] * 3000))],
     f"{'d/' * 30!r}…: lies too deep: at most 256 levels and 4095 bytes are allowed"),
]  # fmt: skip


@pytest.mark.parametrize(("members", "said"), REFUSED_MEMBERS, ids=[said[:50] for _, said in REFUSED_MEMBERS])
def test_a_hostile_member_is_named_and_nothing_is_made_outside(
    box: Box, members: list[tuple[tarfile.TarInfo, bytes]], said: str
) -> None:
    assert box.refusal(packed(member("first", b"harmless"), *members)) == f"image.tar: {said}"
    assert sorted(os.listdir(box.folder)) == ["image.tar", "tree1"]
    assert not Path("/e").exists()


def test_writing_through_a_symbolic_link_of_the_archive_stays_inside(box: Box) -> None:
    outside = box.folder / "outside"
    outside.mkdir()
    inside = str(outside).lstrip("/")
    layer = box.unpacked(
        member(f"{inside}/made", b""), link("absolute", str(outside)), link("relative", "../" * 30 + inside),
        member("absolute/one", b"1"), member("relative/two", b"2"), folder("absolute/three", mode=0o700),
        link("file", f"{outside}/four"), member("file", b"4"),
    )  # fmt: skip
    assert os.listdir(outside) == []
    assert sorted(os.listdir(layer / inside)) == ["made", "one", "three", "two"]
    assert (layer / "file").read_bytes() == b"4"


def test_extended_attributes_that_could_mean_something_to_the_host_are_left_out(box: Box) -> None:
    layer = box.unpacked(
        member("x", pax_headers={
            "SCHILY.xattr.trusted.vsprov.owner": "vsprov/default",
            "SCHILY.xattr.security.ima": "x",
            "SCHILY.xattr.security.selinux": "x", "SCHILY.xattr.system.nfs4_acl": "x",
        }),
        link("l", "x", pax_headers={"SCHILY.xattr.user.note": "x"}),
    )  # fmt: skip
    assert marks.read_owner(str(layer / "x")) is None
    assert [name for name in os.listxattr(layer / "x") if name != "security.selinux"] == []


def test_a_bomb_stops_at_the_limit(box: Box) -> None:
    box.limits = Limits(bytes=MIB, entries=50)
    for bomb in (
        gzip.compress(packed(member("zeros", bytes(4 * MIB)))),
        zstandard.compress(packed(member("z", bytes(4 * MIB)))),
    ):
        assert box.refusal(bomb).endswith("makes the image larger than 1048576 bytes")
    endless = packed(member("x", b"x")) + bytes(4 * MIB)
    assert box.refusal(gzip.compress(endless)) == "image.tar: it decompresses to more than 1048576 bytes"
    assert (
        box.refusal(packed(*(member(f"f{n}") for n in range(51))))
        == "image.tar: it contains more than 50 files"
    )


def test_a_sparse_file_counts_with_its_holes(box: Box) -> None:
    box.limits = Limits(bytes=MIB)
    with open(box.folder / "big", "wb") as file:
        file.truncate(1 << 40)
    path = box.folder / "image.tar"
    subprocess.run(["tar", "-C", box.folder, "--sparse", "-cf", path, "big"], check=True)
    assert box.refusal(path.read_bytes()) == "image.tar: 'big': makes the image larger than 1048576 bytes"


@pytest.mark.parametrize(
    "parts", [[(0, 4), (2, 4)], [(8, 4), (0, 4)], [(0, -4)], [(-4, 4)], [(1 << 20, 4)], [(0, 1 << 62)]]
)
def test_a_map_of_holes_that_makes_no_sense_is_refused(box: Box, parts: list[tuple[int, int]]) -> None:
    numbers = [len(parts), *(number for part in parts for number in part)]
    content = "".join(f"{number}\n" for number in numbers).encode().ljust(512, b"\0") + b"12345678"
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1000"}
    said = box.refusal(packed(member("x", content, pax_headers=headers)))
    assert said == "image.tar: 'x': has an invalid map of its holes"


def test_headers_that_would_fill_the_memory_are_refused_unread(box: Box) -> None:
    header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
    for kind in (b"x", b"g", b"L", b"K"):
        header[156:157] = kind
        header[124:136] = b"%011o\0" % (5 << 30)
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
        bomb = gzip.compress(bytes(header) + bytes(8 * MIB))
        assert (
            box.refusal(bomb)
            == "image.tar: 'x': has a header of 5368709120 bytes; at most 1048576 are allowed"
        )


def test_sizes_below_zero_are_refused(box: Box) -> None:
    for name in (b"\xff" * 12, b"\xff" * 11 + b"\0"):
        header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
        header[124:136] = name
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
        assert "image.tar: " in box.refusal(bytes(header) * 2 + bytes(1024))


def test_an_archive_that_asks_for_more_memory_than_it_gets_is_refused(box: Box) -> None:
    frame = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([(30 - 10) << 3]) + b"\x01\x00\x00"  # a window of 1 GiB
    assert "memory" in box.refusal(frame)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress, bz2.compress, zstandard.compress])
def test_an_archive_cut_short_anywhere_is_refused(box: Box, compress: Callable[[bytes], bytes]) -> None:
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
        said = box.refusal(whole[:cut])
        assert "truncated" in said or "it is damaged" in said


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(box: Box) -> None:
    whole = bytearray(packed(member("a", b"a"), member("b", b"b"), member("c", b"c")))
    whole[1024 + 10] ^= 1
    assert (
        box.refusal(bytes(whole))
        == "image.tar: it is truncated or damaged: the end of the archive is missing"
    )


def test_what_is_no_archive_at_all_is_refused(box: Box) -> None:
    for data in (
        b"",
        b"hello",
        os.urandom(5000),
        b"\x1f\x8b",
        gzip.compress(b"hello" * 500),
        b"PK\x03\x04" + bytes(600),
        bytes(100),
    ):
        assert box.refusal(data).startswith("image.tar: it is ")


@settings(examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_an_archive_with_changed_bytes_is_unpacked_or_refused_but_never_a_crash(
    box: Box, data: st.DataObject
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
    path = box.folder / "image.tar"
    path.write_bytes(whole)
    try:
        box.opened(path)
    except ImageError as error:
        assert "ended unexpectedly" not in str(error)


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


@pytest.mark.vm_subset
@pytest.mark.parametrize("over", [False, True], ids=["alone", "over layers"])
def test_the_worker_has_no_way_out_and_few_capabilities(box: Box, over: bool) -> None:
    data = packed(*(member(f"f{n}", b"x") for n in range(200)))
    read, write = os.pipe()
    below, work, target = (box.folder / name for name in ("below", "work", "target"))
    for path in (below, work, target):
        path.mkdir()
    (below / "lower").touch()
    seen: dict[str, object] = {}
    before = children()

    def look(_: str, done: int, __: int) -> None:
        if seen or not done:  # it reads nothing before it is shut in
            return
        (pid,) = children() - before
        here = Path(f"/proc/{pid}")
        seen["root"] = sorted(name for name in os.listdir(here / "root") if name[0] != "f")
        seen["cwd"] = os.path.samefile(here / "cwd", here / "root")
        seen["mounts"] = [line.split()[4:6] for line in (here / "mountinfo").read_text().splitlines()]
        seen["shared"] = sorted(
            kind for kind in ("ipc", "mnt", "net", "uts")
            if os.readlink(here / "ns" / kind) == os.readlink(f"/proc/self/ns/{kind}")
        )  # fmt: skip
        with stopped(pid):
            opened = [os.readlink(here / "fd" / fd).partition(":")[0] for fd in os.listdir(here / "fd")]
        seen["open"] = sorted(name for name in opened if not re.fullmatch(r"/(f\d+)?", name))
        status = dict(line.split(":", 1) for line in (here / "status").read_text().splitlines())
        seen["caps"] = {int(status[name], 16) for name in ("CapEff", "CapPrm")}
        seen["inherited"] = {int(status[name], 16) for name in ("CapInh", "CapAmb")}
        seen["privileges"] = status["NoNewPrivs"].strip()
        os.write(write, data[50_000:])
        os.close(write)

    os.write(write, data[:50_000])
    with open(read, "rb"):
        unpack(
            read, str(target), below=[str(below)] if over else (), work=str(work), progress=look, label="it"
        )
    assert seen == {
        "root": ["lower"] if over else [],
        "cwd": True,
        "mounts": [["/", "rw,nosuid,nodev,noexec,relatime"]],
        "shared": [],
        "open": ["/dev/null", "pipe", "pipe"],
        "caps": {sum(1 << number for number in (0, 1, 3, 4, 31))},
        "inherited": {0},
        "privileges": "1",
    }
    assert len(os.listdir(target)) == 200


def test_links_that_lead_in_circles_or_nowhere_are_refused_or_stay_inside(box: Box) -> None:
    circle = packed(link("a", "b"), link("b", "a"), member("a/x"))
    assert box.refusal(circle) == "image.tar: unpack: 'a/x': Too many levels of symbolic links"
    outside = box.folder / "outside"
    tree = box.unpacked(
        link("up", "../../.."), link("far", str(outside)), member("far/made", b"1"), member("up/top", b"2")
    )
    assert not outside.exists()
    assert (tree / str(outside)[1:] / "made").read_bytes() == b"1"
    assert (tree / "top").read_bytes() == b"2"


def test_links_cannot_make_a_tree_deeper_than_names_can(box: Box) -> None:
    box.limits = Limits(depth=10)
    members = [folder("/".join("d" * 8)), link("l", "/".join("d" * 8)), folder("l/e/f/g")]
    assert "lies too deep: at most 10 levels and 4095 bytes are allowed" in box.refusal(packed(*members))


def test_links_that_double_with_each_other_end_where_the_kernel_ends(box: Box) -> None:
    doubling = [link("l0", "."), *(link(f"l{n}", f"l{n - 1}/l{n - 1}") for n in range(1, 60))]
    assert (box.unpacked(*doubling, member("l4/file", b"31 links away")) / "file").exists()
    said = "image.tar: unpack: 'l59/file': Too many levels of symbolic links"
    assert box.refusal(packed(*doubling, member("l59/file"))) == said
