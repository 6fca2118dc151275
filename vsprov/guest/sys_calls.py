"""System calls that Python 3.11 has no function for, and their constants.

Each wrapper has the name of its call and raises OSError. PyDLL, because the program has one thread: releasing
the interpreter lock around a call would only cost time.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint, c_ulong, c_void_p
from errno import EAGAIN, EPERM
from fcntl import F_DUPFD_CLOEXEC, fcntl
from struct import pack, unpack

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from typing import NoReturn

AT_FDCWD, AT_SYMLINK_NOFOLLOW, AT_EACCESS, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x100, 0x200, 0x1000, 0x8000
STATX_MNT_ID = 0x1000
LARGEST_FD = 0xFFFFFFFF

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWTIME = 0x10000000, 0x20000000, 0x40000000, 0x00000080
CLONE_INTO_CGROUP = 0x200000000
SIGCHLD, SIGKILL, SIG_SETMASK = 17, 9, 2

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED = 0x1000, 0x4000, 1 << 18, 1 << 20
MNT_DETACH = 2

MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
MOUNT_ATTR_IDMAP = 0x00100000
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 0x4, 0x40
FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC = 1, 1
FSCONFIG_SET_STRING, FSCONFIG_SET_FD, FSCONFIG_CMD_CREATE = 1, 5, 6

RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 0x02, 0x04, 0x08, 0x10

PR_SET_DUMPABLE, PR_SET_NAME, PR_SET_SECCOMP, PR_CAPBSET_READ, PR_CAPBSET_DROP = 4, 15, 22, 23, 24
PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS = 28, 38
KEYCTL_JOIN_SESSION_KEYRING = 1
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION_3 = 0x20080522
CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 21, 24

MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_EXEC = 1, 2, 0x10
F_ADD_SEALS, F_SEALS_ALL = 1033, 0xF  # seal, shrink, grow, write

_RT_SIGACTION = 13 if os.uname().machine == "x86_64" else 134

_libc = ctypes.PyDLL(None, use_errno=True)
_strerror = os.strerror
get_errno = ctypes.get_errno


def failed(path: str | bytes | None = None) -> NoReturn:
    """Raise OSError for the call that has just returned -1."""
    number = get_errno()
    raise OSError(number, _strerror(number), path)


def _call(name: str, *types: type) -> ctypes._NamedFuncPointer:
    function = _libc[name]
    function.argtypes = types
    return function


def _raw(*types: type) -> ctypes._NamedFuncPointer:
    function = _libc["syscall"]
    function.argtypes = (c_long, *types)
    function.restype = c_long
    return function


# From 424 on the numbers are the same on every architecture.
_open_tree = _raw(c_int, c_char_p, c_uint)
_move_mount = _raw(c_int, c_char_p, c_int, c_char_p, c_uint)
_fsopen = _raw(c_char_p, c_uint)
_fsconfig = _raw(c_int, c_uint, c_char_p, c_char_p, c_int)
_fsmount = _raw(c_int, c_uint, c_uint)
_clone3 = _raw(c_char_p, c_size_t)
_close_range = _raw(c_uint, c_uint, c_uint)
_openat2 = _raw(c_int, c_char_p, c_char_p, c_size_t)
_mount_setattr = _raw(c_int, c_char_p, c_uint, c_char_p, c_size_t)
_any = _raw(*(c_long,) * 6)
_mprotect = _call("mprotect", c_void_p, c_size_t, c_int)
_mount = _call("mount", c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
_unshare = _call("unshare", c_int)
_setns = _call("setns", c_int, c_int)
_prctl = _call("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_prctl_text = _call("prctl", c_int, c_char_p, c_ulong, c_ulong, c_ulong)
_ioctl = _call("ioctl", c_int, c_ulong, c_char_p)
_ioctl_value = _call("ioctl", c_int, c_ulong, c_ulong)
_fstatfs = _call("fstatfs", c_int, c_void_p)
_signalfd = _call("signalfd", c_int, c_char_p, c_int)
_sigprocmask = _call("sigprocmask", c_int, c_char_p, c_void_p)
_setfsgid = _call("setfsgid", c_uint)
_setfsuid = _call("setfsuid", c_uint)
_setfsuid.restype = c_uint
_capget = _call("capget", c_char_p, c_void_p)
_capset = _call("capset", c_char_p, c_char_p)
_rt_sigaction = _raw(c_int, c_char_p, c_void_p, c_size_t)

# How many this kernel knows, 41 or more since Linux 5.9. /proc/sys says it too, but may be hidden.
CAPABILITIES = 41
while _prctl(PR_CAPBSET_READ, CAPABILITIES, 0, 0, 0) >= 0:
    CAPABILITIES += 1


def open_tree(dfd: int, path: bytes, flags: int) -> int:
    """An fd of the mount at `path`, or of a detached copy of it (OPEN_TREE_CLONE); open_tree(2)."""
    fd: int = _open_tree(428, dfd, path, flags | OPEN_TREE_CLOEXEC)
    return fd if fd >= 0 else failed(path)


def move_mount(tree: int, target: int) -> None:
    """Attach the detached mount `tree` where the fd `target` is; move_mount(2)."""
    if _move_mount(429, tree, b"", target, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0:
        failed()


def fsopen(kind: bytes) -> int:
    """An fd to configure a new file system of this kind; fsopen(2)."""
    fd: int = _fsopen(430, kind, FSOPEN_CLOEXEC)
    return fd if fd >= 0 else failed(kind)


def fsconfig(
    fd: int, command: int, key: bytes | None = None, value: bytes | None = None, aux: int = 0
) -> None:
    """One step of configuration; fsconfig(2)."""
    if _fsconfig(431, fd, command, key, value, aux) < 0:
        failed(key)


def fsmount(fd: int, attributes: int) -> int:
    """An fd of a detached mount of the configured file system; fsmount(2)."""
    mount: int = _fsmount(432, fd, FSMOUNT_CLOEXEC, attributes)
    return mount if mount >= 0 else failed()


def mount_setattr(fd: int, recursive: bool, attributes: int, userns: int = 0) -> None:
    """Set attributes of a detached mount, and with MOUNT_ATTR_IDMAP the id map of `userns`, and make it
    private; mount_setattr(2).

    A copy of a shared mount is its peer: what a server with CAP_SYS_ADMIN mounts below it would be mounted on
    the host too (mount_namespaces(7), "Shared subtrees").
    """
    flags = AT_EMPTY_PATH | AT_RECURSIVE if recursive else AT_EMPTY_PATH
    if _mount_setattr(442, fd, b"", flags, pack("4Q", attributes, 0, MS_PRIVATE, userns), 32) < 0:
        failed()


def clone_arguments(flags: int, cgroup: int) -> bytes:
    """A struct clone_args; `cgroup` is the fd for CLONE_INTO_CGROUP."""
    return pack("11Q", flags, 0, 0, 0, SIGCHLD, 0, 0, 0, 0, 0, cgroup)


def clone3(flags: int, cgroup: int) -> int:
    """Fork into new namespaces; the child's pid, 0 in the child; clone3(2)."""
    pid: int = _clone3(435, clone_arguments(flags, cgroup), 88)
    return pid if pid >= 0 else failed()


