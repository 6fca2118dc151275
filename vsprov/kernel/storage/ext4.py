"""ext4: its superblock (ext4/globals.rst), detached mounts, and growing while it is mounted."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from struct import pack, pack_into, unpack_from

from msgspec import Struct

from vsprov.kernel import syscall

BLOCK = 4096  # bytes in a block of the file systems that we make
_AT, _SIZE, _MAGIC = 1024, 1024, 0xEF53
_RESIZE_FS = 0x40086610
_NEEDS_RECOVERY, _CHECKSUM_SEED = 4, 0x2000  # EXT4_FEATURE_INCOMPAT_RECOVER, EXT4_FEATURE_INCOMPAT_CSUM_SEED
_INCOMPATIBLE, _UUID, _CHECKSUM = 0x60, 0x68, 0x3FC  # offsets in the superblock
_CRC32C = 0x82F63B78  # the polynomial of Castagnoli, its lowest bit last
_READ_ONLY = frozenset(("ro", "emergency_ro"))
# What a file system has that we make; each is an option of ext4(5). Freed blocks become holes of the file.
_FLAGS, _OPTIONS = ("discard", "noinit_itable"), (("errors", b"remount-ro"),)


class Superblock(Struct, frozen=True):
    """What a superblock says: the size of blocks in bytes, all blocks, those that are free, and inodes.

    `overhead` are the blocks that files cannot use, 0 if unknown. While it is mounted, what is free is not
    up to date, nor after a crash: `journal` is whether its journal has to be replayed.
    """

    block: int
    blocks: int
    free: int
    overhead: int
    inodes: int
    free_inodes: int
    journal: bool = False

    @property
    def size(self) -> int:
        """Bytes of the whole file system."""
        return self.blocks * self.block


def superblock(fd: int) -> Superblock | None:
    """The superblock in an open file or device; None if it has none of ext4."""
    data = os.pread(fd, _SIZE, _AT)
    if len(data) < _SIZE or unpack_from("<H", data, 0x38)[0] != _MAGIC:
        return None
    inodes, low, _, free_low, free_inodes = unpack_from("<5I", data)
    high, free_high = unpack_from("<I4xI", data, 0x150)
    (logarithm,) = unpack_from("<I", data, 0x18)
    if logarithm > 6 or not inodes:
        return None
    (overhead,) = unpack_from("<I", data, 0x248)
    (incompatible,) = unpack_from("<I", data, _INCOMPATIBLE)
    return Superblock(
        1024 << logarithm,
        high << 32 | low,
        free_high << 32 | free_low,
        overhead,
        inodes,
        free_inodes,
        bool(incompatible & _NEEDS_RECOVERY),
    )


def set_uuid(fd: int, uuid: bytes) -> None:
    """Give another UUID to a file system that is not mounted and whose checksums do not depend on the UUID.

    Copies of the superblock keep theirs, as they keep all that has changed since the file system was made.
    """
    data = bytearray(os.pread(fd, _SIZE, _AT))
    if not unpack_from("<I", data, _INCOMPATIBLE)[0] & _CHECKSUM_SEED:
        raise ValueError("the checksums of the file system depend on its UUID")
    data[_UUID : _UUID + len(uuid)] = uuid
    pack_into("<I", data, _CHECKSUM, _crc32c(data[:_CHECKSUM]))
    os.pwrite(fd, data, _AT)


def _crc32c(data: bytes | bytearray) -> int:
    """The checksum of superblocks: that of RFC 3720 without its last inversion. Python has none of them."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _crc32c_table()[(crc ^ byte) & 255]
    return crc


@cache
def _crc32c_table() -> tuple[int, ...]:
    found = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (_CRC32C if number & 1 else 0)
        found.append(number)
    return tuple(found)


def mount(device: int) -> int:
    """A detached mount of the ext4 on an open block device; of the one that is mounted already, if it is."""
    context = syscall.fsopen("ext4")
    try:
        source = os.fsencode(_name(device))
        syscall.fsconfig(context, syscall.FSCONFIG_SET_STRING, "source", source)
        for name in _FLAGS:
            syscall.fsconfig(context, syscall.FSCONFIG_SET_FLAG, name)
        for name, text in _OPTIONS:
            syscall.fsconfig(context, syscall.FSCONFIG_SET_STRING, name, text)
        syscall.fsconfig(context, syscall.FSCONFIG_CMD_CREATE)
        return syscall.fsmount(context, syscall.MOUNT_ATTR_NOSUID | syscall.MOUNT_ATTR_NODEV)
    finally:
        os.close(context)


@contextmanager
def flushed(mounted: int) -> Iterator[None]:
    """What the block writes to a mounted file system is on its device at the end. OSError otherwise, as when
    the host has no room for the file of a loop device: nobody else is told; syncfs(2).
    """
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mounted)  # errors from now on
    try:
        yield
        syscall.syncfs(fd)
    finally:
        os.close(fd)


def _name(device: int) -> str:
    """The path of an open device, which mount tables show; in /proc if it has no other."""
    ours = f"/proc/self/fd/{device}"
    name = os.readlink(ours)
    with suppress(FileNotFoundError):
        if os.stat(name).st_rdev == os.fstat(device).st_rdev:
            return name
    return ours


def is_read_only(device: int) -> bool:
    """Whether the ext4 on an open block device is mounted for reading only, as after an error of its disk.

    Since Linux 6.15, the mount remains writable then, and statfs(2) does not say so.
    """
    name = os.path.basename(os.readlink(f"/proc/self/fd/{device}"))
    try:
        options = Path(f"/proc/fs/ext4/{name}/options").read_text().split()
    except FileNotFoundError:  # it is not mounted (any more)
        return False
    return not _READ_ONLY.isdisjoint(options)


def grow(mounted: int, size: int) -> None:
    """Grow a mounted file system to `size` bytes; its device must have them. Requires CAP_SYS_RESOURCE."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mounted)
    try:
        fcntl.ioctl(fd, _RESIZE_FS, pack("Q", size // BLOCK))
    finally:
        os.close(fd)
