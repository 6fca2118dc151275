"""Sharing disk blocks between equal files that remain separate (btrfs, XFS); ioctl_fideduperange(2)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

FIDEDUPERANGE = 0xC0189436  # linux/fs.h
FIEMAP = 0xC020660B  # linux/fiemap.h
FIEMAP_FLAG_SYNC = 1
PIECE = 16 << 20  # some file systems do not process more at once
DIFFERS = 1

_RANGE = struct.Struct("=QQHHI qQQiI")  # file_dedupe_range with one file_dedupe_range_info
_MAP = struct.Struct("=QQIIII QQQQQIIII")  # fiemap with one fiemap_extent


def share(source: int, target: int, size: int) -> bool:
    """Let the open file `target` use the blocks of `source`; False if it does already.

    The kernel compares the contents. Content, times and owner do not change. Raises OSError if blocks cannot
    be shared, or if the files differ.
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
    """The position of the first block on the device; None if there is none or it is not known."""
    request = bytearray(_MAP.pack(0, (1 << 63) - 1, FIEMAP_FLAG_SYNC, 0, 1, 0, *[0] * 9))
    try:
        fcntl.ioctl(fd, FIEMAP, request)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY):
            raise
        return None
    fields = _MAP.unpack(request)
    return fields[7] or None if fields[3] else None
