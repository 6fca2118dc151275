"""Sparse files: what they have between their holes."""

from __future__ import annotations

import errno
import os


def stored(fd: int, size: int) -> list[tuple[int, int]]:
    """(offset, size) of what a file has between its holes; lseek(2)."""
    parts: list[tuple[int, int]] = []
    end = 0
    try:
        while end < size:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
            if start < size:  # it may have grown
                parts.append((start, min(end, size) - start))
    except OSError as error:
        if error.errno == errno.ENXIO:  # the rest is a hole
            return parts
        if error.errno != errno.EINVAL:
            raise
        return [(0, size)]  # a file system that has none
    return parts
