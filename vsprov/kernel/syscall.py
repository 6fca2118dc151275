"""System calls for which Python 3.11 has no function, and poll(2) for one descriptor.

Each wrapper has the name of its call, raises OSError (with the path, if there is one), and releases the GIL.
Numbers without a table are the same on every architecture: those calls were added after 2019.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint, c_ulong
from struct import pack
from typing import NoReturn

AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
OPEN_TREE_CLONE = 1
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_IDMAP = 1, 2, 4, 0x100000
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 0x4, 0x40
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 1, 2, 4, 8, 16
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
CLONE_FS = 0x200
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
CLONE_INTO_CGROUP = 0x200000000
IOPRIO_WHO_PROCESS, IOPRIO_CLASS_IDLE = 1, 3 << 13
# By `uname -m`; ioprio_set(2) has no function in libc.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "loongarch64": 30, "ppc64le": 273, "s390x": 282}

_SETRESUID = {
    "x86_64": 117, "aarch64": 147, "riscv64": 147, "loongarch64": 147, "ppc64le": 164, "s390x": 208
}  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)


class _Function:
    """A libc function with fixed argument types, or a bare system call if it has a number; -1 is OSError."""

    __slots__ = ("_function", "_number")

    def __init__(self, *types: type, name: str = "syscall", number: int | None = None) -> None:
        self._function = _libc[name]
        self._function.restype = c_long if number is not None else c_int
        self._function.argtypes = types if number is None else (c_long, *types)
        self._number = () if number is None else (number,)

    def __call__(self, *arguments: int | bytes | None, path: str | bytes | None = None) -> int:
        result: int = self._function(*self._number, *arguments)
        return result if result != -1 else _fail(path)


def _fail(path: str | bytes | None) -> NoReturn:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), path)


_open_tree = _Function(c_int, c_char_p, c_uint, number=428)
_move_mount = _Function(c_int, c_char_p, c_int, c_char_p, c_uint, number=429)
_fsopen = _Function(c_char_p, c_uint, number=430)
_fsconfig = _Function(c_int, c_uint, c_char_p, c_char_p, c_int, number=431)
_fsmount = _Function(c_int, c_uint, c_uint, number=432)
_openat2 = _Function(c_int, c_char_p, c_char_p, c_size_t, number=437)
_pidfd_getfd = _Function(c_int, c_int, c_uint, number=438)
_clone3 = _Function(c_char_p, c_size_t, number=435)
_quotactl_fd = _Function(c_uint, c_uint, c_uint, c_char_p, number=443)
_mount_setattr = _Function(c_int, c_char_p, c_uint, c_char_p, c_size_t, number=442)
_mount = _Function(c_char_p, c_char_p, c_char_p, c_ulong, c_char_p, name="mount")
_umount2 = _Function(c_char_p, c_int, name="umount2")
_unshare = _Function(c_int, name="unshare")
_setns = _Function(c_int, c_int, name="setns")
_syncfs = _Function(c_int, name="syncfs")
_setresuid = _Function(c_uint, c_uint, c_uint, number=_SETRESUID.get(os.uname().machine, 147))
_renameat2 = _Function(c_int, c_char_p, c_int, c_char_p, c_uint, name="renameat2")
_inotify_init1 = _Function(c_int, name="inotify_init1")
_inotify_add_watch = _Function(c_int, c_char_p, c_uint, name="inotify_add_watch")
_inotify_rm_watch = _Function(c_int, c_int, name="inotify_rm_watch")


def milliseconds(seconds: float | None) -> float | None:
    """The timeout of a poll(2), which counts in an int: it may end after 24 days, so callers look again."""
    return None if seconds is None else min(seconds * 1000, 2**31 - 1)


def is_ready(fd: int, seconds: float | None = None, events: int = select.POLLIN) -> bool:
    """Wait until one of the poll(2) events occurs; False after `seconds`, or after 24 days.

    Unlike select(2), it takes descriptors above 1023.
    """
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(milliseconds(seconds)))


def set_effective_user(uid: int) -> None:
    """Set the effective user of this thread; setresuid(2). The function of libc sets that of all threads.

    A user other than 0 has no effective capabilities, but real and saved user stay: 0 brings them back.
    """
    _setresuid(0xFFFFFFFF, uid, 0xFFFFFFFF)


def open_tree(dfd: int, path: str, flags: int) -> int:
    """A CLOEXEC fd of the mount at `path`, or with OPEN_TREE_CLONE of a detached copy; open_tree(2)."""
    return _open_tree(dfd, os.fsencode(path), flags | os.O_CLOEXEC, path=path)


def move_mount(tree: int, place: int, path: str | None = None) -> None:
    """Attach the detached mount `tree` on what `place` is; move_mount(2)."""
    _move_mount(tree, b"", place, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH, path=path)


def fsopen(kind: str) -> int:
    """A CLOEXEC fd that configures a new file system of this kind; fsopen(2)."""
    return _fsopen(kind.encode(), 1, path=kind)


def fsconfig(fd: int, command: int, key: str | None = None, value: bytes | None = None, aux: int = 0) -> None:
    """One step of configuration; fsconfig(2)."""
    _fsconfig(fd, command, key.encode() if key else None, value, aux, path=key)


def fsmount(fd: int, attributes: int = 0) -> int:
    """A CLOEXEC fd of a detached mount of the configured file system; fsmount(2)."""
    return _fsmount(fd, 1, attributes)


def mount_setattr(
    fd: int,
    path: str,
    attributes: int,
    *,
    clear: int = 0,
    recursive: bool = False,
    userns: int = 0,
    propagation: int = 0,
) -> None:
    """Set and clear attributes (MOUNT_ATTR_…) of a mount, of the fd's own when `path` is empty;
    mount_setattr(2).
    """
    flags = (0 if path else AT_EMPTY_PATH) | (AT_RECURSIVE if recursive else 0)
    wanted = pack("4Q", attributes, clear, propagation, userns)
    _mount_setattr(fd, os.fsencode(path), flags, wanted, len(wanted), path=path or None)


def openat2(dfd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """A CLOEXEC fd of `path`, found by the RESOLVE_… rules; openat2(2)."""
    how = pack("3Q", flags | os.O_CLOEXEC, mode, resolve)
    while True:
        try:
            return _openat2(dfd, os.fsencode(path), how, len(how), path=path)
        except BlockingIOError:
            pass  # EAGAIN: somewhere on the host a rename or a mount met a ".." of this path; try again


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A descriptor of what another process has open as `fd`; pidfd_getfd(2)."""
    return _pidfd_getfd(pidfd, fd, 0)


