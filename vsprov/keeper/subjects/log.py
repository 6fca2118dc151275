"""A server's log: files of limited size and number, and the times at which their lines were written.

In the server's directory, `console.log` is written to. When it is full, it becomes `console.log.N`, where N
is one more than the highest there is, and the oldest files are removed. `console.times.N` belongs to the file
that has this number, or will have it: records of two little-endian numbers of 64 bits, an offset in the file,
and the time, in microseconds, when the bytes from there on began to be written. The highest bit of the offset
says that a run of the server began there. So a single rename begins the next file, and no interruption can
give a file the times of another. A record is void if a later one has a lower offset: the file was cut.
"""

from __future__ import annotations

import os
import time
from errno import EINVAL
from stat import S_ISREG
from struct import Struct

LOG, TIMES = "console.log", "console.times"
MARK = "trusted.vsprov.console"  # on the home group: the run whose beginning is recorded
NO_LIMIT = 1 << 62  # bytes
RECORD, RUN = Struct("<QQ"), 1 << 63
PRECISION = 0.01  # seconds
_WRITE = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def numbers(names: list[str], prefix: str) -> list[int]:
    """The sorted numbers of the files PREFIX.N among these names."""
    ends = [name[len(prefix) + 1 :] for name in names if name.startswith(f"{prefix}.")]
    return sorted(int(end) for end in ends if end.isascii() and end.isdigit() and end[0] != "0")


def next_number(names: list[str]) -> int:
    """The number that `console.log` will have, from the names in its directory."""
    return max([1, *numbers(names, TIMES), *(number + 1 for number in numbers(names, LOG))])


class Log:
    """The log in the directory `folder`: at most `files` files, each of at most `size` bytes with its times.

    A file that does not exist is created for the first output. `taken` is how many bytes of what was appended
    last are in the log.
    """

    __slots__ = ("_fd", "_files", "_folder", "_in_line", "_number", "_size", "_stamped", "_times", "taken")

    def __init__(self, folder: int, size: int, files: int) -> None:
        self._folder, self._size, self._files = folder, size, files
        self._fd, self._number = -1, 0
        self._times = 0  # bytes
        self._stamped = 0.0  # when the last record was written
        self._in_line = False  # whether the file ends within a line
        self.taken = 0

    def open(self, creation: int = 0) -> None:
        """Open the file that is written to. OSError, also if it does not exist and is not to be created."""
        if self._fd >= 0:
            return
        fd = os.open(LOG, _WRITE | creation, 0o600, dir_fd=self._folder)
        try:
            status = os.fstat(fd)
            if not S_ISREG(status.st_mode):
                raise OSError(EINVAL, "not a regular file", LOG)
            if status.st_uid or status.st_gid:  # of a version that let the server write to it
                os.fchown(fd, 0, 0)
            self._number = self._number or next_number(os.listdir(self._folder))
            if creation and not status.st_size:
                self._remove(f"{TIMES}.{self._number}")  # of a file that somebody has removed
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        self._times, self._stamped, self._in_line = 0, 0.0, False

    def limit(self, size: int, files: int) -> None:
        """Change the limits, and remove the files that are too many now, or raise OSError."""
        fewer = files < self._files
        self._size, self._files = size, files
        if fewer:
            self._remove_oldest()

    def append(self, data: bytearray | bytes, size: int) -> None:
        """Append the first `size` bytes of `data`, or raise OSError; `taken` says how many were appended."""
        self.taken = 0
        view = memoryview(data)
        while self.taken < size:
            self.open(os.O_CREAT)
            there = os.fstat(self._fd).st_size
            room = self._size - there - self._times - RECORD.size
            end = size
            if size - self.taken > room:
                end = data.rfind(b"\n", self.taken, self.taken + max(room, 0)) + 1
                if not end and room > self._size // 2:
                    end = self.taken + room  # within a line
                elif not end:
                    self._begin_next()
                    continue
            self._stamp(there, data, end)
            while self.taken < end:
                self.taken += os.write(self._fd, view[self.taken : end])
            self._in_line = data[end - 1] != 10

    def append_whole(self, line: bytes) -> bool:
        """Append a line; False if there is only room for a part of it, so that the log is as it was."""
        self.open(os.O_CREAT)
        end = os.fstat(self._fd).st_size
        self._record(end, time.time())
        if os.write(self._fd, line) < len(line):
            os.truncate(self._fd, end)
            return False
        self._in_line = False
        return True

    def begin(self, home: int, run: bytes) -> None:
        """Record that a run begins, unless another keeper has done so; `run` tells it from others."""
        try:
            if os.getxattr(home, MARK) == run:
                return
        except OSError:
            pass  # ENODATA: it is the first run in this group
        try:
            if self._fd < 0 and numbers(os.listdir(self._folder), LOG):
                self.open(os.O_CREAT)
            if self._fd >= 0:  # otherwise there is no earlier output
                self._record(os.fstat(self._fd).st_size | RUN, time.time())
            if self._times > self._size:
                self._begin_next()
            os.setxattr(home, MARK, run)
        except OSError:
            pass  # the group was removed, or the disk is full: the beginning may be recorded twice, or not

    def free(self) -> int:
        """Bytes that are free on its disk."""
        self.open(os.O_CREAT)
        disk = os.fstatvfs(self._fd)
        return disk.f_bavail * disk.f_frsize

    def close(self) -> None:
        """Close it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- files

    def _begin_next(self) -> None:
        """Put the full file aside, and remove the oldest."""
        try:
            os.rename(LOG, f"{LOG}.{self._number}", src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except FileNotFoundError:
            pass  # somebody has removed it
        self.close()
        self._number += 1
        self._remove_oldest()

    def _remove_oldest(self) -> None:
        names = os.listdir(self._folder)
        full = numbers(names, LOG)
        kept = full[max(0, len(full) - self._files + 1) :]
        for prefix in (LOG, TIMES):
            for number in numbers(names, prefix):
                if number not in kept and number != self._number:
                    self._remove(f"{prefix}.{number}")

    def _remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._folder)
        except FileNotFoundError:
            pass

    # -- times

    def _stamp(self, offset: int, data: bytearray | bytes, end: int) -> None:
        """Record when data[taken:end] is written, if a line begins in it."""
        now = time.time()
        is_late = not self._stamped <= now < self._stamped + PRECISION
        if not offset or (is_late and (not self._in_line or data.find(b"\n", self.taken, end - 1) >= 0)):
            self._record(offset, now)

    def _record(self, offset: int, now: float) -> None:
        """Write a record. Lines without one have the time of those before them: output matters more."""
        try:
            fd = os.open(f"{TIMES}.{self._number}", _WRITE | os.O_CREAT, 0o600, dir_fd=self._folder)
            try:
                size = os.fstat(fd).st_size
                self._times = size - size % RECORD.size
                os.ftruncate(fd, self._times)  # a power failure, or a full disk, may leave a part of a record
                if os.write(fd, RECORD.pack(offset, int(now * 1_000_000))) == RECORD.size:
                    self._times += RECORD.size
                    self._stamped = now
            finally:
                os.close(fd)
        except OSError:
            return
