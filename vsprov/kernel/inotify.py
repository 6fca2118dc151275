"""Watching files for changes; inotify(7)."""

from __future__ import annotations

import os
import struct
from errno import ENODEV, ENOENT, ENOSPC, ENOTDIR

from vsprov.errors import FailedError, reason
from vsprov.kernel import syscall

IN_MODIFY, IN_ATTRIB, IN_MOVED_FROM, IN_MOVED_TO = 0x2, 0x4, 0x40, 0x80
IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF = 0x100, 0x200, 0x400, 0x800
IN_Q_OVERFLOW, IN_IGNORED, IN_ISDIR = 0x4000, 0x8000, 0x40000000
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
        hint = "raise fs.inotify.max_user_watches" if error.errno == ENOSPC else ""
        raise FailedError(f"{path}: watch: {reason(error)}", hint=hint) from error


def watch_if_present(queue: int, path: str, mask: int) -> int | None:
    """As `watch`; None if the file does not exist. It may be created right afterwards."""
    try:
        return watch(queue, path, mask)
    except FailedError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (ENOENT, ENODEV, ENOTDIR):
            return None
        raise


def forget(queue: int, descriptor: int) -> None:
    """Remove a watch, unless the removal of the file has removed it already."""
    try:
        syscall.inotify_rm_watch(queue, descriptor)
    except OSError:  # EINVAL
        return


def events(queue: int, *, wait: bool = True) -> list[tuple[int, int, str]]:
    """(watch descriptor, mask, name) of the pending events; with `wait`, waits for the first one.

    The name is that of an entry of the directory that is watched, "" for an event of what is watched itself.
    """
    if not syscall.is_ready(queue, *(() if wait else (0,))):
        return []
    raw = os.read(queue, _ROOM)
    out, at = [], 0
    while at < len(raw):
        descriptor, mask, _cookie, length = _EVENT.unpack_from(raw, at)
        at += _EVENT.size
        out.append((descriptor, mask, os.fsdecode(raw[at : at + length].rstrip(b"\0"))))
        at += length
    return out
