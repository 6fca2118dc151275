"""The privileges of this process: capabilities, and namespaces of each type."""

from __future__ import annotations

import os
from collections.abc import Iterator

from vsprov.engine.doctor.finding import Finding, attempt, in_child
from vsprov.kernel import proc, syscall
from vsprov.model.values.names import CAPABILITIES
from vsprov.store.instance import Instance

# Required to create servers; without SYS_RESOURCE only hard limits cannot be raised.
NEEDED_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE FOWNER KILL SETGID SETUID SETPCAP NET_ADMIN SYS_CHROOT SYS_PTRACE SYS_ADMIN".split()
)
NAMESPACES = {
    "mnt": syscall.CLONE_NEWNS,
    "pid": syscall.CLONE_NEWPID,
    "uts": syscall.CLONE_NEWUTS,
    "ipc": syscall.CLONE_NEWIPC,
    "net": syscall.CLONE_NEWNET,
    "user": syscall.CLONE_NEWUSER,
    "cgroup": syscall.CLONE_NEWCGROUP,
}


def privileges(instance: Instance) -> Iterator[Finding]:
    """The capabilities that creating servers requires, and namespaces of each type."""
    yield _capabilities()
    yield from map(_namespace, NAMESPACES)


def _capabilities() -> Finding:
    held = proc.capabilities()
    lacking = [name for name in NEEDED_CAPABILITIES if not held >> CAPABILITIES.index(name) & 1]
    if lacking:
        found = "not root" if os.geteuid() != 0 else f"root without {', '.join(lacking)}"
        return Finding("capabilities", "missing", found, "run it with sudo")
    if not held >> CAPABILITIES.index("SYS_RESOURCE") & 1:
        cost = "hard resource limits cannot be raised above those of this process"
        return Finding("capabilities", "degraded", "root without SYS_RESOURCE", cost)
    return Finding("capabilities", "ok", "root")


def _namespace(name: str) -> Finding:
    return attempt(
        f"namespace {name}",
        lambda: in_child(lambda: syscall.unshare(NAMESPACES[name])),
        "check the sysctls user.max_*_namespaces, and whether a container runtime forbids it",
    )