def raw_syscall(*words: int) -> int:
    """Any system call by its number; its result, or minus the errno."""
    result: int = _any(*words)
    return result if result != -1 else -get_errno()


def mprotect(address: int, size: int, protection: int) -> None:
    """mprotect(2)."""
    if _mprotect(address, size, protection) < 0:
        failed()


def close_range(first: int, last: int) -> None:
    """Close every fd from `first` to `last`; nothing if the range is empty."""
    if first <= last and _close_range(436, first, last, 0) < 0:
        failed()


def close_others(fd: int) -> None:
    """Close every fd from 3 on but this one: those that our caller left open."""
    close_range(3, fd - 1)
    close_range(max(fd + 1, 3), 0xFFFFFFFF)


def move_high(fd: int, lowest: int) -> int:
    """Move an fd to the first free number from `lowest` on, with FD_CLOEXEC set."""
    high = fcntl(fd, F_DUPFD_CLOEXEC, lowest)
    os.close(fd)
    return high


def openat2(dfd: int, path: bytes, flags: int, resolve: int, mode: int = 0) -> int:
    """open(2) with the RESOLVE_ rules of openat2(2)."""
    how = pack("3Q", flags | os.O_CLOEXEC, mode, resolve)
    fd = -1
    while fd < 0:
        fd = _openat2(437, dfd, path, how, len(how))
        if fd < 0 and get_errno() != EAGAIN:  # a rename or a mount on the host met a ".."
            failed(path)
    return fd


