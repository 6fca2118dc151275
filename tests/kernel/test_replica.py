"""Exact copies of what a server has written."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.archives import NET_RAW
from tests.btrfs import btrfs_disk
from tests.kernel.layers import disk, first_block, mounted
from vsprov.errors import FailedError
from vsprov.store.trees import acl
from vsprov.store.written import replica

__all__ = ["btrfs_disk"]

MIB = 1 << 20
LIST = acl.from_text("user::rw-,user:x:r--:600100,group::r--,mask::r--,other::---", lambda kind, name: 0)


class Seen(NamedTuple):
    """All that stat and listxattr report of a name, with the content, and the first name of its inode."""

    mode: int
    owner: tuple[int, int]
    modified: int  # the time of access changes with each look
    device: int
    size: int
    blocks: int
    attributes: dict[str, bytes]
    content: bytes | str | None
    first: str


def everything(top: Path) -> dict[str, Seen]:
    found, first = {}, dict[tuple[int, int], str]()
    for path in sorted([top, *top.rglob("*")]):
        status, name = os.lstat(path), str(path.relative_to(top))
        kind = stat.S_IFMT(status.st_mode)
        attributes = os.listxattr(path, follow_symlinks=False)
        found[name] = Seen(
            status.st_mode,
            (status.st_uid, status.st_gid),
            status.st_mtime_ns,
            status.st_rdev,
            0 if kind == stat.S_IFDIR else status.st_size,
            0 if kind == stat.S_IFDIR else status.st_blocks,
            {each: os.getxattr(path, each, follow_symlinks=False) for each in attributes},
            None,
            first.setdefault((status.st_dev, status.st_ino), name),
        )
    for name, seen in found.items():
        if stat.S_ISREG(seen.mode):
            found[name] = seen._replace(content=(top / name).read_bytes())
        elif stat.S_ISLNK(seen.mode):
            found[name] = seen._replace(content=os.readlink(top / name))
    return found


def copied(source: Path, target: Path) -> replica.Size:
    return replica.copy(str(source), str(target), "Server/web1", lambda done: None)


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    """What overlay and a server leave in an upper layer."""
    top = tmp_path / "upper"
    (top / "deep/er").mkdir(parents=True)
    (top / "plain").write_bytes(b"x" * 5000)
    os.chown(top / "plain", 524321, 524322)
    (top / "su").write_bytes(b"su")
    os.chown(top / "su", 524288, 524288)
    os.chmod(top / "su", 0o6755)
    (top / "ping").write_bytes(b"ping")
    os.setxattr(top / "ping", "security.capability", NET_RAW)
    os.link(top / "ping", top / "deep/er/ping6")
    (top / "link").symlink_to("/etc/shadow")
    os.setxattr(top / "link", "trusted.overlay.origin", b"\0\1", follow_symlinks=False)
    os.link(top / "link", top / "link2", follow_symlinks=False)
    with open(top / "sparse", "wb") as file:
        file.seek(40 * MIB)
        file.write(b"end")
        file.truncate(80 * MIB)
    os.mknod(top / "whiteout", stat.S_IFCHR, 0)
    os.mknod(top / "device", stat.S_IFBLK | 0o640, os.makedev(7, 3))
    os.mkfifo(top / "fifo", 0o622)
    os.chown(top / "fifo", 524289, 524290)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(top / "socket"))
    (top / "opaque").mkdir()
    os.setxattr(top / "opaque", "trusted.overlay.opaque", b"y")
    os.setxattr(top / "plain", "trusted.overlay.metacopy", b"")
    os.setxattr(top / "plain", "user.note", b"\0\xff")
    os.setxattr(top / "su", acl.ACCESS, LIST)
    os.setxattr(top / "deep", acl.DEFAULT, LIST)
    os.chmod(top / "deep", 0o1777)
    (top / os.fsdecode(b"odd\xff\n")).write_text("odd")
    for path in (*top.rglob("*"), top):
        os.utime(path, ns=(1_500_000_000_000_000_001, 1_600_000_000_123_456_789), follow_symlinks=False)
    return top


@pytest.mark.vm_subset
def test_a_copy_differs_in_nothing(upper: Path, tmp_path: Path) -> None:
    before = everything(upper)
    size = copied(upper, tmp_path / "copy")
    assert everything(tmp_path / "copy") == before
    assert size.entries == len(before)
    assert before["sparse"].blocks * 512 < MIB
    assert before["deep/er/ping6"].first == "deep/er/ping6" and before["ping"].first == "deep/er/ping6"


@pytest.mark.requires("btrfs", "loop", "mkfs_btrfs")
def test_on_btrfs_the_copy_shares_its_blocks(tmp_path: Path) -> None:
    with disk("btrfs", tmp_path / "disk", 128 * MIB) as point:
        (point / "upper").mkdir()
        (point / "upper/file").write_bytes(os.urandom(40 * MIB))
        copied(point / "upper", point / "copy")
        assert first_block(point / "upper/file") == first_block(point / "copy/file")
        copied(point / "upper", point / "other")  # three of them would not fit


@pytest.mark.requires("ext4", "loop", "mkfs_ext4")
def test_a_full_disk_is_an_error_with_the_name_of_the_file(tmp_path: Path) -> None:
    with disk("ext4", tmp_path / "disk", 16 * MIB) as point:
        (point / "upper").mkdir()
        (point / "upper/file").write_bytes(os.urandom(9 * MIB))
        with pytest.raises(FailedError) as caught:
            copied(point / "upper", point / "copy")
        assert str(caught.value) == "Server/web1: copy file: No space left on device"
        assert caught.value.hint == f"free some space on {point} (ext4)"


def test_a_tree_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    (tmp_path / "upper").mkdir()
    here = os.open(tmp_path / "upper", os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    shown = "d/" * 100  # of a path that the server may have made as long as it likes
    with pytest.raises(FailedError, match=f": '{shown}'…: lies too deep: at most 256 levels"):
        copied(tmp_path / "upper", tmp_path / "copy")


def test_subvolumes_are_copied_as_directories_and_mounts_are_refused(btrfs_disk: Path) -> None:
    upper = btrfs_disk / "upper"
    for path in (upper, upper / "sub", upper / "sub/inner"):
        subprocess.run(["btrfs", "-q", "subvolume", "create", path], check=True)
        (path / "file").write_text(path.name)  # each has the same inode number
        os.link(path / "file", path / "twin")
    assert len({os.lstat(path).st_ino for path in upper.rglob("file")}) == 1
    before = everything(upper)
    copied(upper, btrfs_disk / "copy")
    assert everything(btrfs_disk / "copy") == before
    assert len({os.lstat(path).st_dev for path in (btrfs_disk / "copy").rglob("*")}) == 1
    (upper / "mounted").mkdir()
    with (
        mounted("tmpfs", "none", upper / "mounted"),
        pytest.raises(FailedError, match="'mounted': is on another file system: something is mounted there"),
    ):
        copied(upper, btrfs_disk / "other")


def test_links_in_the_tree_are_copied_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/file").write_text("secret")
    (tmp_path / "upper").mkdir()
    (tmp_path / "upper/way").symlink_to(tmp_path / "secret")
    copied(tmp_path / "upper", tmp_path / "copy")
    assert os.readlink(tmp_path / "copy/way") == str(tmp_path / "secret")


def test_a_copy_for_other_ids_differs_in_nothing_else(upper: Path, tmp_path: Path) -> None:
    """Also in the ids of access control lists, and in the root of file capabilities."""
    base, other = 524288, 1048576
    capability = b"\1\0\0\3" + NET_RAW[4:20] + base.to_bytes(4, "little")
    os.setxattr(upper / "ping", "security.capability", capability)
    listed = acl.from_text("user::rw-,user:x:r--:524388,group::r--,mask::r--,other::---", lambda *_: 0)
    os.setxattr(upper / "plain", acl.ACCESS, listed)
    size = replica.copy(str(upper), str(tmp_path / "copy"), "x", lambda done: None, (base, other))
    before, after = everything(upper), everything(tmp_path / "copy")
    assert size.entries == len(before) == len(after)

    def moved(number: int) -> int:
        return number - base + other if base <= number < base + 65536 else number

    for name, seen in before.items():
        assert after[name].owner == (moved(seen.owner[0]), moved(seen.owner[1]))
        rest = {"owner": seen.owner, "attributes": seen.attributes}
        assert after[name]._replace(**rest) == seen
    assert before["plain"].owner == (524321, 524322) and before["whiteout"].owner == (0, 0)
    assert after["ping"].attributes["security.capability"] == capability[:20] + other.to_bytes(4, "little")
    assert [one.id for one in acl.parse(after["plain"].attributes[acl.ACCESS])][1] == other + 100
    assert after["su"].attributes[acl.ACCESS] == LIST  # of an id that is none of the server's
    for name in ("opaque", "link"):
        assert after[name].attributes == before[name].attributes
