"""What a server has changed of its image: its upper layer compared with the layers below.

The server may be running, so the upper layer may change meanwhile, and is untrusted: each step goes by a
descriptor of the directory, and no symbolic link is followed. overlayfs.rst, "whiteouts and opaque
directories".
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Literal

from msgspec import Struct, field

from vsprov.errors import FailedError, reason
from vsprov.kernel.paths import FOLDER, GONE
from vsprov.store.trees.tree import OPAQUE

DEPTH = 256  # of nested directories, each of which is open in every layer
_WHITEOUT = "trusted.overlay.whiteout"
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


class Change(Struct, frozen=True):
    """A path of a server that differs from its image, and the type of what is or was there."""

    path: str
    what: Literal["added", "changed", "deleted"]
    type: str


class _Level(Struct):
    """A directory of the upper layer, and those of the same path below it, topmost first."""

    path: str
    upper: int
    lower: list[int]
    left: list[str] = field(default_factory=list)

    def close(self) -> None:
        for fd in (self.upper, *self.lower):
            os.close(fd)


def changes(upper: str, lower: Sequence[str]) -> Iterator[Change]:
    """What the upper layer changes of the trees `lower`, topmost first, parents before children.

    FailedError if a directory cannot be read.
    """
    stack: list[_Level] = []
    try:
        with ExitStack() as opening:
            fds = []
            for path in (upper, *lower):
                fds.append(os.open(path, FOLDER))
                opening.callback(os.close, fds[-1])
            opening.pop_all()
        top = _Level("", fds[0], fds[1:])
        stack.append(top)
        yield from _enter(top)
        while stack:
            level = stack[-1]
            if not level.left:
                stack.pop().close()
                continue
            name = level.left.pop()
            found = _descend(level, name)
            if isinstance(found, _Level):
                stack.append(found)
                if len(stack) > DEPTH:
                    raise FailedError(f"{upper}{found.path[:60]}…: more than {DEPTH} nested directories")
            yield from _compare(level, name, found)
            if isinstance(found, _Level):
                yield from _enter(found)
    except OSError as error:
        where = stack[-1].path if stack else ""
        raise FailedError(f"{upper}{where}: read: {reason(error)}") from error
    finally:
        for level in stack:
            level.close()


def _enter(level: _Level) -> Iterator[Change]:
    """Read a directory. Where it is opaque, what is below it and not in it was deleted."""
    names = os.listdir(level.upper)
    level.left = sorted(names, key=os.fsencode, reverse=True)
    if level.path and _is_opaque(level.upper):
        hidden = {name for fd in level.lower for name in os.listdir(fd)}
        for name in sorted(hidden - set(names), key=os.fsencode):
            if (status := _below(level, name)) is not None:
                yield Change(f"{level.path}/{name}", "deleted", _type(status))


def _descend(level: _Level, name: str) -> _Level | os.stat_result | None:
    """What has this name in the upper layer; None if it was removed meanwhile."""
    try:
        status = os.stat(name, dir_fd=level.upper, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            return status
        upper = os.open(name, FOLDER, dir_fd=level.upper)
    except OSError as error:
        if error.errno in GONE:
            return None
        raise
    lower: list[int] = []
    for fd in level.lower:
        try:
            found = os.open(name, FOLDER, dir_fd=fd)
        except OSError as error:
            if error.errno == errno.ENOENT:
                continue
            if error.errno in GONE:
                break  # a whiteout, or a file, hides what is below
            raise
        lower.append(found)
        if _is_opaque(found):
            break
    return _Level(f"{level.path}/{name}", upper, lower)


def _compare(level: _Level, name: str, found: _Level | os.stat_result | None) -> Iterator[Change]:
    if found is None:
        return
    path, below = f"{level.path}/{name}", _below(level, name)
    if isinstance(found, os.stat_result) and _is_whiteout(level.upper, name, found):
        if below is not None:
            yield Change(path, "deleted", _type(below))
        return
    kind = "directory" if isinstance(found, _Level) else _type(found)
    yield Change(path, "added" if below is None else "changed", kind)


def _below(level: _Level, name: str) -> os.stat_result | None:
    """What the image has at a name of a directory; None if nothing."""
    for fd in level.lower:
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        return None if _is_whiteout(fd, name, status) else status
    return None


def _is_whiteout(folder: int, name: str, status: os.stat_result) -> bool:
    """Whether it is a character device 0:0, or an empty file with the attribute that stands for one."""
    if stat.S_ISCHR(status.st_mode):
        return status.st_rdev == 0
    if not stat.S_ISREG(status.st_mode) or status.st_size:
        return False
    return _has(f"/proc/self/fd/{folder}/{name}", _WHITEOUT)


def _is_opaque(folder: int) -> bool:
    try:
        return os.getxattr(folder, OPAQUE) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise


def _has(path: str, attribute: str) -> bool:
    try:
        os.getxattr(path, attribute, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP, *GONE):
            return False
        raise
    return True


def _type(status: os.stat_result) -> str:
    return _TYPES.get(stat.S_IFMT(status.st_mode), "file")
