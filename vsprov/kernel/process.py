"""Processes of the host: identity, signals, resource limits, exit status."""

from __future__ import annotations

import fcntl
import functools
import os
import resource
import signal
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress

from msgspec import Struct

from vsprov.errors import NotPermittedError
from vsprov.kernel import proc, syscall

# _IOWR(0xFF, 11, struct pidfd_info), with the 64 bytes of its first version (Linux 6.13).
_INFO = struct.Struct("QQ11Ii")
_PIDFD_GET_INFO = 3 << 30 | 64 << 16 | 0xFF << 8 | 11
_NS_GET_OWNER_UID = 0xB704  # _IO(0xB7, 4)
_PIDFD_INFO_EXIT = 1 << 3
_PF_EXITING, _PF_FORKNOEXEC = 0x4, 0x40  # include/linux/sched.h

# The numbers of rt_sigtimedwait and, for 32-bit programs, rt_sigtimedwait_time64, as /proc/PID/syscall shows
# them (arch/*/entry/syscalls/*.tbl). 32-bit programs have the numbers of their own architecture.
_MACHINES = {
    "x86_64": (128, 177, 421, 0x40000000 + 523),
    "aarch64": (137, 177, 421),
    "riscv64": (137, 421),
    "loongarch64": (137,),
    "ppc64le": (176, 421),
    "s390x": (177, 421),
}
_SIGTIMEDWAIT = frozenset(map(str, _MACHINES.get(os.uname().machine, ())))

# Resource names in the order of their RLIMIT_… numbers, which is also that of /proc/PID/limits.
_NAMES = "cpu fsize data stack core rss nproc nofile memlock as locks sigpending msgqueue nice rtprio rttime"
LIMITS = {name: number for number, name in enumerate(_NAMES.split())}


def require_root(doing: str) -> None:
    """Raise NotPermittedError unless root runs this: others can neither make servers nor read their marks."""
    if os.geteuid() != 0:
        raise NotPermittedError(f"{doing} needs root", hint="run it with sudo")


class ExitInfo(Struct, frozen=True):
    """How a process ended: its exit code, or the signal that killed it."""

    code: int | None
    signal: int | None

    def __str__(self) -> str:
        return f"exited with code {self.code}" if self.signal is None else f"killed by signal {self.signal}"


def start_time(pid: int) -> int | None:
    """The start time of a running process in clock ticks after boot (field 22 of proc_pid_stat(5)); None if
    there is none.

    A pid is reused, a pid with its start time is not: together they identify a process until the next boot.
    """
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def is_ending(pid: int) -> bool:
    """Whether a process is exiting or does not exist (PF_EXITING in /proc/PID/stat).

    It may have left its cgroups already.
    """
    fields = _stat(pid)
    return not fields or fields[0] in "ZX" or bool(int(fields[6]) & _PF_EXITING)


def has_executed(pid: int) -> bool:
    """Whether a process has executed a program since it was created (not PF_FORKNOEXEC in /proc/PID/stat).

    The init of a server that waits at its gate has not. False if the process does not exist.
    """
    fields = _stat(pid)
    return bool(fields) and not int(fields[6]) & _PF_FORKNOEXEC


def open_pidfd(pid: int, start: int) -> int | None:
    """A pidfd of the process with this pid and start time; None if it does not exist.

    The start time is compared after opening, since only then the pidfd identifies the process.
    """
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if start_time(pid) == start:
        return fd
    os.close(fd)
    return None


