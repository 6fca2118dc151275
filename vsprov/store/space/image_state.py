"""What is known of an image: by its mark, its file and its file system.

The mark `disk` of an image is "BYTES BLOCKS INODES": see `vsprov.store.space.image`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from vsprov.errors import FailedError, reason
from vsprov.kernel.storage import ext4, loop
from vsprov.model.disk_backends import IMAGE
from vsprov.plan.seen_disk import SeenDisk
from vsprov.store.disk import marks
from vsprov.store.instance import DISK_IMAGE

MARK = "disk"


def path(folder: str) -> str:
    """The image in the directory of a server."""
    return f"{folder}/{DISK_IMAGE}"


class Made(Struct, frozen=True):
    """What the mark says, in this order."""

    size: int
    blocks: int
    inodes: int

    @staticmethod
    def of(path: str) -> Made | None:
        words = (marks.find_mark(path, MARK) or "").split()
        return Made(*map(int, words)) if len(words) == 3 and all(map(str.isdigit, words)) else None

    def __str__(self) -> str:
        return f"{self.size} {self.blocks} {self.inodes}"


def observe(folder: str, devices: dict[str, str]) -> SeenDisk | None:
    """What limits a server by an image; None if it has none. `devices` as `loop.devices` returns them."""
    image = path(folder)
    try:
        fd = os.open(image, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        return SeenDisk(IMAGE, 0, problem=f"{image}: {reason(error)}")
    try:
        status, made = os.fstat(fd), Made.of(image)
        with opened_device(image, status, devices) as device:
            found = ext4.superblock(fd if device is None else device)
            why = problem(found, made, status.st_size)
            if found is None or made is None or why:
                return SeenDisk(IMAGE, status.st_size, problem=f"{image}: {why}", attached=device is not None)
            return _seen(found, made, status.st_size, device)
    finally:
        os.close(fd)


@contextmanager
def opened_device(image: str, status: os.stat_result, devices: dict[str, str]) -> Iterator[int | None]:
    """The loop device that has the image attached, open; None if there is none."""
    device = devices.get(os.path.realpath(image))
    fd = loop.open_device(device, status) if device else None
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def problem(found: ext4.Superblock | None, made: Made | None, size: int) -> str:
    """Why an image of `size` bytes with this file system cannot be used; "" if it can."""
    if found is None:
        return "has no ext4 file system (any more)"
    if made is None:
        return "has no mark of vsprov"
    if size < found.size:
        return f"is truncated: it has {size} bytes, and its file system {found.size}"
    return ""


def _seen(found: ext4.Superblock, made: Made, size: int, device: int | None) -> SeenDisk:
    # The last group of blocks may be too small for a file system, which then is not as large as its file.
    whole = made.blocks == found.blocks
    file_system = made.size if whole else found.size
    used, taken = (found.blocks - found.overhead - found.free) * found.block, found.inodes - found.free_inodes
    now = _statistics(device) if device is not None else None
    if now:
        used, taken = (now.f_blocks - now.f_bfree) * now.f_frsize, now.f_files - now.f_ffree
    return SeenDisk(
        IMAGE,
        size if whole and size != made.size else file_system,
        made.inodes or None,
        used,
        taken,
        found.inodes,
        file_system,
        device is not None,
        device is not None and ext4.is_read_only(device),
    )


def _statistics(device: int) -> os.statvfs_result | None:
    """What a mounted file system says; None if it has become read-only, as after an I/O error."""
    try:
        with mounted_at(device) as mounted:
            return os.fstatvfs(mounted)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return None


@contextmanager
def mounted_at(device: int) -> Iterator[int]:
    """Another detached mount of the file system on an open loop device, for the block."""
    mounted = ext4.mount(device)
    try:
        yield mounted
    finally:
        os.close(mounted)


def made_with(folder: str) -> tuple[int, int | None]:
    """The size in bytes and the number of inodes, None for any, that the image of a server was made with."""
    image = path(folder)
    made = Made.of(image)
    if made is None:
        raise FailedError(f"{image}: has no mark of vsprov")
    return made.size, made.inodes or None
