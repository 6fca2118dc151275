"""How the init of a server ended: its wait status, whether it ran out of memory, and its mark."""

from __future__ import annotations

import os
import time
from errno import ENODATA, ENODEV, ENOENT, ESRCH
from fcntl import ioctl
from struct import Struct

MARK = b"trusted.vsprov.exit"  # on the home group; vsprov.engine.look.last_exit reads it
# _IOWR(0xFF, 11, struct pidfd_info), with the 64 bytes of its first version (Linux 6.13).
_INFO = Struct("QQ11Ii")
_PIDFD_GET_INFO = 3 << 30 | 64 << 16 | 0xFF << 8 | 11
_PIDFD_INFO_EXIT = 1 << 3


def status(pidfd: int, pid: int, start: int) -> int | None:
    """The wait status of a process that has ended; None if the kernel cannot tell.

    Until its parent has waited for it, and while the kernel then removes it ("X"), field 52 of
    proc_pid_stat(5) has the status; afterwards the pidfd has it (PIDFD_GET_INFO with PIDFD_INFO_EXIT,
    Linux 6.15).
    """
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fields = os.read(fd, 4096).rpartition(b")")[2].split()
        finally:
            os.close(fd)
        if fields[0] in (b"Z", b"X") and int(fields[19]) == start:
            return int(fields[49])
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has been waited for
    return after_wait(pidfd)


def pidfds_keep_status() -> bool:
    """Whether `after_wait` works on this kernel."""
    pid = os.fork()
    if pid == 0:
        os._exit(1)
    pidfd = os.pidfd_open(pid)
    os.waitpid(pid, 0)
    known = after_wait(pidfd)
    os.close(pidfd)
    return known is not None


def after_wait(pidfd: int) -> int | None:
    """The wait status of a process that its parent has waited for; None before Linux 6.15."""
    try:
        answer = _INFO.unpack(ioctl(pidfd, _PIDFD_GET_INFO, _INFO.pack(_PIDFD_INFO_EXIT, *(0,) * 13)))
    except OSError:  # ENOTTY, EINVAL: no such request; ESRCH: the kernel has no record
        return None
    return int(answer[13]) if answer[0] & _PIDFD_INFO_EXIT else None


def oom_kills(counters: int) -> int:
    """How many processes of a group the kernel has killed for lack of memory; 0 if it does not count them, or
    the group was removed.

    `counters` is memory.events, or memory.oom_control of cgroup v1; -1 for none.
    """
    if counters < 0:
        return 0
    try:
        text = os.pread(counters, 4096, 0)
    except OSError as error:
        if error.errno != ENODEV:
            raise
        return 0
    found = text.partition(b"oom_kill ")[2].split()
    return int(found[0]) if found else 0


def is_populated(home: int) -> bool:
    """Whether there are processes in a home group or below it; not if the group was removed."""
    try:
        fd = os.open("cgroup.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=home)
    except OSError as error:
        if error.errno not in (ENOENT, ENODEV):
            raise
        return False
    try:
        return b"populated 1" in os.read(fd, 4096)
    except OSError as error:
        if error.errno != ENODEV:
            raise
        return False
    finally:
        os.close(fd)


def record(home: int, status: int | None, oom: bool) -> None:
    """Write the mark of the exit on a home group, if that is still there."""
    code = signal = "null"
    if status is not None and os.WIFSIGNALED(status):
        signal = str(os.WTERMSIG(status))
    elif status is not None:
        code = str(os.WEXITSTATUS(status))
    killed = "true" if oom and code != "0" else "false"
    mark = f'{{"code":{code},"signal":{signal},"oom":{killed},"at":{time.time():.3f}}}'
    try:
        if status is None and is_recorded(home):
            return  # by a process that knew the status
        os.setxattr(home, MARK, mark.encode())
    except OSError as error:
        if error.errno not in (ENOENT, ENODEV, ESRCH):
            raise


def is_recorded(home: int) -> bool:
    """Whether the group has the mark."""
    try:
        return bool(os.getxattr(home, MARK))
    except OSError as error:
        if error.errno != ENODATA:
            raise
        return False


def forget(home: int) -> None:
    """Remove the mark of an earlier run."""
    try:
        os.removexattr(home, MARK)
    except OSError as error:
        if error.errno not in (ENODATA, ENOENT, ENODEV):
            raise
