"""Making a layer of what a server has written: its own ids, no marks but those that a layer needs."""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path

import pytest

from tests.archives import NET_RAW
from tests.trees import listing
from vsprov.errors import ImageError
from vsprov.store.layers import shift
from vsprov.store.trees.limits import LIMITS, Limits

BASE = 1 << 20
# linux/capability.h, struct vfs_ns_cap_data: as NET_RAW, but revision 3, below the user namespace of BASE.
NET_RAW_BELOW = struct.pack("<I", 0x03000001) + NET_RAW[4:] + struct.pack("<I", BASE)


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    """An empty upper directory of a server's root."""
    tree = tmp_path / "tree"
    tree.mkdir()
    os.chown(tree, BASE, BASE)
    return tree


def put(path: Path, uid: int = 0, gid: int = 0, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(path.name)
    os.chown(path, BASE + uid, BASE + gid)
    path.chmod(mode)
    return path


def own(*paths: Path) -> None:
    for path in paths:
        os.chown(path, BASE, BASE, follow_symlinks=False)


def shifted(tree: Path) -> Path:
    shift.to_layer(str(tree), BASE, LIMITS)
    return tree


def test_ids_are_those_inside_and_all_else_stays(upper: Path) -> None:
    put(upper / "d/su", mode=0o6755)
    put(upper / "d/last", 65535, 65535, 0o640)
    os.link(upper / "d/su", upper / "su2")
    (upper / "link").symlink_to("/nowhere")
    os.chown(upper / "link", BASE + 7, BASE + 8, follow_symlinks=False)
    os.link(upper / "link", upper / "link2", follow_symlinks=False)
    os.setxattr(upper / "d/last", "user.note", b"n")
    own(upper / "d")
    (upper / "d").chmod(0o3775)
    for name, when in (("d/su", 5), ("d/last", 6), ("d", 7), (".", 8)):
        os.utime(upper / name, ns=(1, when))
    before = listing(upper)
    after = listing(shifted(upper))
    wanted = {
        name: found._replace(owner=(found.owner[0] - BASE, found.owner[1] - BASE))
        for name, found in before.items()
    }
    assert after == wanted


def test_a_capability_is_for_every_namespace_and_an_own_one_stays(upper: Path) -> None:
    for name, value in (("three", NET_RAW_BELOW), ("two", NET_RAW)):
        put(upper / name)
        os.setxattr(upper / name, "security.capability", value)
        shift_once = os.getxattr(upper / name, "security.capability")
        assert shift_once[:4] == value[:4]
    os.link(upper / "three", upper / "again")
    shifted(upper)
    for name in ("three", "two", "again"):
        assert os.getxattr(upper / name, "security.capability") == NET_RAW


def test_of_the_overlays_marks_only_whiteouts_and_opaque_folders_stay(upper: Path) -> None:
    os.mknod(upper / "gone", stat.S_IFCHR, os.makedev(0, 0))
    for name in ("opaque", "plain"):
        (upper / name).mkdir()
        own(upper / name)
    put(upper / "file")
    os.setxattr(upper / "opaque", "trusted.overlay.opaque", b"y")
    for name in ("opaque", "plain", "file", "."):
        for mark in ("origin", "impure", "uuid"):
            os.setxattr(upper / name, f"trusted.overlay.{mark}", b"y")
    shifted(upper)
    assert {name: os.listxattr(upper / name) for name in ("opaque", "plain", "file", ".")} == {
        "opaque": ["trusted.overlay.opaque"], "plain": [], "file": [], ".": [],
    }  # fmt: skip
    status = os.lstat(upper / "gone")
    assert stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def test_pipes_and_sockets_go(upper: Path) -> None:
    (upper / "d").mkdir()
    own(upper / "d")
    os.mkfifo(upper / "d/pipe")
    own(upper / "d/pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(upper / "socket"))
    own(upper / "socket")
    put(upper / "d/file")
    shifted(upper)
    assert os.listdir(upper) == ["d"] and os.listdir(upper / "d") == ["file"]


@pytest.mark.parametrize("uid", [-1, 65536])
def test_an_owner_outside_of_the_servers_ids_is_refused(upper: Path, uid: int) -> None:
    put(upper / "d/strange", uid)
    own(upper / "d")
    with pytest.raises(ImageError, match=rf"strange.*{BASE + uid}:{BASE}"):
        shifted(upper)


def test_more_than_the_limit_is_refused(upper: Path) -> None:
    for n in range(10):
        put(upper / f"f{n}")
    with pytest.raises(ImageError, match="at most 5 are allowed"):
        shift.to_layer(str(upper), BASE, Limits(entries=5))
