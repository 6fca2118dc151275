"""On which mounts a server's declared mounts were made.

On its second start a root is what the server made of it, and a link in it may lead from a declared place to
/dev or /proc; a mount there would replace what confines the server (CVE-2025-31133, CVE-2025-52881). So the
child notes each place's mount, and the spawner looks at the notes before anything of the server runs.
"""

from __future__ import annotations

from struct import unpack_from

from .program import EMPTY
from .sys_calls import AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, STATX_MNT_ID

TYPE_CHECKING = False  # importing typing would double the heap every child copies
if TYPE_CHECKING:
    from .confine import Recipe
    from .machine import Memory

STATX_SIZE, MNT_ID_AT = 256, 144  # of struct statx, and of stx_mnt_id in it


def note_mount(p: Recipe, fd: int, name: bytes | int = EMPTY) -> None:
    """Note a mount, or what is mounted at a name in it, as one that other mounts may be made on."""
    p.mounts.append(_note(p, fd, name))


def note_place(p: Recipe, fd: int, target: str) -> None:
    """Note the mount on which a declared mount is about to be made."""
    p.places.append((target, _note(p, fd, EMPTY)))


def _note(p: Recipe, fd: int, name: bytes | int) -> int:
    address = p.memory.text(bytes(STATX_SIZE))
    p.call("statx", fd, name, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_MNT_ID, address)
    return address - p.memory.address


def misplaced(p: Recipe, pid: int) -> str | None:
    """The target of a mount of this child that lies neither on the root nor on a mount of the manifest's."""
    allowed = {_number(p.memory, note) for note in p.mounts}
    for target, note in p.places:
        place = _number(p.memory, note)
        if place not in allowed and not _is_below(pid, place, allowed - {_number(p.memory, p.mounts[0])}):
            return target
    return None


def _number(memory: Memory, note: int) -> int:
    number: int = unpack_from("Q", memory.bytes, note + MNT_ID_AT)[0]
    return number


def _is_below(pid: int, mount: int, allowed: set[int]) -> bool:
    """Whether a mount came with one of these: a recursive bind brings those in it along."""
    parents = {}
    with open(f"/proc/{pid}/mountinfo", "rb") as file:
        for line in file:
            number, parent, _ = line.split(b" ", 2)
            parents[int(number)] = int(parent)
    while mount in parents and mount not in allowed:
        mount = parents.pop(mount)
    return mount in allowed
