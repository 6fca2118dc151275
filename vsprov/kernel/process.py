"""Processes of the host: who they are for certain, how to signal them, what they would do with a signal."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from vsprov.kernel import proc

# _IOWR(0xFF, 11, struct pidfd_info); the 64 bytes of its first version (6.13).
_INFO = struct.Struct("QQ11Ii")
_PIDFD_GET_INFO = 3 << 30 | 64 << 16 | 0xFF << 8 | 11
_PIDFD_INFO_EXIT = 1 << 3
_PF_EXITING = 0x4  # include/linux/sched.h


# Resources by name, numbered as the kernel numbers them and in the order of /proc/PID/limits.
_NAMES = "cpu fsize data stack core rss nproc nofile memlock as locks sigpending msgqueue nice rtprio rttime"
LIMITS = {name: number for number, name in enumerate(_NAMES.split())}


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, for ever: pids are used again, but not with the same start time in the same boot.

    `start` is field 22 of /proc/PID/stat, in clock ticks after boot.
    """

    pid: int
    start: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class ExitInfo:
    """How a process ended: its exit code, or the signal that killed it."""

    code: int | None
    signal: int | None


def identity(pid: int) -> Identity | None:
    """The identity of the living process with this pid; None when there is none."""
    state = _state(pid)
    return Identity(pid, state[1], proc.boot_id()) if state and state[0] not in "ZX" else None


def alive(who: Identity) -> bool:
    """Whether that very process still runs: not one that got its pid, not a zombie."""
    return who.boot_id == proc.boot_id() and identity(who.pid) == who


def is_ending(pid: int) -> bool:
    """Whether a process is on its way out, or gone: it may have left its cgroups already (PF_EXITING in the
    flags of /proc/PID/stat).
    """
    fields = (proc.read(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
    return not fields or fields[0] in "ZX" or bool(int(fields[6]) & _PF_EXITING)


def open_pidfd(pid: int, start: int) -> int | None:
    """A pidfd of the process that has this pid and start time, or None when it is gone.

    The start time is read after opening: from then on the pidfd itself stands for the process.
    """
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    found = identity(pid)
    if found and found.start == start:
        return fd
    os.close(fd)
    return None


def send_signal(pidfd: int, number: int) -> bool:
    """Send a signal; False when the process has ended. PermissionError as pidfd_send_signal(2)."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def catches(pid: int, number: int) -> bool:
    """Whether a signal would reach the process: it has a handler for it (`SigCgt` of /proc/PID/status), or
    blocks it (`SigBlk`) to take it from a signalfd or sigwait, as init programs do. False when it is gone.

    The first process of a pid namespace never gets any other signal, but for SIGKILL and SIGSTOP from
    outside; pid_namespaces(7).
    """
    status = proc.read(f"/proc/{pid}/status") or ""
    taken = int(_field(status, "SigCgt") or "0", 16) | int(_field(status, "SigBlk") or "0", 16)
    return bool(taken >> (number - 1) & 1)


def find_init(pids: Iterable[int]) -> int | None:
    """The one that is the first process of a pid namespace other than ours; None when there is none.

    Given a server's processes this is its init: nested namespaces in it have deeper `NSpid` lines.
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
    """(soft, hard) by the names of LIMITS, -1 for no limit; empty when the process is gone.

    Read from /proc/PID/limits, which needs no right to change them.
    """
    lines = (proc.read(f"/proc/{pid}/limits") or "").splitlines()[1:]
    found = {}
    for name, line in zip(LIMITS, lines, strict=False):
        soft, hard = line[26:].split()[:2]
        found[name] = (_limit(soft), _limit(hard))
    return found


def set_limit(pid: int, name: str, soft: int, hard: int) -> None:
    """Set one limit of a running process, -1 for no limit; nothing to do when it is gone.

    Other OSErrors as prlimit(2): raising a hard limit needs CAP_SYS_RESOURCE.
    """
    try:
        resource.prlimit(pid, LIMITS[name], (soft, hard))
    except ProcessLookupError:
        return


def exit_info(pidfd: int) -> ExitInfo | None:
    """How the process of a pidfd ended, though it is not our child; None while it runs or where the kernel
    cannot tell.

    PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15.
    """
    request = _INFO.pack(_PIDFD_INFO_EXIT, *(0,) * 13)
    try:
        answer = _INFO.unpack(fcntl.ioctl(pidfd, _PIDFD_GET_INFO, request))
    except OSError:  # ENOTTY, EINVAL: no such ioctl; ESRCH: gone before the kernel kept a record
        return None
    if not answer[0] & _PIDFD_INFO_EXIT:
        return None
    status = answer[13]
    if os.WIFSIGNALED(status):
        return ExitInfo(None, os.WTERMSIG(status))
    return ExitInfo(os.WEXITSTATUS(status), None)


def _limit(text: str) -> int:
    return -1 if text == "unlimited" else int(text)


def _state(pid: int) -> tuple[str, int] | None:
    """(state letter, start time) of /proc/PID/stat; the name in it may hold blanks and brackets."""
    fields = (proc.read(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
    return (fields[0], int(fields[19])) if fields else None


def _field(status: str, name: str) -> str:
    """What a line of /proc/PID/status says; "" without such a line. The first line, the name, is none: a
    process gives it to itself.
    """
    _, found, rest = status.partition(f"\n{name}:")
    return rest.partition("\n")[0].strip() if found else ""
