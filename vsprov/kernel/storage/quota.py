"""Project quotas: limits of all files that have the same project id; quotactl(2), ioctl_fsxattr(2)."""

from __future__ import annotations

import errno
import fcntl
from struct import pack, unpack, unpack_from

from msgspec import Struct

from vsprov.kernel import syscall

_GET_ATTRIBUTES, _SET_ATTRIBUTES, _INHERIT = 0x801C581F, 0x401C5820, 0x200
_ATTRIBUTES = "5I8s"  # struct fsxattr: flags, extent size, extents, project, extent size of copies, reserved
_PROJECTS, _KIND_BITS = 2, 8
_GET, _SET, _STATE = 0x800007, 0x800008, 0x5805  # Q_GETQUOTA, Q_SETQUOTA, Q_XGETQSTAT
_LIMITS, _BLOCK = 5, 1024  # QIF_BLIMITS | QIF_ILIMITS; limits are in blocks of 1 KiB
_QUOTA = "8QI4x"  # struct if_dqblk
_ENFORCED = 1 << 5  # FS_QUOTA_PDQ_ENFD
_UNSUPPORTED = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class Quota(Struct, frozen=True):
    """Limits of bytes and of inodes, 0 for none, and what is used."""

    space: int
    inodes: int
    used: int = 0
    used_inodes: int = 0


def is_enforced(fd: int) -> bool:
    """Whether the file system of an open file enforces project quotas."""
    state = bytearray(256)
    try:
        syscall.quotactl_fd(fd, _STATE << _KIND_BITS | _PROJECTS, 0, state)
    except OSError as error:
        if error.errno not in (*_UNSUPPORTED, errno.ESRCH):
            raise
        return False
    return bool(unpack_from("H", state, 2)[0] & _ENFORCED)


def get(fd: int, project: int) -> Quota:
    """The quota of a project; OSError, ENOENT, if it has none."""
    data = bytearray(72)
    syscall.quotactl_fd(fd, _GET << _KIND_BITS | _PROJECTS, project, data)
    blocks, _, used, inodes, _, used_inodes = unpack_from("6Q", data)
    return Quota(blocks * _BLOCK, inodes, used, used_inodes)


def find(fd: int, project: int) -> Quota:
    """The quota of a project; without limits and use if it has none, or the file system has no quotas."""
    try:
        return get(fd, project)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH):
            raise
        return Quota(0, 0)


def set_limits(fd: int, project: int, space: int, inodes: int) -> None:
    """Set the limits of a project in bytes and inodes, 0 for none."""
    data = bytearray(pack(_QUOTA, space // _BLOCK, 0, 0, inodes, 0, 0, 0, 0, _LIMITS))
    syscall.quotactl_fd(fd, _SET << _KIND_BITS | _PROJECTS, project, data)


def project_of(fd: int) -> int:
    """The project of a directory that everything made in it belongs to; 0 if there is none."""
    try:
        flags, _, _, project, _, _ = unpack(_ATTRIBUTES, fcntl.ioctl(fd, _GET_ATTRIBUTES, bytes(28)))
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return 0
    return int(project) if flags & _INHERIT else 0


def set_project(fd: int, project: int) -> None:
    """Make a directory, and whatever is made in it from now on, belong to a project; 0 for none."""
    flags, extent, extents, _, copies, rest = unpack(_ATTRIBUTES, fcntl.ioctl(fd, _GET_ATTRIBUTES, bytes(28)))
    flags = flags | _INHERIT if project else flags & ~_INHERIT
    fcntl.ioctl(fd, _SET_ATTRIBUTES, pack(_ATTRIBUTES, flags, extent, extents, project, copies, rest))
