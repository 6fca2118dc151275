"""The reports of servers that they are ready: datagrams as of sd_notify(3), on a socket in their network
namespace that comes with the server.

A process of its own reads them. A datagram may carry descriptors, and whoever closes such a socket or file
last, even without having received it, may have to wait for the server: with SO_LINGER, or in FUSE. The
process outlives the keeper, and a child of it, the spare, has the socket open too and goes on if it is
killed, so that no report is lost. The next keeper finds it, or what it has read, by its mark on the home
group of the server:

    PID START READER BEGAN    or    PID START ready

PID and START are those of the init, READER and BEGAN those of the process that reads.
"""

from __future__ import annotations

import os
from _signal import (  # type: ignore[import-not-found]
    SIG_DFL,
    SIGKILL,
    SIGTERM,
    pidfd_send_signal,
    set_wakeup_fd,
    signal,
)
from _socket import (
    AF_UNIX,
    CMSG_SPACE,
    MSG_DONTWAIT,
    SOCK_DGRAM,
    SOL_SOCKET,
    socket,
)
from errno import ENODATA, ENODEV, ENOENT, ESRCH
from select import POLLIN, poll
from struct import Struct
from time import sleep

from ..kept import Kept
from ..processes import SHORTAGES, fork

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from ..loop import Loop

MARK, READY = "trusted.vsprov.reports", "ready"
SCM_CREDENTIALS = 2
CREDENTIALS = Struct("iII")  # pid, uid, gid
LARGEST = 1 << 12  # bytes of a datagram that are read
LARGEST_FD = (1 << 31) - 2
MOST, PAUSE = 16, 1.0  # datagrams that are read at a time, and the seconds until more are
ABSENT = (ENODATA, ENOENT, ENODEV, ESRCH)  # there is no mark, or no group any more


class Reports:
    """Waits until a server reports that it is ready: in a new process, which takes its socket unless this
    raises OSError; or, if `fd` is -1, in that of an earlier keeper. ESRCH if there is none.
    At the end, unless closed before, it calls `done`, with whether the server is ready.
    """

    def __init__(self, loop: Loop, one: Kept, fd: int, done: Callable[[bool], object]) -> None:
        self.loop, self.one, self.done, self.closed = loop, one, done, False
        self.child = 0
        if fd < 0:
            self.pidfd = open_reader(one)
        else:
            self.child, self.pidfd = fork()
            if self.child == 0 and self.pidfd < 0:
                serve(one, fd, loop.runner.group)
            os.close(fd)
        loop.watch(self.pidfd, self.ended)

    def ended(self) -> None:
        """The process has ended."""
        self.loop.forget(self.pidfd)
        os.close(self.pidfd)
        if self.child:
            os.waitpid(self.child, 0)
        if not self.closed:
            self.done(is_ready(self.one))

    def close(self) -> None:
        """Do not wait any more. The process may end later."""
        self.closed = True
        unmark(self.one)
        try:
            pidfd_send_signal(self.pidfd, SIGKILL)
        except ProcessLookupError:
            pass  # it has just ended


def marked(one: Kept) -> list[str]:
    """What the mark says of this run of a server; [] without one."""
    try:
        words = os.getxattr(one.home, MARK).decode(errors="replace").split()
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        return []
    return words[2:] if words[:2] == [str(one.pid), str(one.start)] else []


def is_ready(one: Kept) -> bool:
    """Whether this run of a server has reported that it is ready."""
    return marked(one) == [READY]


def open_reader(one: Kept) -> int:
    """A pidfd of the process that an earlier keeper has left for a server. OSError if there is none."""
    try:
        pid, began = map(int, marked(one))
    except ValueError:
        raise OSError(ESRCH, "nobody reads its reports") from None
    pidfd = os.pidfd_open(pid)
    if start_of(pid) != began:
        os.close(pidfd)
        raise OSError(ESRCH, "nobody reads its reports")
    return pidfd


