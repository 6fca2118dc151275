"""A server's console log: the standard output and error of its first process, and of those that inherit them.

They write to a FIFO, which the keeper copies to the log. A server that an earlier version of vsprov started
writes to the file itself, and may change it in any way, even make it larger than the disk: holes are skipped.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from vsprov.engine.run import keeper
from vsprov.errors import FailedError, reason
from vsprov.kernel import inotify
from vsprov.kernel.inotify import (
    IN_ATTRIB,
    IN_CREATE,
    IN_DELETE_SELF,
    IN_MODIFY,
    IN_MOVE_SELF,
    IN_MOVED_TO,
)
from vsprov.store.disk import folders
from vsprov.store.instance import Instance

_CHUNK = 1 << 16
LARGEST_EXCERPT = 1 << 16
SECONDS = 2.0  # for the keeper
_WHY = {
    errno.ELOOP: "it is a symbolic link",
    errno.EWOULDBLOCK: "the server holds a lease on it, which the kernel will break soon: try again later",
}
WRITTEN, GONE = IN_MODIFY | IN_ATTRIB, IN_DELETE_SELF | IN_MOVE_SELF


def path_of(instance: Instance, name: str) -> str:
    return f"{instance.servers}/{name}/console.log"


def settle(instance: Instance, name: str) -> str:
    """Wait until the keeper has copied what the server has written so far; why it cannot, or ""."""
    connection = keeper.connect(instance, SECONDS)
    if connection is None:
        return "no keeper answers; apply, start and restart start it" if _is_written(instance, name) else ""
    try:
        lost = f"Server/{name}: "
        problems = connection.settle(name, SECONDS)["problems"]
        return "; ".join(line.removeprefix(lost) for line in problems if line.startswith(lost))
    except keeper.KeeperGone as error:
        return str(error) if _is_written(instance, name) else ""
    finally:
        connection.close()


def unattended(instance: Instance) -> list[str]:
    """The running servers whose output no keeper copies to their logs."""
    written = [name for name in folders.names(instance.servers) if _is_written(instance, name)]
    connection = keeper.connect(instance, SECONDS) if written else None
    if connection is None:
        return written
    try:
        kept = frozenset(connection.settle("", SECONDS)["kept"])
    except keeper.KeeperGone:
        kept = frozenset()
    finally:
        connection.close()
    return [name for name in written if name not in kept]


def _is_written(instance: Instance, name: str) -> bool:
    """Whether a process has the console open; fifo(7): otherwise it cannot be opened for writing alone."""
    try:
        os.close(os.open(f"{instance.servers}/{name}/console", os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW))
    except OSError:  # ENXIO, or ENOENT for one that never ran
        return False
    return True


def open_log(instance: Instance, name: str) -> int | None:
    """An fd of the log; None before the server's first start. FailedError if it is not a regular file."""
    path = path_of(instance, name)
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


def tail(fd: int, lines: int | None, earliest: int = 0) -> int:
    """The offset at which the last `lines` lines of a file begin; 0 if `lines` is None.

    A hole ends a line. Nothing before the offset `earliest` is read.
    """
    size = os.fstat(fd).st_size
    if lines is None:
        return 0
    if lines == 0:
        return size
    wanted, at = lines, _end_of_data(fd, size)
    end = at
    while at > max(earliest, 0):
        start = max(0, at - _CHUNK)
        if (data := _next_data(fd, start)) is None or data >= at:
            return at
        block = os.pread(fd, at - start, start)
        # The newline at the end of the file does not begin another line.
        stop = len(block) - 1 if at == end and block.endswith(b"\n") else len(block)
        while (stop := block.rfind(b"\n", 0, stop)) >= 0:
            wanted -= 1
            if wanted == 0:
                return start + stop + 1
        at = start
    return at


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


def read(fd: int, offset: int) -> Iterator[bytes]:
    """The content of the file from an offset on, in pieces."""
    for _end, block in _pieces(fd, offset):
        yield block


def _pieces(fd: int, offset: int) -> Iterator[tuple[int, bytes]]:
    """The content of the file from an offset on, in pieces, each with the offset of its end."""
    while (data := _next_data(fd, offset)) is not None:
        block = os.pread(fd, min(_CHUNK, os.lseek(fd, data, os.SEEK_HOLE) - data), data)
        if not block:
            return
        offset = data + len(block)
        yield offset, block


def last_lines(instance: Instance, name: str, lines: int) -> list[str]:
    """The last lines of a server's log, at most LARGEST_EXCERPT bytes; [] if there is no log."""
    fd = open_log(instance, name)
    if fd is None:
        return []
    try:
        latest = _end_of_data(fd, os.fstat(fd).st_size) - LARGEST_EXCERPT
        text = b""
        for block in read(fd, max(latest, tail(fd, lines, latest))):
            text += block[: LARGEST_EXCERPT - len(text)]
            if len(text) == LARGEST_EXCERPT:
                break
    finally:
        os.close(fd)
    return text.decode(errors="replace").splitlines()


def follow(instance: Instance, name: str, offset: int, fd: int | None) -> Iterator[bytes]:
    """The log from an offset on, and whatever is written to it later; ends when the server is removed.

    Waits by inotify(7). A log that was truncated is read from its start, one that was replaced is reopened.
    """
    folder = os.path.dirname(path_of(instance, name))
    queue = inotify.queue()
    try:
        home = inotify.watch(queue, folder, IN_CREATE | IN_MOVED_TO | GONE)
        log = inotify.watch(queue, path_of(instance, name), WRITTEN) if fd is not None else -1
        while True:
            if fd is None and (fd := open_log(instance, name)) is not None:
                log, offset = inotify.watch(queue, path_of(instance, name), WRITTEN), 0
            if fd is not None:
                if os.fstat(fd).st_size < offset:
                    offset = 0
                for end, block in _pieces(fd, offset):
                    offset = end
                    yield block
            events = inotify.events(queue)
            if any(descriptor == home and mask & GONE for descriptor, mask in events):
                return
            if fd is not None and _replaced(instance, name, fd):
                os.close(fd)
                fd = None
                inotify.forget(queue, log)
    finally:
        os.close(queue)
        if fd is not None:
            os.close(fd)


def _replaced(instance: Instance, name: str, fd: int) -> bool:
    try:
        there = os.stat(path_of(instance, name), follow_symlinks=False)
    except FileNotFoundError:
        return True
    return not os.path.samestat(there, os.fstat(fd))