def file_system(fd: int) -> int:
    """The magic number of the file system of an fd, f_type of fstatfs(2)."""
    status = ctypes.create_string_buffer(256)
    if _fstatfs(fd, status) < 0:
        failed()
    return int.from_bytes(status.raw[:8], "little")


def mount(source: bytes, target: bytes, kind: bytes | None, flags: int, data: bytes | None = None) -> None:
    """mount(2)."""
    if _mount(source, target, kind, flags, data) < 0:
        failed(target)


def unshare(flags: int) -> None:
    """unshare(2)."""
    if _unshare(flags) < 0:
        failed()


def setns(fd: int, kinds: int) -> None:
    """Join a namespace, or the namespaces of these kinds of a pidfd's process; setns(2)."""
    if _setns(fd, kinds) < 0:
        failed()


def set_file_user(uid: int) -> None:
    """Set the user and the group that file systems see; setfsuid(2), capset(2).

    Changing it from 0 removes capabilities that concern files from the effective set (capabilities(7)). All
    are kept but CAP_SYS_RESOURCE, which a user other than 0 lacks then: by it, ext4 gives away the blocks
    that it reserves, and no quota is enforced.
    """
    _setfsgid(uid)
    _setfsuid(uid)
    if _setfsuid(0xFFFFFFFF) != uid:  # it reports no error, but the previous user
        raise OSError(EPERM, "cannot change the user for file access")
    header, sets = pack("Ii", CAPABILITY_VERSION_3, 0), ctypes.create_string_buffer(24)
    if _capget(header, sets) < 0:
        failed()
    _effective, low, inherited, _high_effective, high, high_inherited = unpack("6I", sets.raw)
    effective = low & ~(1 << CAP_SYS_RESOURCE) if uid else low
    if _capset(header, pack("6I", effective, low, inherited, high, high, high_inherited)) < 0:
        failed()
    prctl(PR_SET_DUMPABLE, 0)  # the change sets it where fs.suid_dumpable is 1


def prctl(option: int, value: int = 0) -> None:
    """prctl(2) with one argument."""
    if _prctl(option, value, 0, 0, 0) < 0:
        failed()


def name_process(name: bytes) -> None:
    """Set the name shown by ps(1) and in /proc/PID/comm; at most 15 bytes."""
    if _prctl_text(PR_SET_NAME, name, 0, 0, 0) < 0:
        failed()


def ioctl(fd: int, request: int, argument: bytes) -> None:
    """ioctl(2) whose argument the kernel only reads."""
    if _ioctl(fd, request, argument) < 0:
        failed()


def open_peer(master: int) -> int:
    """The slave of a pty, opened by its master alone (TIOCGPTPEER); not made the controlling terminal."""
    fd: int = _ioctl_value(master, 0x5441, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    return fd if fd >= 0 else failed()


def sigchld_fd() -> int:
    """Block SIGCHLD and return a signalfd(2) for it."""
    mask = pack("Q", 1 << (SIGCHLD - 1)) + bytes(120)
    set_signal_mask(mask)
    fd: int = _signalfd(-1, mask, os.O_CLOEXEC | os.O_NONBLOCK)
    return fd if fd >= 0 else failed()


def set_signal_mask(mask: bytes = bytes(128)) -> None:
    """Replace the signal mask (SIG_SETMASK); empty by default."""
    if _sigprocmask(2, mask, None) < 0:
        failed()


def reset_signals() -> None:
    """Restore the default disposition of every signal: an ignored one would stay ignored across execve.

    Python ignores SIGPIPE, and our caller may ignore any. By system call, because libc's function refuses the
    two signals that it uses itself.
    """
    for number in range(1, 65):
        _rt_sigaction(_RT_SIGACTION, number, bytes(32), None, 8)  # SIGKILL and SIGSTOP refuse
