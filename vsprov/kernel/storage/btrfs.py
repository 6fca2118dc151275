"""btrfs: subvolumes, and the quota groups that limit them; btrfs-ioctl(2), btrfs-quota(8).

Each subvolume has a group of its own, 0/ID, if the file system has quotas enabled. What a group uses is
counted when the file system commits, every 30 seconds or at syncfs(2); its limit applies at once.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from struct import pack, pack_into, unpack_from
from uuid import UUID

_SUBVOL_CREATE, _INO_LOOKUP, _FS_INFO = 0x5000940E, 0xD0009412, 0x8400941F
_GROUP_CREATE, _GROUP_LIMIT = 0x4010942A, 0x8030942B
_ARGUMENTS, _INFO, _NAME_AT, _ID_AT = 4096, 1024, 8, 16  # struct btrfs_ioctl_vol_args, …_fs_info_args
_TOP = 256  # the inode number of the directory that a subvolume is: BTRFS_FIRST_FREE_OBJECTID
_REFERENCED, _NONE = 1, (1 << 64) - 1  # BTRFS_QGROUP_LIMIT_MAX_RFER; no limit
_NOT_BTRFS = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
_GROUPS = "/sys/fs/btrfs/{}/qgroups"


@dataclass(frozen=True, slots=True)
class Group:
    """A quota group: its limit in bytes, 0 for none, what is used, and what the kernel has set aside for
    metadata besides.
    """

    limit: int
    used: int
    reserved: int = 0


def groups(fd: int) -> str | None:
    """Where sysfs shows the quota groups of the file system of an open file; None if it is not btrfs.

    The path does not exist if its quotas are not enabled.
    """
    data = bytearray(_INFO)
    try:
        fcntl.ioctl(fd, _FS_INFO, data)
    except OSError as error:
        if error.errno not in _NOT_BTRFS:
            raise
        return None
    return _GROUPS.format(UUID(bytes=bytes(data[_ID_AT : _ID_AT + 16])))


def is_subvolume(fd: int) -> bool:
    """Whether an open directory is the top of a subvolume."""
    return os.fstat(fd).st_ino == _TOP and groups(fd) is not None


def create(folder: int, name: str) -> None:
    """Create a subvolume, an empty directory with the usual mode, in an open directory."""
    data = bytearray(_ARGUMENTS)
    encoded = os.fsencode(name)
    data[_NAME_AT : _NAME_AT + len(encoded)] = encoded
    fcntl.ioctl(folder, _SUBVOL_CREATE, data)


def subvolume(fd: int) -> int:
    """The ID of the subvolume that an open file is in, and of its group."""
    data = bytearray(_ARGUMENTS)
    pack_into("2Q", data, 0, 0, _TOP)
    fcntl.ioctl(fd, _INO_LOOKUP, data)
    return int(unpack_from("Q", data)[0])


def find(fd: int, group: int) -> Group | None:
    """A quota group of the file system of an open file; None if it has none, or no quotas."""
    path = f"{groups(fd)}/0_{group}"
    try:
        numbers = {name: _number(f"{path}/{name}") for name in ("limit_flags", "max_referenced")}
        used = _number(f"{path}/referenced") + _number(f"{path}/rsv_data")
        reserved = sum(_number(f"{path}/rsv_meta_{kind}") for kind in ("prealloc", "pertrans"))
    except FileNotFoundError:
        return None
    limit = numbers["max_referenced"] if numbers["limit_flags"] & _REFERENCED else 0
    return Group(limit, used, reserved)


def is_inconsistent(groups: str) -> bool:
    """Whether what the groups use is not known (any more), and has to be counted anew."""
    with suppress(FileNotFoundError):  # Linux 6.1
        return _number(f"{groups}/inconsistent") != 0
    return False


def _number(path: str) -> int:
    with open(path, "rb", buffering=0) as file:
        return int(file.read())


def set_limit(fd: int, group: int, size: int) -> None:
    """Limit what a group references to `size` bytes, 0 for no limit. A group that is missing, because
    quotas were disabled and enabled again, is created. OSError, ENOTCONN, without quotas.
    """
    limit = pack("6Q", group, _REFERENCED, size or _NONE, 0, 0, 0)
    try:
        fcntl.ioctl(fd, _GROUP_LIMIT, limit)
    except FileNotFoundError:
        fcntl.ioctl(fd, _GROUP_CREATE, pack("2Q", 1, group))
        fcntl.ioctl(fd, _GROUP_LIMIT, limit)


def remove_group(fd: int, group: int) -> None:
    """Remove the group of a subvolume that was removed. Since Linux 6.11, the kernel does it, but later."""
    try:
        fcntl.ioctl(fd, _GROUP_CREATE, pack("2Q", 0, group))
    except OSError as error:
        # It is in use as long as the kernel has not removed the subvolume; or there is none, or no quotas.
        if error.errno not in (errno.EBUSY, errno.ENOENT, errno.ENOTCONN, errno.EINVAL):
            raise
