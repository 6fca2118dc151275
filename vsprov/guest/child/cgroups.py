"""The control groups that a server sees: cgroup2, and the v1 hierarchies of the host.

Runtimes find their limits there: they join the mount points with the paths in /proc/self/cgroup, which are
"/", because the cgroup namespace is rooted at the groups that have the limits. Those of v1 are read-only, and
their files belong to ids of the host. A hierarchy without a group of the server's own would show the host's
groups, so it is covered.
"""

from __future__ import annotations

from errno import EEXIST, ENOENT

from ..sys_calls import AT_FDCWD, MS_BIND, MS_RDONLY
from .program import EMPTY, PRIVATE, READ_ONLY, ChildProgram, Program
from .system import KERNEL

Hierarchies = tuple[tuple[tuple[str, ...], bool], ...]  # the controllers of each, whether it is the server's


def write_cgroups(p: Program, v1: Hierarchies, also: bytes = b"") -> None:
    """Mount cgroup2 at /sys/fs/cgroup; on a host with v1 hierarchies as hosts do, all below a tmpfs, and
    cgroup2 there under the name `also` too.
    """
    p.step = "mount /sys/fs/cgroup"
    if not v1:
        p.mount(b"cgroup2", b"/sys/fs/cgroup", PRIVATE)
        return
    p.mount(b"tmpfs", b"/sys/fs/cgroup", PRIVATE, b"mode=755,size=64k,nr_inodes=64")
    p.call("chdir", b"/sys/fs/cgroup")
    p.call("mkdirat", AT_FDCWD, b"unified", 0o755)
    p.mount(b"cgroup2", b"unified", PRIVATE)
    if also:
        p.call("mkdirat", AT_FDCWD, also, 0o755)
        p.call("mount", b"unified", also, None, MS_BIND, None)
    covered = _write_v1(p, v1)
    p.call("mount_setattr", AT_FDCWD, b"/sys/fs/cgroup", 0, READ_ONLY, len(READ_ONLY))
    _cover(p, covered)  # read-only as well, as copies of what is by now


def write_systemd_cgroups(p: Program, v1: Hierarchies) -> None:
    """As `write_cgroups`, or with cgroup2 alone at /sys/fs/cgroup, which `choose_cgroup2_alone` selects: all
    that systemd accepts from version 258 on.

    On a host with v1 hierarchies, the former lets runtimes find the limits of the server. OpenJDK takes
    cgroup2 at /sys/fs/cgroup as all there is (CgroupSubsystemFactory::determine_type, JDK-8349988), and there
    the controllers on v1 have no files. systemd uses cgroup2 in both cases, by the name "unified" (233) or
    "systemd" (232), where it otherwise mounts its v1 hierarchy, which is the host's.
    """
    if not v1:
        write_cgroups(p, v1)
        return
    mixed = Program(p.memory)
    write_cgroups(mixed, v1, b"systemd")
    p.step = "mount /sys/fs/cgroup"
    p.call("chdir", b"/", on=((ENOENT, len(mixed.calls) + 1),))
    p.add(mixed)
    end = len(p.calls) - 1
    _write_cgroup2_alone(p, v1)
    p.skip_to_end(end)


def choose_cgroup2_alone(p: ChildProgram) -> None:
    """Let a child that waits for its mounts have cgroup2 alone at /sys/fs/cgroup."""
    p.memory.change(p.cgroups, EMPTY)  # no such directory


def _write_cgroup2_alone(p: Program, v1: Hierarchies) -> None:
    """The v1 hierarchies are elsewhere, for runtimes that look in /proc/self/mountinfo (Go, .NET). node looks
    for the memory controller by its usual path only (uv_get_constrained_memory() of libuv): in a group of
    that name, which systemd leaves alone.
    """
    p.mount(b"cgroup2", b"/sys/fs/cgroup", PRIVATE)
    p.call("mkdirat", AT_FDCWD, KERNEL + b"/cgroup", 0o755)
    p.call("chdir", KERNEL + b"/cgroup")
    _cover(p, _write_v1(p, v1))
    for controllers, own in v1:
        if own and "memory" in controllers:
            p.step = "mount the control group of memory"
            p.call("mkdirat", AT_FDCWD, b"/sys/fs/cgroup/memory", 0o755, on=((EEXIST, 1),))
            p.mount(b"cgroup", b"/sys/fs/cgroup/memory", PRIVATE | MS_RDONLY, ",".join(controllers).encode())


def _write_v1(p: Program, v1: Hierarchies) -> list[bytes]:
    """Mount the v1 hierarchies in the working directory; those to be covered, by the directory `empty`."""
    p.call("mkdirat", AT_FDCWD, b"empty", 0o755)
    covered = []
    for controllers, own in v1:
        name = ",".join(controllers).encode()
        p.step = f"mount the control groups of {name.decode()}"
        p.call("mkdirat", AT_FDCWD, name, 0o755)
        p.mount(b"cgroup", name, PRIVATE | MS_RDONLY, name)
        if not own:
            covered.append(name)
        for alias in controllers if len(controllers) > 1 else ():
            p.call("symlinkat", name, AT_FDCWD, alias.encode())
    return covered


def _cover(p: Program, names: list[bytes]) -> None:
    """Hide mounts in the working directory, and leave it."""
    for name in names:
        p.call("mount", b"empty", name, None, MS_BIND, None)
    p.call("chdir", b"/")
