"""Watching files for changes; inotify(7)."""

from __future__ import annotations

import os
import struct

from vsprov.errors import FailedError, reason
from vsprov.kernel import syscall

IN_MODIFY, IN_ATTRIB, IN_MOVED_TO = 0x2, 0x4, 0x80
IN_CREATE, IN_DELETE_SELF, IN_MOVE_SELF = 0x100, 0x400, 0x800
_EVENT = struct.Struct("iIII")
_ROOM = 1 << 16


def queue() -> int:
    """A new inotify instance: the descriptor of its event queue. FailedError if the user has too many."""
    try:
        return syscall.inotify_init1(os.O_CLOEXEC)
    except OSError as error:
        hint = "raise fs.inotify.max_user_instances"
        raise FailedError(f"inotify_init1: {reason(error)}", hint=hint) from error


def watch(queue: int, path: str, mask: int) -> int:
    """Watch a file or directory for the events in `mask`; the watch descriptor that its events carry."""
    try:
        return syscall.inotify_add_watch(queue, path, mask)
    except OSError as error:
        raise FailedError(f"{path}: watch: {reason(error)}") from error


def forget(queue: int, descriptor: int) -> None:
    """Remove a watch, unless the removal of the file has removed it already."""
    try:
        syscall.inotify_rm_watch(queue, descriptor)
    except OSError:  # EINVAL
        return


def events(queue: int) -> list[tuple[int, int]]:
    """(watch descriptor, mask) of the pending events; waits for the first one."""
    syscall.is_ready(queue)
    raw = os.read(queue, _ROOM)
    out, at = [], 0
    while at < len(raw):
        descriptor, mask, _cookie, length = _EVENT.unpack_from(raw, at)
        out.append((descriptor, mask))
        at += _EVENT.size + length
    return out
