"""When the lines of a log's file were written, and where runs began in it: the records of the keeper."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right

from vsprov.keeper.subjects.log import RECORD, RUN

LATEST = 253_402_300_800_000_000  # microseconds: the end of the year 9999
_BLOCK = 1 << 16  # a multiple of a record


class Times:
    """The records in a file, which may be missing, end within a record, or be damaged.

    `runs` are the offsets where runs began.
    """

    __slots__ = ("_offsets", "_path", "_read", "_times", "runs")

    def __init__(self, path: str) -> None:
        self._path, self._read = path, 0
        self._offsets, self._times = array("Q"), array("Q")
        self.runs: list[int] = []

    def refresh(self) -> None:
        """Read what has been added."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        try:
            while block := os.pread(fd, _BLOCK, self._read):
                whole = len(block) - len(block) % RECORD.size
                if not whole:
                    return
                self._read += whole
                for offset, time in RECORD.iter_unpack(block[:whole]):
                    if 0 < time < LATEST:
                        self._add(offset & ~RUN, time, bool(offset & RUN))
        except OSError:  # EISDIR
            return
        finally:
            os.close(fd)

    def _add(self, offset: int, time: int, is_run: bool) -> None:
        while self._offsets and self._offsets[-1] > offset:  # the file was cut
            self._offsets.pop()
            self._times.pop()
        while self.runs and self.runs[-1] > offset:
            self.runs.pop()
        if is_run:
            self.runs.append(offset)
        self._offsets.append(offset)
        self._times.append(time)

    def at(self, offset: int) -> int:
        """When the byte at an offset was written, in microseconds; 0 if that is not known."""
        index = bisect_right(self._offsets, offset) - 1
        return self._times[index] if index >= 0 else 0

    def known_from(self) -> int | None:
        """The first offset with a time; None if there is none."""
        return self._offsets[0] if self._offsets else None

    def first(self, earliest: int, after: int = 0) -> int | None:
        """The first offset from `after` on whose time is `earliest` or later; None if there is none."""
        for offset, time in zip(self._offsets, self._times, strict=True):
            if time >= earliest and offset >= after:
                return offset
        return None
