"""What a process inherits from whoever started vsprov, set to the values it has after boot.

A server must be the same whether it was started from a shell, cron or a systemd timer. The guest programs
therefore set these values once for themselves, and all their children inherit them. The rest is set for each
child: signals, session and autogroup, umask, limits, groups, capabilities, keyring, environment.

The kernel takes none of these back: no_new_privs, the seccomp filters and the label of a security module that
our caller has, PR_SET_MDWE, uclamp values, a core scheduling cookie, and oom_score_adj below what a process
with CAP_SYS_RESOURCE has set.
"""

from __future__ import annotations

import ctypes
import os
from errno import EACCES, EINVAL, ENODEV, ENOENT, ENOSYS, ENXIO, EPERM, ERANGE, EROFS

from .mounts import write
from .sys_calls import KEYCTL_JOIN_SESSION_KEYRING, raw_syscall

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from collections.abc import Iterable

KEYCTL_SET_REQKEY_KEYRING, KEY_REQKEY_DEFL_DEFAULT = 14, 0
SCHED_OTHER, IOPRIO_WHO_PROCESS, IOPRIO_NONE, MPOL_DEFAULT, PER_LINUX = 0, 1, 0, 0, 0
PR_SET_TSC, PR_SET_TIMERSLACK, PR_MCE_KILL, PR_SET_THP_DISABLE = 26, 29, 33, 41
PR_SET_SPECULATION_CTRL, PR_SET_MEMORY_MERGE = 53, 67
NANOSECONDS_OF_SLACK = 50_000
NUMBERS = {  # on x86_64, and on the architectures added later
    "ioprio_set": (251, 30), "keyctl": (250, 219), "personality": (135, 92), "prctl": (157, 167),
    "sched_setaffinity": (203, 122), "sched_setattr": (314, 274), "set_mempolicy": (238, 237),
}  # fmt: skip
ABSENT = (ENOSYS, EINVAL, ENODEV, ENXIO, EPERM, ERANGE)  # a feature that the kernel or the processor lacks


def reset_inherited() -> None:
    """Set everything that our children would inherit from our caller to a known value."""
    leave_v1_groups()
    # Scheduling before timer slack, which a real-time policy would set to 0.
    call("sched_setattr", 0, ctypes.addressof(_attributes), 0)
    call("ioprio_set", IOPRIO_WHO_PROCESS, 0, IOPRIO_NONE, accept=(ENOSYS,))
    call("sched_setaffinity", 0, len(_all_cpus), ctypes.addressof(_all_cpus))
    call("set_mempolicy", MPOL_DEFAULT, accept=(ENOSYS,))
    call("personality", PER_LINUX)
    call("prctl", PR_SET_TIMERSLACK, NANOSECONDS_OF_SLACK)
    call("prctl", PR_SET_THP_DISABLE, accept=ABSENT)
    call("prctl", PR_SET_MEMORY_MERGE, accept=ABSENT)
    call("prctl", PR_MCE_KILL, accept=ABSENT)
    call("prctl", PR_SET_TSC, 1, accept=ABSENT)
    for misfeature in (0, 1):  # PR_SPEC_STORE_BYPASS, PR_SPEC_INDIRECT_BRANCH: PR_SPEC_ENABLE
        call("prctl", PR_SET_SPECULATION_CTRL, misfeature, 2, accept=ABSENT)
    call("keyctl", KEYCTL_JOIN_SESSION_KEYRING, accept=(ENOSYS,))
    call("keyctl", KEYCTL_SET_REQKEY_KEYRING, KEY_REQKEY_DEFL_DEFAULT, accept=(ENOSYS,))
    try_to_write("/proc/self/coredump_filter", b"0x33", (ENOENT,))
    # EACCES: it was raised by a process with CAP_SYS_RESOURCE, which we lack.
    try_to_write("/proc/self/oom_score_adj", b"0", (EACCES,))
    # Unset, as in a service: in a server pam_loginuid(8) could not set one that has a value. EPERM: audit
    # rules have made it immutable, or we lack CAP_AUDIT_CONTROL. ENOENT: a kernel without audit.
    try_to_write("/proc/self/loginuid", b"4294967295", (ENOENT, EPERM))


# struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period; sched_setattr(2).
_attributes = (ctypes.c_uint64 * 6)(48 | SCHED_OTHER << 32)
_all_cpus = (ctypes.c_char * 1024)(*[b"\xff"] * 1024)  # the kernel ignores those that it does not have


def leave_v1_groups() -> None:
    """Move to the root of each cgroup v1 hierarchy: a caller's group may be frozen, limited, or killed with
    the caller. Of cgroup2, children are cloned into groups of their own.
    """
    below = set()
    with open("/proc/self/cgroup", "rb") as file:
        for line in file:
            _number, names, path = line.rstrip(b"\n").split(b":", 2)
            if names and path != b"/":
                below.update(names.split(b","))
    if not below:
        return
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            head, _, tail = line.rstrip(b"\n").partition(b" - ")
            kind, _source, options = tail.split(b" ", 2)
            fields = head.split(b" ")
            if kind == b"cgroup" and fields[3] == b"/" and (here := below.intersection(options.split(b","))):
                below -= here
                try_to_write(f"{os.fsdecode(fields[4])}/cgroup.procs", b"0", (EACCES, EPERM, EROFS))


def call(name: str, *words: int, accept: Iterable[int] = ()) -> None:
    """Make a system call; OSError unless it succeeds or fails with one of these errnos."""
    number = NUMBERS[name][os.uname().machine != "x86_64"]
    result = raw_syscall(number, *words, *(0,) * (6 - len(words)))
    if result < 0 and -result not in accept:
        raise OSError(-result, os.strerror(-result), name)


def try_to_write(path: str, content: bytes, accept: Iterable[int]) -> None:
    """As `write`, without an error for one of these errnos."""
    try:
        write(path, content)
    except OSError as error:
        if (error.errno or 0) not in accept:
            raise
