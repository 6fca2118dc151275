"""Being told of what happens to files. inotify(7)."""

from __future__ import annotations

import os
import select
import struct

from vsprov.errors import FailedError, reason
from vsprov.kernel import syscall

IN_MODIFY, IN_ATTRIB, IN_MOVED_TO = 0x2, 0x4, 0x80
IN_CREATE, IN_DELETE_SELF, IN_MOVE_SELF = 0x100, 0x400, 0x800
_EVENT = struct.Struct("iIII")
_ROOM = 1 << 16


def queue() -> int:
    """The fd that tells of all that is watched. FailedError when this user has too many of them."""
    try:
        return syscall.inotify_init1(os.O_CLOEXEC)
    except OSError as error:
        hint = "fs.inotify.max_user_instances may be used up"
        raise FailedError(f"inotify_init1: {reason(error)}", hint=hint) from error


def watch(queue: int, path: str, mask: int) -> int:
    """Be told of the events in `mask` about a file or folder; what they will carry as their descriptor."""
    try:
        return syscall.inotify_add_watch(queue, path, mask)
    except OSError as error:
        raise FailedError(f"{path}: watch: {reason(error)}") from error


def forget(queue: int, descriptor: int) -> None:
    """Be told no more; nothing happens when the file is gone, which has ended the watch."""
    try:
        syscall.inotify_rm_watch(queue, descriptor)
    except OSError:  # EINVAL
        return


def events(queue: int) -> list[tuple[int, int]]:
    """(descriptor, mask) of what has happened; waits until something has."""
    select.select([queue], [], [])
    raw = os.read(queue, _ROOM)
    out, at = [], 0
    while at < len(raw):
        descriptor, mask, _cookie, length = _EVENT.unpack_from(raw, at)
        out.append((descriptor, mask))
        at += _EVENT.size + length
    return out
