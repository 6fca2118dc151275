"""Sharing the blocks of equal files that must remain two: btrfs and XFS can, ioctl_fideduperange(2)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

FIDEDUPERANGE = 0xC0189436  # linux/fs.h
FIEMAP = 0xC020660B  # linux/fiemap.h
FIEMAP_FLAG_SYNC = 1
PIECE = 16 << 20  # more is cut short by some file systems
DIFFERS = 1

_RANGE = struct.Struct("=QQHHI qQQiI")  # file_dedupe_range with one file_dedupe_range_info
_MAP = struct.Struct("=QQIIII QQQQQIIII")  # fiemap with one fiemap_extent


def share(source: int, target: int, size: int) -> bool:
    """Have the open file `target` use the blocks of `source`; False when it does already.

    The kernel compares every byte itself. Content, times and owner stay. Raises OSError where blocks cannot
    be shared, and when the files differ.
    """
    if _first_block(source) == _first_block(target) is not None:
        return False
    offset = 0
    while offset < size:
        request = bytearray(_RANGE.pack(offset, min(PIECE, size - offset), 1, 0, 0, target, offset, 0, 0, 0))
        fcntl.ioctl(source, FIDEDUPERANGE, request)
        done, status = _RANGE.unpack(request)[7:9]
        if status < 0:
            raise OSError(-status, os.strerror(-status))
        if status == DIFFERS or done == 0:
            raise OSError(errno.EBADE, "the files differ")
        offset += done
    return True


def _first_block(fd: int) -> int | None:
    """Where on the device a file begins; None when it has no block, or the file system does not tell."""
    request = bytearray(_MAP.pack(0, (1 << 63) - 1, FIEMAP_FLAG_SYNC, 0, 1, 0, *[0] * 9))
    try:
        fcntl.ioctl(fd, FIEMAP, request)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY):
            raise
        return None
    fields = _MAP.unpack(request)
    return fields[7] or None if fields[3] else None