def send_signal(pidfd: int, number: int) -> bool:
    """Send a signal; False if the process has ended. PermissionError as in pidfd_send_signal(2)."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def kill(pid: int, start: int, seconds: float) -> bool:
    """Kill the process with this pid and start time; False if it has not ended after `seconds`."""
    pidfd = open_pidfd(pid, start)
    if pidfd is None:
        return True
    try:
        send_signal(pidfd, signal.SIGKILL)
        return syscall.is_ready(pidfd, seconds)
    finally:
        os.close(pidfd)


def receives(pid: int, number: int) -> bool:
    """Whether the init of a pid namespace receives a signal from outside; False if it does not exist.

    The kernel drops a signal for which it has no handler (`SigCgt` in /proc/PID/status), unless it is blocked
    (`SigBlk`), to be taken from a signalfd, or a thread waits for it in rt_sigtimedwait(2), which unblocks it
    meanwhile. SIGKILL and SIGSTOP are always received. pid_namespaces(7)
    """
    if number in (signal.SIGKILL, signal.SIGSTOP):
        return True
    status = proc.read(f"/proc/{pid}/status")
    if status is None:
        return False
    taken = int(_field(status, "SigCgt") or "0", 16) | int(_field(status, "SigBlk") or "0", 16)
    return bool(taken >> (number - 1) & 1) or _waits_for_signals(pid)


def _waits_for_signals(pid: int) -> bool:
    """Whether a thread is in rt_sigtimedwait(2) (sigwait(3)), by /proc/PID/task/TID/syscall.

    Also True where that cannot be known: on an unknown architecture, without CAP_SYS_PTRACE, and for a
    process that has just ended.
    """
    try:
        if not _SIGTIMEDWAIT or not os.path.exists(f"/proc/{pid}/syscall"):
            return True
        threads = os.listdir(f"/proc/{pid}/task")
        calls = [proc.read(f"/proc/{pid}/task/{thread}/syscall") or "" for thread in threads]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return True
    return any(call.partition(" ")[0] in _SIGTIMEDWAIT for call in calls)


def holds_flock(pid: int, fd: int) -> bool:
    """Whether a process has locked this open file by flock(2); False if it does not exist or may not be read.

    By its descriptors, see proc_pid_fdinfo(5): /proc/locks has the device of the inode, which is not that of
    stat(2) on btrfs and overlayfs.
    """
    unreadable = (FileNotFoundError, ProcessLookupError, PermissionError)  # closed, ended, or protected
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except unreadable:
        return False
    ours = os.fstat(fd)
    for number in numbers:
        with suppress(*unreadable):
            if " FLOCK " in (proc.read(f"/proc/{pid}/fdinfo/{number}") or ""):
                if os.path.samestat(os.stat(f"/proc/{pid}/fd/{number}"), ours):
                    return True
    return False


def find_init(pids: Iterable[int]) -> int | None:
    """Which of the processes is the init of the outermost pid namespace below ours; None if none is.

    Among the processes of a server that is its init: inits of nested namespaces have longer `NSpid` lines.
    """
    ours = os.stat("/proc/self/ns/pid").st_ino
    found: list[tuple[int, int]] = []
    for pid in pids:
        numbers = _field(proc.read(f"/proc/{pid}/status") or "", "NSpid").split()
        if len(numbers) < 2 or numbers[-1] != "1":
            continue
        try:
            if os.stat(f"/proc/{pid}/ns/pid").st_ino != ours:
                found.append((len(numbers), pid))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return min(found)[1] if found else None


def limits(pid: int) -> dict[str, tuple[int, int]]:
    """{name in LIMITS: (soft, hard)}, -1 for no limit; {} if the process does not exist.

    From /proc/PID/limits: prlimit(2) would require permission to change them.
    """
    return dict(_limits_in(proc.read(f"/proc/{pid}/limits") or ""))


@functools.lru_cache(maxsize=16)  # most servers have the same
def _limits_in(text: str) -> Mapping[str, tuple[int, int]]:
    found = {}
    for name, line in zip(LIMITS, text.splitlines()[1:], strict=False):
        soft, hard = line[26:].split()[:2]
        found[name] = (_limit(soft), _limit(hard))
    return found


def set_limit(pid: int, name: str, soft: int, hard: int) -> None:
    """Set a resource limit of a process, -1 for no limit, if the process exists.

    OSError as in prlimit(2): raising a hard limit needs CAP_SYS_RESOURCE.
    """
    try:
        try:
            resource.prlimit(pid, LIMITS[name], (soft, hard))
        except PermissionError:  # we lack CAP_SYS_RESOURCE, but the owner of the user namespace has it there
            syscall.set_effective_user(_owner_of_namespace(pid))
            try:
                resource.prlimit(pid, LIMITS[name], (soft, hard))
            finally:
                syscall.set_effective_user(0)
    except (FileNotFoundError, ProcessLookupError):
        return


def _owner_of_namespace(pid: int) -> int:
    """The host's id of the owner of a process's user namespace; ioctl_ns(2)."""
    fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int.from_bytes(fcntl.ioctl(fd, _NS_GET_OWNER_UID, bytes(4)), "little")
    finally:
        os.close(fd)


def raise_open_files(wanted: int) -> int:
    """Raise the soft limit of open files of this process, and of those it starts, to `wanted` if it is lower,
    or as far as the hard limit permits; the limit that then holds. getrlimit(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return soft if soft >= 0 else wanted
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def exit_info(pidfd: int, pid: int, start: int) -> ExitInfo | None:
    """How the process of a pidfd, not a child of ours, has ended; None if it runs or the kernel cannot tell.

    Until its parent has waited for it, field 52 of proc_pid_stat(5) has the status; afterwards the pidfd has
    it (PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15).
    """
    fields = _stat(pid)
    if fields and fields[0] == "Z" and int(fields[19]) == start:
        return _ended(int(fields[49]))
    request = _INFO.pack(_PIDFD_INFO_EXIT, *(0,) * 13)
    try:
        answer = _INFO.unpack(fcntl.ioctl(pidfd, _PIDFD_GET_INFO, request))
    except OSError:  # ENOTTY, EINVAL: no such ioctl; ESRCH: the kernel has no record
        return None
    return _ended(answer[13]) if answer[0] & _PIDFD_INFO_EXIT else None


def _ended(status: int) -> ExitInfo:
    """The ExitInfo for a status of wait(2)."""
    if os.WIFSIGNALED(status):
        return ExitInfo(None, os.WTERMSIG(status))
    return ExitInfo(os.WEXITSTATUS(status), None)


def _limit(text: str) -> int:
    return -1 if text == "unlimited" else int(text)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third one, the state; [] if the process does not exist.

    The second field, the name, may contain spaces and parentheses.
    """
    return (proc.read(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()


def _field(status: str, name: str) -> str:
    """The value of a line in /proc/PID/status; "" if there is no such line.

    The first line is never considered: it is the name, which the process chooses itself.
    """
    _, found, rest = status.partition(f"\n{name}:")
    return rest.partition("\n")[0].strip() if found else ""
