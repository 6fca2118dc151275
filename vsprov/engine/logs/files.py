"""The files of a server's console log, read as one: what its first process has written, and those that
inherit its standard output and error.

They write to a FIFO, which the keeper copies to the log. A server that an earlier version of vsprov started
writes to the file itself, and may change it in any way, even make it larger than the disk: holes are skipped.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from msgspec import Struct

from vsprov.engine.logs.times import Times
from vsprov.errors import FailedError, reason
from vsprov.keeper.subjects.log import LOG, TIMES, next_number, numbers
from vsprov.store.instance import Instance

_CHUNK = 1 << 16
LARGEST_EXCERPT = 1 << 16
TRIES = 100  # to look at files that are never the same twice, because they are full at once
_WHY = {
    errno.ELOOP: "it is a symbolic link",
    errno.EWOULDBLOCK: "the server holds a lease on it, which the kernel will break soon: try again later",
}


class File(Struct):
    """An open file of a log: its number, its size when it was opened, and where it begins in the log."""

    fd: int
    number: int
    size: int
    times: Times
    base: int = 0


class Block(NamedTuple):
    """A piece of a log, and the offset of it in its file."""

    file: File
    offset: int
    data: bytes


def folder_of(instance: Instance, name: str) -> str:
    return f"{instance.servers}/{name}"


def path_of(instance: Instance, name: str) -> str:
    return f"{folder_of(instance, name)}/{LOG}"


class Log:
    """A log as it was when it was opened: its files, the oldest first. Offsets are those in the whole log."""

    def __init__(self, files: list[File]) -> None:
        self.files = files
        self.size = 0
        for file in files:
            file.base = self.size
            self.size += file.size

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; once they are removed, their space is free then."""
        while self.files:
            os.close(self.files.pop().fd)

    def read(self, start: int = 0, end: int | None = None) -> Iterator[Block]:
        """The content between two offsets, in pieces."""
        end = self.size if end is None else end
        for file in self.files:
            first, last = max(start - file.base, 0), min(end - file.base, file.size)
            yield from pieces(file, first, last)

    def tail(self, lines: int, end: int | None = None, earliest: int = 0) -> int:
        """The offset at which the last `lines` lines before the offset `end` begin.

        Nothing before the offset `earliest` is read. A hole ends a line.
        """
        at = end = self.size if end is None else end
        if lines == 0:
            return end
        for at, block in self._backwards(end, earliest):
            # The newline at the end does not begin another line.
            stop = len(block) - (at + len(block) == end and block.endswith(b"\n"))
            while (stop := block.rfind(b"\n", 0, stop)) >= 0:
                lines -= 1
                if lines == 0:
                    return at + stop + 1
        return at

    def _backwards(self, end: int, earliest: int) -> Iterator[tuple[int, bytes]]:
        """(offset, content) of pieces, the last first, until a hole."""
        for file in reversed(self.files):
            at, first = min(end - file.base, file.size), max(earliest - file.base, 0)
            while at > first:
                start = max(first, at - _CHUNK)
                if (data := _next_data(file.fd, start)) is None or data >= at:
                    return
                yield file.base + start, os.pread(file.fd, at - start, start)
                at = start

    def line_from(self, offset: int) -> int:
        """The offset of the first line that begins at an offset or after it; the end if there is none."""
        if offset <= 0:
            return 0
        for block in self.read(offset - 1):
            if (found := block.data.find(b"\n")) >= 0:
                return block.file.base + block.offset + found + 1
        return self.size

    def read_times(self) -> None:
        """Read when lines were written, and where runs began."""
        for file in self.files:
            file.times.refresh()

    def runs(self) -> list[int]:
        """The offsets where runs of the server began, as far as that was recorded."""
        return [
            file.base + offset for file in self.files for offset in file.times.runs if offset <= file.size
        ]


def open_log(instance: Instance, name: str) -> Log:
    """The log of a server; it has no files before the server's first output.

    FailedError if a file is not a regular file.
    """
    folder = folder_of(instance, name)
    for _ in range(TRIES):
        with Log([]) as log:
            current = _open(name, f"{folder}/{LOG}")
            try:
                names = os.listdir(folder)
            except FileNotFoundError:
                names = []  # it is being removed
            if current is not None:
                log.files.append(_file(folder, current, next_number(names)))
            if not is_same(f"{folder}/{LOG}", current):
                continue  # the file has become full, and the number may be that of the next
            for number in reversed(numbers(names, LOG)):
                fd = _open(name, f"{folder}/{LOG}.{number}")
                if fd is not None:
                    log.files.insert(0, _file(folder, fd, number))
            files, log.files = log.files, []
            return Log(files)
    raise FailedError(f"Server/{name}: open {folder}/{LOG}: it is replaced all the time")


def _file(folder: str, fd: int, number: int) -> File:
    return File(fd, number, _end_of_data(fd, os.fstat(fd).st_size), Times(f"{folder}/{TIMES}.{number}"))


def _open(name: str, path: str) -> int | None:
    """An fd of a file; None if there is none. FailedError if it is not a regular file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        why = _WHY.get(error.errno or 0) or reason(error)
        raise FailedError(f"Server/{name}: open {path}: {why}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FailedError(f"Server/{name}: open {path}: it is not a regular file")
    return fd


def is_same(path: str, fd: int | None) -> bool:
    """Whether a path leads to an open file; with None, whether it leads to nothing."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return fd is None
    return fd is not None and os.path.samestat(there, os.fstat(fd))


def pieces(file: File, offset: int, end: int) -> Iterator[Block]:
    """The content of a file between two offsets, without holes."""
    while offset < end and (data := _next_data(file.fd, offset)) is not None and data < end:
        stop = min(end, os.lseek(file.fd, data, os.SEEK_HOLE), data + _CHUNK)
        block = os.pread(file.fd, stop - data, data)
        if not block:
            return
        offset = data + len(block)
        yield Block(file, data, block)


def _next_data(fd: int, offset: int) -> int | None:
    """The first offset from `offset` on that is not in a hole; None if there is none; lseek(2)."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


def _end_of_data(fd: int, size: int) -> int:
    """The offset of the hole at the end of a file of this size; the size if it does not end with one."""
    back = _CHUNK
    while (data := _next_data(fd, max(0, size - back))) is None:
        if back >= size:
            return 0
        back *= 2
    end = data
    while data is not None:
        end = os.lseek(fd, data, os.SEEK_HOLE)
        data = _next_data(fd, end)
    return min(end, size)


def last_lines(instance: Instance, name: str, lines: int) -> list[str]:
    """The last lines of the server's last run, at most LARGEST_EXCERPT bytes."""
    with open_log(instance, name) as log:
        log.read_times()
        earliest = max(log.size - LARGEST_EXCERPT, *log.runs()[-1:], 0)
        text = b"".join(block.data for block in log.read(log.tail(lines, earliest=earliest)))
    return text.decode(errors="replace").splitlines()