def renameat2(source: str, target: str, flags: int) -> None:
    """Rename by the RENAME_… flags; renameat2(2)."""
    _renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags, path=source)


def syncfs(fd: int) -> None:
    """Write everything on the file system of `fd` to disk; syncfs(2)."""
    _syncfs(fd)


def quotactl_fd(fd: int, command: int, id_: int, data: bytearray) -> None:
    """A command of quotactl(2) for the file system of `fd`; `data` is read or overwritten."""
    buffer = ctypes.create_string_buffer(bytes(data), len(data))
    _quotactl_fd(fd, command, id_, buffer)  # type: ignore[arg-type]
    data[:] = buffer.raw


def fork_into_cgroup(group: int) -> int:
    """Fork, with the child in the cgroup open as `group` from its first instruction; clone3(2).

    Returns the child's pid, and 0 in the child, which may only call os._exit or execve: Python's own
    fork hooks have not run in it.
    """
    arguments = pack("11Q", CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, group)
    return _clone3(arguments, len(arguments))


def ioprio_set(which: int, who: int, priority: int) -> None:
    """Set an I/O priority; ioprio_set(2). OSError, ENOSYS, on an architecture not in the table."""
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    _Function(c_int, c_int, c_int, number=number)(which, who, priority)


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    options = None if data is None else os.fsencode(data)
    kind_name = None if kind is None else kind.encode()
    _mount(os.fsencode(source), os.fsencode(target), kind_name, flags, options, path=target)


def umount2(target: str, flags: int) -> None:
    """umount2(2)."""
    _umount2(os.fsencode(target), flags, path=target)


def unshare(flags: int) -> None:
    """Give this thread new namespaces of these kinds; unshare(2)."""
    _unshare(flags)


def setns(fd: int, kinds: int) -> None:
    """Move this thread into the namespace, or those kinds of a pidfd's process; setns(2)."""
    _setns(fd, kinds)


def inotify_init1(flags: int) -> int:
    """inotify_init(2)."""
    return _inotify_init1(flags)


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """inotify_add_watch(2)."""
    return _inotify_add_watch(fd, os.fsencode(path), mask, path=path)


def inotify_rm_watch(fd: int, descriptor: int) -> None:
    """inotify_rm_watch(2)."""
    _inotify_rm_watch(fd, descriptor)
