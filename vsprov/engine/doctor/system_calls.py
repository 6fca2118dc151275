"""System calls that creating servers requires."""

from __future__ import annotations

import os
from collections.abc import Iterator

from vsprov.engine.doctor.finding import Finding, attempt
from vsprov.kernel import cgroup, proc, syscall
from vsprov.store.instance import Instance


def _openat2() -> None:
    os.close(
        syscall.openat2(
            syscall.AT_FDCWD, "/", os.O_PATH, syscall.RESOLVE_IN_ROOT | syscall.RESOLVE_NO_MAGICLINKS
        )
    )


def _mount_api() -> None:
    context = syscall.fsopen("tmpfs")
    try:
        syscall.fsconfig(context, syscall.FSCONFIG_CMD_CREATE)
        os.close(syscall.fsmount(context))
    finally:
        os.close(context)


def _clone_into_cgroup() -> None:
    hierarchies = cgroup.find()
    own = proc.groups_of(os.getpid()).get("", "/").lstrip("/")
    group = os.open(hierarchies.directory("", own), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        pid = syscall.fork_into_cgroup(group)
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    finally:
        os.close(group)


def _pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


# A feature, the probe that uses it, what does not work without it.
CALLS = (
    ("openat2", _openat2, "paths inside a server cannot be opened safely"),
    ("pidfd", _pidfd, "a reused pid could be mistaken for a server"),
    ("mount API", _mount_api, "root file systems cannot be mounted"),
    ("clone3 CLONE_INTO_CGROUP", _clone_into_cgroup, "a server would briefly run outside its cgroup"),
)


def system_calls(instance: Instance) -> Iterator[Finding]:
    """Each call of CALLS, made."""
    for feature, probe, cost in CALLS:
        yield attempt(feature, probe, cost)
