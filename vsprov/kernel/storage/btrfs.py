"""btrfs: subvolumes, and the quota groups that limit them; btrfs-ioctl(2), btrfs-quota(8).

Each subvolume has a group of its own, 0/ID, if the file system has quotas enabled, and may be in groups of a
higher level, 1/NUMBER, which limit all that are in them together. A group is one number here: its level in
the upper 16 bits. What a group uses is counted when the file system commits, every 30 seconds or at
syncfs(2); its limit applies at once.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from struct import pack, pack_into, unpack_from
from uuid import UUID

from msgspec import Struct

_SUBVOL_CREATE, _INO_LOOKUP, _FS_INFO = 0x5000940E, 0xD0009412, 0x8400941F
_GROUP_ASSIGN, _GROUP_CREATE, _GROUP_LIMIT = 0x40189429, 0x4010942A, 0x8030942B
_RESCAN, _RESCAN_WAIT, _TREE_SEARCH = 0x4040942C, 0x942E, 0xD0009411
_QUOTA_TREE, _RELATION = 8, 246  # BTRFS_QUOTA_TREE_OBJECTID, BTRFS_QGROUP_RELATION_KEY
_SEARCH, _FOUND, _MANY = "7Q4I4Q", "3Q2I", 4096  # struct btrfs_ioctl_search_key, …_search_header
_LEVEL = 48  # bits of a number below its level
_ARGUMENTS, _INFO, _NAME_AT, _ID_AT = 4096, 1024, 8, 16  # struct btrfs_ioctl_vol_args, …_fs_info_args
_TOP = 256  # the inode number of the directory that a subvolume is: BTRFS_FIRST_FREE_OBJECTID
_REFERENCED, _NONE = 1, (1 << 64) - 1  # BTRFS_QGROUP_LIMIT_MAX_RFER; no limit
_NOT_BTRFS = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
_GROUPS = "/sys/fs/btrfs/{}/qgroups"


class Group(Struct, frozen=True):
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


def above(number: int) -> int:
    """The group of level 1 with this number."""
    return 1 << _LEVEL | number


def _split(group: int) -> tuple[int, int]:
    """(level, number) of a group."""
    return group >> _LEVEL, group & (1 << _LEVEL) - 1


def find(fd: int, group: int) -> Group | None:
    """A quota group of the file system of an open file; None if it has none, or no quotas."""
    level, number = _split(group)
    path = f"{groups(fd)}/{level}_{number}"
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


def parents(fd: int, group: int) -> tuple[int, ...]:
    """The numbers of the groups of level 1 that a group of a subvolume is in."""
    return tuple(_split(other)[1] for other in _related(fd, group) if _split(other)[0] == 1)


def members(fd: int, group: int) -> tuple[int, ...]:
    """The groups that are in a group."""
    return tuple(other for other in _related(fd, group) if _split(other)[0] < _split(group)[0])


def _related(fd: int, group: int) -> list[int]:
    """The groups that a group is in, and those that are in it. Each relation is stored for both."""
    found: list[int] = []
    after = 0
    while True:
        kinds, unused = (_RELATION, _RELATION), 5 * (0,)
        key = pack(_SEARCH, _QUOTA_TREE, group, group, after, _NONE, 0, _NONE, *kinds, _MANY, *unused)
        data = bytearray(key.ljust(_ARGUMENTS, b"\0"))
        try:
            fcntl.ioctl(fd, _TREE_SEARCH, data)
        except FileNotFoundError:  # no quotas
            return found
        (count,) = unpack_from("I", data, 64)
        if not count:
            return found
        at = 104
        for _ in range(count):
            _, _, other, _, length = unpack_from(_FOUND, data, at)
            found.append(other)
            at += 32 + length
        after = found[-1] + 1


def put_into(fd: int, member: int, group: int) -> bool:
    """Put a group into another one, in which it is not yet; whether what they use has become unknown."""
    return _assign(fd, 1, member, group)


def take_out(fd: int, member: int, group: int) -> bool:
    """Take a group out of another one; whether what they use has become unknown, see `count_again`."""
    return _assign(fd, 0, member, group)


def _assign(fd: int, inside: int, member: int, group: int) -> bool:
    # The kernel can only add or subtract what nothing else shares, no snapshot by reflinks for one.
    return int(fcntl.ioctl(fd, _GROUP_ASSIGN, bytearray(pack("3Q", inside, member, group)))) > 0


def count_again(fd: int) -> None:
    """Count what all groups use, which takes as long as reading the metadata of the file system."""
    while True:
        try:
            fcntl.ioctl(fd, _RESCAN, bytes(64))
            break
        except OSError as error:
            if error.errno != errno.EINPROGRESS:  # one that began before
                raise
            fcntl.ioctl(fd, _RESCAN_WAIT)
    fcntl.ioctl(fd, _RESCAN_WAIT)


def remove_group(fd: int, group: int) -> None:
    """Remove the group of a subvolume that was removed. Since Linux 6.11, the kernel does it, but later. Or
    one of level 1 that nothing is in.
    """
    try:
        fcntl.ioctl(fd, _GROUP_CREATE, pack("2Q", 0, group))
    except OSError as error:
        # It is in use as long as the kernel has not removed the subvolume; or there is none, or no quotas.
        if error.errno not in (errno.EBUSY, errno.ENOENT, errno.ENOTCONN, errno.EINVAL):
            raise
