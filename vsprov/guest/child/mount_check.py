"""Checking that declared mounts were made where the manifest means them to be.

When a server starts again, its root is what the server has made of it, and a symbolic link in it may lead
from a declared target to /dev or /proc. A mount there would replace what confines the server (CVE-2025-31133,
CVE-2025-52881). So the child records the mount that each target is on, and the spawner checks the records
before anything of the server runs.
"""

from __future__ import annotations

from struct import unpack_from

from ..sys_calls import AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, STATX_MNT_ID
from .program import EMPTY

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from ..syscall_list import Memory
    from .program import ChildProgram

STATX_SIZE, MNT_ID_AT = 256, 144  # size of struct statx, offset of stx_mnt_id


def record_mount(p: ChildProgram, fd: int, name: bytes | int = EMPTY) -> None:
    """Record the mount of an fd, or of a name below it, as one that other mounts may be made on."""
    p.mounts.append(_record(p, fd, name))


def record_target(p: ChildProgram, fd: int, target: str) -> None:
    """Record the mount on which a declared mount is about to be made."""
    p.targets.append((target, _record(p, fd, EMPTY)))


def _record(p: ChildProgram, fd: int, name: bytes | int) -> int:
    address = p.memory.text(bytes(STATX_SIZE))
    p.call("statx", fd, name, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_MNT_ID, address)
    return address - p.memory.address


def misplaced_target(p: ChildProgram, pid: int) -> str | None:
    """A target of this child that is neither on the root nor on another declared mount; None if all are."""
    allowed = {_mount_id(p.memory, record) for record in p.mounts}
    for target, record in p.targets:
        mount = _mount_id(p.memory, record)
        if mount not in allowed and not _is_below(pid, mount, allowed - {_mount_id(p.memory, p.mounts[0])}):
            return target
    return None


def _mount_id(memory: Memory, record: int) -> int:
    number: int = unpack_from("Q", memory.bytes, record + MNT_ID_AT)[0]
    return number


def _is_below(pid: int, mount: int, allowed: set[int]) -> bool:
    """Whether a mount is below one of the allowed ones: a recursive bind includes the mounts below it."""
    parents = {}
    with open(f"/proc/{pid}/mountinfo", "rb") as file:
        for line in file:
            number, parent, _ = line.split(b" ", 2)
            parents[int(number)] = int(parent)
    while mount in parents and mount not in allowed:
        mount = parents.pop(mount)
    return mount in allowed
