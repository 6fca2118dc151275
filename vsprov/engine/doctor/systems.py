"""What the kernel allows in the user namespace of a server, and what system servers need beyond that."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from vsprov.engine.doctor.finding import Finding, attempt, in_child
from vsprov.kernel import proc, syscall
from vsprov.plan.observed import Machine
from vsprov.store.instance import Instance

_OWN = (
    syscall.CLONE_NEWUSER
    | syscall.CLONE_NEWNS
    | syscall.CLONE_NEWPID
    | syscall.CLONE_NEWNET
    | syscall.CLONE_NEWCGROUP
)
_LIMITING = ("cpu", "memory", "pids")  # the controllers of systemd.resource-control(5) that vsprov delegates
# What the kernel leaves to the init of the host, and what the other terminals of a server may need.
_PTYS, _PTYS_OF_A_SERVER = "/proc/sys/kernel/pty", 16


def inside(instance: Instance) -> Iterator[Finding]:
    """The file systems of the kernel that every server mounts."""
    hidden = "no server starts; part of it is hidden on this host, as in a container without nesting"
    yield attempt("/proc in servers", lambda: _as_root_of_a_server(_mount("proc")), hidden)
    yield attempt("/sys in servers", lambda: _as_root_of_a_server(_mount("sysfs")), hidden)
    yield attempt("cgroup2 in servers", lambda: _as_root_of_a_server(_mount("cgroup2")), "no server starts")


def systems(machine: Machine) -> Iterator[Finding]:
    """What system servers need, beyond what all servers do."""
    yield attempt(
        "system: user namespaces",
        lambda: _as_root_of_a_server(lambda: syscall.unshare(syscall.CLONE_NEWUSER)),
        "no containers and no PrivateUsers= in system servers; check the sysctls user.max_user_namespaces, "
        "kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns",
        "degraded",
    )
    yield _terminals()
    yield _unit_limits(machine)


def _as_root_of_a_server(work: Callable[[], None]) -> None:
    """Do something as root of namespaces as a server has them, which end with it. OSError as of `work`."""

    def enter() -> None:
        user, group = os.geteuid(), os.getegid()
        syscall.unshare(_OWN)
        for file, content in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with open(f"/proc/self/{file}", "w") as opened:
                opened.write(content)
        in_child(work)  # the pid namespace begins with the next process

    in_child(enter)


def _mount(kind: str) -> Callable[[], None]:
    def work() -> None:
        syscall.mount("none", "/", None, syscall.MS_REC | syscall.MS_PRIVATE)
        syscall.mount(kind, "/", kind, 0)  # the kernel refuses if a mount of the kind hides something

    return work


def _terminals() -> Finding:
    """pty(7): a devpts other than the host's first one may use `max` - `reserve` of all terminals."""
    texts = [proc.read(f"{_PTYS}/{name}") for name in ("max", "reserve", "nr")]
    if None in texts:
        return Finding("system: terminals", "degraded", "not known", f"{_PTYS} is hidden on this host")
    most, reserved, used = (int(text or 0) for text in texts)
    left = most - reserved - used
    found = f"{used} of {most - reserved} in use"
    if left < _PTYS_OF_A_SERVER:
        return Finding(
            "system: terminals",
            "degraded",
            found,
            "no consoles of system servers; raise the sysctl kernel.pty.max",
        )
    return Finding("system: terminals", "ok", found)


def _unit_limits(machine: Machine) -> Finding:
    """The controllers that the init of a server may divide among its units."""
    lacking = [name for name in _LIMITING if machine.versions.get(name) != 2]
    if not lacking:
        return Finding("system: limits of units", "ok", "cgroup v2")
    cost = "systemd in servers cannot limit units (MemoryMax=); boot with systemd.unified_cgroup_hierarchy=1"
    return Finding("system: limits of units", "degraded", f"{', '.join(lacking)} not on cgroup v2", cost)
