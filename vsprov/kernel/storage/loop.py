"""Loop devices: block devices whose content is a file; loop(4)."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from struct import calcsize, pack_into, unpack_from
from threading import Lock, Thread

LOOP_GET_STATUS64, LOOP_SET_CAPACITY, LOOP_CONFIGURE, LOOP_CTL_GET_FREE = 0x4C05, 0x4C07, 0x4C0A, 0x4C82
LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO = 4, 16
CONTROL = "/dev/loop-control"
# struct loop_config: the fd, the size of blocks, struct loop_info64, eight reserved numbers; linux/loop.h
_CONFIG, _INFO = 304, 232
_LONGEST = 4097  # bytes of a file in sysfs
_ONE_AT_A_TIME = Lock()  # threads would all try the same free device
_NUMBERS, _FLAGS = "=II", "=I"
_INFO_AT, _FLAGS_AT = calcsize(_NUMBERS), calcsize(_NUMBERS) + 52


def lock(file: int, seconds: float) -> bool:
    """Wait until no other open file of the same inode is locked, and lock this one; False after `seconds`.

    A loop device keeps its file open, and with it the lock: nobody else gets one before the device is free.
    """
    # flock(2) has no timeout. A thread that is left behind gives the lock back, for it has the last
    # reference.
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    waiting = Thread(target=fcntl.flock, args=(file, fcntl.LOCK_EX), daemon=True)
    waiting.start()
    waiting.join(seconds)
    return not waiting.is_alive()


def attach(file: int) -> int:
    """The fd of a loop device with the content of an open file. The kernel detaches it when nobody has it
    open or mounted any more.

    It bypasses the page cache of the file if the file system below can: else everything would be cached
    twice.
    """
    config = bytearray(_CONFIG)
    pack_into(_NUMBERS, config, 0, file, 0)
    pack_into(_FLAGS, config, _FLAGS_AT, LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO)
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        with _ONE_AT_A_TIME:
            return _configure(control, bytes(config))
    finally:
        os.close(control)


def _configure(control: int, config: bytes) -> int:
    """The fd of a device that was free."""
    while True:
        device = os.open(_free(control), os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(device, LOOP_CONFIGURE, config)
        except OSError as error:
            os.close(device)
            if error.errno != errno.EBUSY:  # somebody else has taken it meanwhile
                raise OSError(error.errno, error.strerror, "LOOP_CONFIGURE") from error
        else:
            return device


def _free(control: int) -> str:
    return f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"


def devices() -> dict[str, str]:
    """{path of the file: path of the loop device} of all loop devices; " (deleted)" follows the path of a
    file that was removed. sysfs(5).
    """
    found = {}
    for name in os.listdir("/sys/block"):
        if not name.startswith("loop"):
            continue
        try:  # not by pathlib, which takes several times as long: each server with an image looks
            fd = os.open(f"/sys/block/{name}/loop/backing_file", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # it has none, or not any more
        try:
            path = os.read(fd, _LONGEST)
        except OSError:
            continue
        finally:
            os.close(fd)
        found[os.fsdecode(path.removesuffix(b"\n"))] = f"/dev/{name}"
    return found


def open_device(device: str, file: os.stat_result) -> int | None:
    """The fd of a loop device, if its content is the file with this status; None if it is not, any more.

    While it is open, the device keeps its file.
    """
    fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        info = fcntl.ioctl(fd, LOOP_GET_STATUS64, bytes(_INFO))
    except OSError as error:
        os.close(fd)
        if error.errno != errno.ENXIO:
            raise
        return None
    if unpack_from("=2Q", info) == (file.st_dev, file.st_ino):
        return fd
    os.close(fd)
    return None


def update_size(device: int) -> None:
    """Make a loop device as large as its file is now."""
    fcntl.ioctl(device, LOOP_SET_CAPACITY)
