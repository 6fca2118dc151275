"""The standard streams of a command in a server: new pipes, copied to and from our own.

A descriptor of the caller never enters a server. What a command leaves behind there could read from the
caller's terminal for ever, or open a file of the host again through /proc/self/fd, with other rights.

Each stream is copied by a thread of its own, so that a reader that pauses holds up no other stream, and by
splice(2), which moves pages instead of copying them.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import stat
import struct
import termios
from abc import ABC, abstractmethod
from contextlib import suppress
from errno import ECONNRESET, EINVAL, EIO, EPIPE
from threading import Thread
from time import monotonic

from vsprov.errors import FailedError, reason

_CHUNK = 1 << 20
_READ = 1 << 16
# How output continues once the command has ended: what is in the pipe is always delivered; then it ends when
# nothing came for QUIET, or in any case after AFTERWARDS. Only processes left behind keep the pipe open.
QUIET, AFTERWARDS = 0.1, 2.0
_NAMES = ("standard input", "standard output", "standard error")


class Relay:
    """The pipes of one command, and the threads that copy. A context manager."""

    def __init__(self) -> None:
        """Open the pipes. OSError when no descriptors are left.

        Output and error are one pipe when ours are one file, because two would not keep the order of writes.
        """
        self._stop = _Stop()
        read_end, write_end = _open_pipe()
        self._input = _Input(0, write_end, self._stop, read_end)
        self._outputs: list[_Output] = []
        given = [read_end]
        one = _file(1) == _file(2)
        for number in (1, 2):
            if number == 2 and one:
                given.append(given[1])
                continue
            read_end, write_end = _open_pipe()
            self._outputs.append(_Output(read_end, number, self._stop))
            given.append(write_end)
        self.given = tuple(given)
        """The ends for the command: its standard input, output and error."""

    def start_output(self) -> None:
        """Start to copy output; the ends of the command are closed, as it has its own."""
        self._close_given()
        for copy in self._outputs:
            copy.start()

    def start_input(self) -> None:
        """Start to copy input: only now, as a command that could not be started must not take any."""
        for output in self._outputs:
            output.begun = True
        self._input.start()

    def finish(self) -> None:
        """Deliver what the command wrote, and end. FailedError when one of our streams failed.

        Waits for a reader that pauses; any signal may end that.
        """
        self._stop.give()
        for output in self._outputs:
            output.join()
        self._input.put_back()
        for copy in (self._input, *self._outputs):
            if copy.error:
                number = copy.source if copy is self._input else copy.target
                verb = "read" if copy is self._input else "write"
                raise FailedError(f"{verb} {_NAMES[number]}: {reason(copy.error)}")

    def _close_given(self) -> None:
        for fd in set(self.given):
            os.close(fd)
        self.given = ()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *failure: object) -> None:
        """Let the threads end by themselves: they hold their own ends."""
        self._stop.give()
        self._close_given()
        for copy in (self._input, *self._outputs):
            if copy.ident is None:  # never started
                copy.close()


class _Stop:
    """Tells the threads that the command has ended: `given` for one that copies, `fd` for one that waits."""

    def __init__(self) -> None:
        self.given = False
        self.fd = os.eventfd(0, os.EFD_CLOEXEC)

    def give(self) -> None:
        self.given = True
        os.eventfd_write(self.fd, 1)


class _Copy(Thread, ABC):
    """Copying from one descriptor to another, one of which is our end of a pipe.

    Between two pipes it moves first, and waits only when there was nothing to move: a wait costs more than
    to move what a pipe holds.
    """

    def __init__(self, source: int, target: int, stop: _Stop) -> None:
        super().__init__(daemon=True)
        self.source, self.target = source, target
        self.stop = stop
        self.error: OSError | None = None
        self.splices = True
        self.moved = 0  # bytes
        self.long = False

    def run(self) -> None:
        # The main thread handles the signals. Without SIGTTIN, a read from the terminal in the background
        # fails with EIO instead of stopping us.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.copy()
        except OSError as error:
            if error.errno not in (EPIPE, ECONNRESET):  # the reader has gone
                self.error = error
        finally:
            self.close()

    @abstractmethod
    def copy(self) -> None:
        """Copy to the end. OSError if one of the two descriptors fails."""

    @abstractmethod
    def close(self) -> None:
        """Close our end of the pipe, so that the command notices."""

    def move(self) -> int:
        """Move what is available: the number of bytes, 0 at the end of the source, -1 to wait and retry."""
        moved = self._transfer()
        self.moved += max(moved, 0)
        if self.moved >= _CHUNK and not self.long:
            self._expect_more()
        return moved

    def _expect_more(self) -> None:
        """Prefer throughput to a quick response: switches between processes slow down a long stream.

        Enlarge the caller's pipe too, and do not preempt the process that fills or drains it when there is
        something to move (SCHED_BATCH, sched(7)).
        """
        self.long = True
        for fd in (self.source, self.target):
            _enlarge(fd)
        with suppress(PermissionError):
            if os.sched_getscheduler(0) == os.SCHED_OTHER:  # another policy is the caller's choice
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))

    def _transfer(self) -> int:
        """Move once.

        splice(2) cannot write to a file that is open for appending, nor, before Linux 6.5, read a terminal.
        """
        try:
            if self.splices:
                return os.splice(self.source, self.target, _CHUNK, flags=os.SPLICE_F_NONBLOCK)
            part = memoryview(os.read(self.source, _READ))
        except BlockingIOError:
            return -1
        except OSError as error:
            if not self.splices or error.errno != EINVAL:
                raise
            self.splices = False
            return -1
        done = 0
        while done < len(part) and self.wait_for_room():
            with suppress(BlockingIOError):  # fewer bytes free than a write takes at once (pipe(7), PIPE_BUF)
                done += os.write(self.target, part[done:])
        return len(part)

    @abstractmethod
    def wait_for_room(self) -> bool:
        """Wait until the target takes more; False when there is no need any more."""


class _Input(_Copy):
    """From our standard input to the command, until the end of either."""

    def __init__(self, source: int, target: int, stop: _Stop, reader: int) -> None:
        super().__init__(source, target, stop)
        os.set_blocking(target, False)
        self._arrival = _poll((source, select.POLLIN), (stop.fd, select.POLLIN))
        self._room = _poll((target, select.POLLOUT), (stop.fd, select.POLLIN))
        try:
            os.lseek(source, 0, os.SEEK_CUR)
            self.reader = os.dup(reader)  # to see what remains unread
        except OSError:
            self.reader = -1

    def copy(self) -> None:
        # SPLICE_F_NONBLOCK concerns only pipes (splice(2)). Anything else could make us wait beyond the end
        # of the command, and O_NONBLOCK is not ours to set: it holds for all who share the open file.
        pipe = stat.S_ISFIFO(os.fstat(self.source).st_mode)
        ready = pipe
        while not self.stop.given and (ready or (self._wait() and self.wait_for_room())):
            try:
                moved = self.move()
            except OSError as error:
                if error.errno == EIO and os.isatty(self.source):
                    return  # hung up, or not ours to read: we run in the background
                if error.errno == EPIPE:
                    _give_up(self.source)
                raise
            if moved == 0:
                return
            ready = pipe and moved > 0

    def _wait(self) -> bool:
        self._arrival.poll()
        return not self.stop.given

    def wait_for_room(self) -> bool:
        self._room.poll()
        return not self.stop.given

    def close(self) -> None:
        os.close(self.target)

    def put_back(self) -> None:
        """Leave the offset of a file at what the command has read, as if it had read it there itself.

        A shell loop that reads the same file (while read …; do vsprov exec …; done < list) goes on. What the
        command may have written to the pipe itself does not count: the offset is never less than at first.
        """
        if self.reader >= 0 and self.ident is not None:
            self.join()
            unread = min(_unread(self.reader), self.moved)
            os.close(self.reader)
            self.reader = -1
            if unread:
                at = os.lseek(self.source, 0, os.SEEK_CUR)  # others may have changed it meanwhile
                os.lseek(self.source, max(at - unread, 0), os.SEEK_SET)


class _Output(_Copy):
    """From the command to our standard output or error."""

    def __init__(self, source: int, target: int, stop: _Stop) -> None:
        super().__init__(source, target, stop)
        os.set_blocking(source, False)  # what poll(2) has seen, a process in the server may have read since
        self._arrival = _poll((source, select.POLLIN), (stop.fd, select.POLLIN))
        self._more = _poll((source, select.POLLIN))
        self._room = _poll((target, select.POLLOUT))
        self.deadline = 0.0
        self.left = 0  # bytes that were in the pipe when the command had ended
        self.begun = False  # whether the command has been executed

    def copy(self) -> None:
        ready = False
        while (ready and not self.stop.given) or self._wait():
            if not ready:
                self.wait_for_room()
            moved = self.move()
            if moved == 0:
                if self.begun and self.target == 1:  # errors of our own may still follow on 2
                    _give_up(self.target)
                return
            self.left -= max(moved, 0)
            ready = moved > 0

    def wait_for_room(self) -> bool:
        self._room.poll()
        return True

    def _wait(self) -> bool:
        """Wait for output; False if the command has ended and all that matters is delivered."""
        if not self.stop.given:
            self._arrival.poll()
            if not self.stop.given:
                return True
        if not self.deadline:
            self.deadline = monotonic() + AFTERWARDS
            self.left = _unread(self.source)
        self.left = min(self.left, _unread(self.source))  # a process in the server may read it, too
        if self.left <= 0 and monotonic() > self.deadline:
            return False
        return bool(self._more.poll(QUIET * 1000))

    def close(self) -> None:
        os.close(self.source)


def _give_up(fd: int) -> None:
    """Close one of our streams, which the command has closed, so that the other end notices."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, fd)
    os.close(null)


def _open_pipe() -> tuple[int, int]:
    """A large pipe, for fewer switches between the processes."""
    read_end, write_end = os.pipe()
    _enlarge(write_end)
    return read_end, write_end


def _enlarge(fd: int) -> None:
    """Enlarge a pipe, if the host's limits on pipes allow it (pipe(7)); anything else is left as it is."""
    with suppress(OSError):
        if fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) < _CHUNK:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _CHUNK)


def _poll(*wanted: tuple[int, int]) -> select.poll:
    """Waits for one of these events, or until one of the descriptors has failed or is at its end."""
    poll = select.poll()
    for fd, events in wanted:
        poll.register(fd, events)
    return poll


def _unread(pipe: int) -> int:
    """The number of bytes in a pipe."""
    answer = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    count: int = struct.unpack("i", answer)[0]
    return count


def _file(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
