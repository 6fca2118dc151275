"""Opening paths: inside a directory tree and nowhere else, and paths of the host that others may change."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from vsprov.kernel import syscall

# To open a directory itself, not what a symbolic link in its place leads to.
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# errno values for a path that existed a moment ago, or in a listing, and no longer does.
GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE}
# The attribute of a folder that a server may write, or could at some time: it may have left links there.
# `trusted.` can only be set and removed with the host's CAP_SYS_ADMIN; xattr(7).
WRITABLE_BY_SERVERS = "trusted.vsprov.writable"

_RESOLVE = syscall.RESOLVE_NO_XDEV | syscall.RESOLVE_NO_SYMLINKS | syscall.RESOLVE_BENEATH
_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_ANYONE = -1
_FIRST_SUBORDINATE_ID = 65536  # ids of the host's own users are lower, those of servers are not
_MOST_LINKS = 40  # as in the kernel; path_resolution(7)


@contextmanager
def opened(folder: str | os.PathLike[str]) -> Iterator[int]:
    """A descriptor of a directory, not of what a symbolic link in its place leads to, during the block."""
    fd = os.open(folder, FOLDER)
    try:
        yield fd
    finally:
        os.close(fd)


def open_beneath(top: int, path: str, flags: int) -> int:
    """A CLOEXEC descriptor of `path` below the directory open as `top`; "" is that directory itself.

    Raises OSError if any component is a symbolic link or a mount point, or if `path` leads out of `top`;
    openat2(2).
    """
    return syscall.openat2(top, path or ".", flags | os.O_NOFOLLOW, _RESOLVE)


class UnsafePathError(OSError):
    """A path that somebody without privileges could have changed to lead to something else."""

    def __init__(self, path: str, message: str, hint: str) -> None:
        super().__init__(errno.ENOLINK, message, path)
        self.hint = hint


class HostPath(Struct, frozen=True):
    """A descriptor of what a path of the host leads to; `private`: only root can enter a folder above it."""

    fd: int
    private: bool


def open_host(path: str, flags: int, *, links: bool = True, owners: bool = True) -> int:
    """A CLOEXEC descriptor of an absolute path that others may have changed; errors as `walk_host`."""
    found = walk_host(path, links=links, owners=owners)
    try:
        return os.open(f"/proc/self/fd/{found.fd}", flags & ~os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(found.fd)


def walk_host(path: str, *, links: bool = True, owners: bool = True) -> HostPath:
    """An O_PATH descriptor of an absolute path, component by component.

    Follows a symbolic link only if nobody but root can have created it, or if everything that it leads to
    belongs to its owner; with `links` false, follows none. With `owners`, also refuses what belongs to root
    or to another user of the host below a folder that a user may write to, because that user may have moved
    it there. Raises UnsafePathError, with the component.
    """
    walk = _Walk(links, owners)
    try:
        return walk.to(path)
    finally:
        walk.close()


class _Walk:
    """The folders down to where a walk is.

    `_in_hands_of` is the user who may have decided where it leads, None if only root.
    """

    def __init__(self, links: bool, owners: bool) -> None:
        self._links, self._owners = links, owners
        self._folders = [(os.open("/", _STEP | os.O_DIRECTORY), "")]
        self._in_hands_of: int | None = None
        self._written_by_servers = False

    def close(self) -> None:
        while self._folders:
            os.close(self._folders.pop()[0])

    def to(self, path: str) -> HostPath:
        if not path.startswith("/"):
            raise OSError(errno.EINVAL, "not an absolute path", path)
        names = deque(name for name in path.split("/") if name not in ("", "."))
        followed = 0
        while names:
            name = names.popleft()
            if name == "..":
                if len(self._folders) > 1:
                    os.close(self._folders.pop()[0])
                self._check_owner(os.fstat(self._folders[-1][0]), self._folders[-1][1] or "/")
                continue
            folder, above = self._folders[-1]
            at = f"{above}/{name}"
            try:
                fd = os.open(name, _STEP, dir_fd=folder)
            except OSError as error:
                raise OSError(error.errno, error.strerror, at) from None
            self._folders.append((fd, at))
            status = os.fstat(fd)
            if not stat.S_ISLNK(status.st_mode):
                self._enter(status, at)
                continue
            followed += 1
            if followed > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            names.extendleft(reversed([part for part in self._follow(status, at) if part not in ("", ".")]))
        return HostPath(os.dup(self._folders[-1][0]), self._is_private())

    def _enter(self, status: os.stat_result, at: str) -> None:
        self._check_owner(status, at)
        if status.st_uid:
            self._in_hands_of = status.st_uid
        elif stat.S_ISDIR(status.st_mode) and status.st_mode & 0o1002 == 0o002:
            self._in_hands_of = _ANYONE
        if stat.S_ISDIR(status.st_mode) and not self._written_by_servers:
            self._written_by_servers = _is_marked(self._folders[-1][0])

    def _check_owner(self, status: os.stat_result, at: str) -> None:
        hands, owner = self._in_hands_of, status.st_uid
        if not self._owners or hands in (None, owner):
            return
        if owner >= _FIRST_SUBORDINATE_ID or (owner and hands == _ANYONE):
            return
        whose = "root" if owner == 0 else f"uid {owner}"
        who = "any user" if hands == _ANYONE else f"uid {hands}"
        raise UnsafePathError(
            at,
            f"belongs to {whose}, but {who} may write to a directory above it and could have moved it there",
            f"change the owner of {at}, or use a path whose folders all belong to root",
        )

    def _follow(self, status: os.stat_result, at: str) -> list[str]:
        """The components that a symbolic link leads to; the walk is then where they start."""
        link = self._folders.pop()[0]
        try:
            target = os.readlink("", dir_fd=link)
        finally:
            os.close(link)
        folder = os.fstat(self._folders[-1][0])
        others = 0o002 if folder.st_gid == 0 else 0o022
        if folder.st_mode & stat.S_ISVTX:
            others = 0
        hint = "name the path that the link should lead to, or replace it by a real file or directory"
        if not self._links:
            raise UnsafePathError(at, "a symbolic link, which is not followed here", hint)
        if self._written_by_servers:
            raise UnsafePathError(at, "a symbolic link in a folder that servers may write to", hint)
        if folder.st_mode & others:
            raise UnsafePathError(at, "a symbolic link in a folder that other users may write to", hint)
        if status.st_uid != folder.st_uid:
            raise UnsafePathError(at, f"a symbolic link that uid {status.st_uid or folder.st_uid} owns", hint)
        if status.st_uid != (self._in_hands_of or 0):
            who = f"uid {self._in_hands_of} could have moved there"
            raise UnsafePathError(at, f"a symbolic link that {who}", hint)
        if status.st_uid:
            self._owners = True  # otherwise this user could name any file of root
        if target.startswith("/"):
            while len(self._folders) > 1:
                os.close(self._folders.pop()[0])
            self._check_owner(os.fstat(self._folders[0][0]), "/")
        return target.split("/")

    def _is_private(self) -> bool:
        above = [os.fstat(fd) for fd, _ in self._folders[:-1]]
        return any(status.st_uid == 0 and not status.st_mode & 0o011 for status in above)


def _is_marked(folder: int) -> bool:
    try:
        os.getxattr(f"/proc/self/fd/{folder}", WRITABLE_BY_SERVERS)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.EACCES):
            return False
        raise
    return True


def existing(path: str) -> str:
    """The path, or the nearest parent directory that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path