def start_of(pid: int) -> int:
    """When a process began, by proc_pid_stat(5); -1 if it does not exist."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(fd, 4096).rpartition(b")")[2].split()[19])
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError):
        return -1


def serve(one: Kept, fd: int, group: int) -> NoReturn:
    """Read reports, in a fork, until the server is ready or its init ends. A server that sends without end
    keeps only itself waiting.

    `group`: cgroup.procs of a group whose processes go on if the keeper is killed and replaced; -1 for none.
    """
    ended = False
    try:
        set_wakeup_fd(-1)
        signal(SIGTERM, SIG_DFL)
        if group >= 0:
            os.write(group, b"0")
        last = 2
        for number in sorted((fd, one.home, one.pidfd)):
            os.closerange(last + 1, number)
            last = number
        os.closerange(last + 1, LARGEST_FD)
        Reader(one, fd).serve()
        ended = True
    finally:
        if not ended:
            unmark(one)  # the spare would not fare better
        os._exit(0 if ended else 1)


class Reader:
    """The process that reads the reports of a server, or its spare."""

    def __init__(self, one: Kept, fd: int) -> None:
        self.one, self.reports, self.users = one, socket(AF_UNIX, SOCK_DGRAM, 0, fd), ids(one.pid)
        self.spare, self.pidfd = 0, -1  # of the reader; -1 if it has none

    def serve(self) -> None:
        """Read until the end of the work."""
        while not self.read():  # we are the spare, and the reader has ended
            if marked(self.one) != self.name or is_readable(self.one.pidfd):
                return

    def read(self) -> bool:
        """Read reports until the server is ready or its init ends: True. False in a spare, once the reader
        has ended.
        """
        pid = os.getpid()
        self.name = [str(pid), str(start_of(pid))]
        self.mark(*self.name)
        own = os.pidfd_open(pid)
        while True:
            if self.pidfd < 0 and self.make_spare():
                is_readable(own, self.one.pidfd, wait=True)
                os.close(own)
                return False
            is_readable(self.one.pidfd, self.reports.fileno(), self.pidfd, wait=True)
            if is_readable(self.one.pidfd):
                break
            if self.pidfd >= 0 and is_readable(self.pidfd):
                self.reap()
            found = read(self.reports, self.users)
            if found:
                self.mark(READY)
                break
            if found is None:
                sleep(PAUSE)
        if self.pidfd >= 0:
            os.kill(self.spare, SIGKILL)
        return True

    def mark(self, *words: str) -> None:
        """Set the mark of this run."""
        text = " ".join((str(self.one.pid), str(self.one.start), *words))
        os.setxattr(self.one.home, MARK, text.encode())

    def make_spare(self) -> bool:
        """Fork a spare: True in it. If the host has no room, there is none until the next report."""
        try:
            self.spare, self.pidfd = fork()
        except OSError as error:
            if error.errno not in SHORTAGES:
                raise
            return False
        return self.spare == 0

    def reap(self) -> None:
        """The spare has died: make another one, after a while."""
        os.close(self.pidfd)
        os.waitpid(self.spare, 0)
        self.pidfd = -1
        sleep(PAUSE)


def is_readable(*fds: int, wait: bool = False) -> bool:
    """Whether a descriptor is ready for reading, as a pidfd is after the end of its process; or wait until
    one is. Negative ones are ignored.
    """
    waits = poll()
    for fd in fds:
        if fd >= 0:
            waits.register(fd, POLLIN)
    return bool(waits.poll(None if wait else 0))


def unmark(one: Kept) -> None:
    """Remove the mark; then no spare follows who reads."""
    try:
        os.removexattr(one.home, MARK)
    except OSError as error:
        if error.errno not in ABSENT:
            raise


def read(reports: socket, users: range) -> bool | None:
    """Read some reports: whether one says that the server is ready; None if there may be more."""
    for _ in range(MOST):
        try:
            text, ancillary, _, _ = reports.recvmsg(LARGEST, CMSG_SPACE(CREDENTIALS.size), MSG_DONTWAIT)
        except BlockingIOError:
            return False
        for level, kind, data in ancillary:
            if (level, kind) == (SOL_SOCKET, SCM_CREDENTIALS) and CREDENTIALS.unpack(data)[1] in users:
                if b"READY=1" in text.split(b"\n"):
                    return True
    return None


def ids(pid: int) -> range:
    """The ids on the host of a process's user namespace; none if it has ended."""
    try:
        fd = os.open(f"/proc/{pid}/uid_map", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return range(0)
    try:
        words = os.read(fd, 4096).split()
    except ProcessLookupError:
        return range(0)
    finally:
        os.close(fd)
    return range(int(words[1]), int(words[1]) + int(words[2])) if len(words) >= 3 else range(0)
