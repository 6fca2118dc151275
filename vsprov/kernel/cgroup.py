"""Control groups: which hierarchy has which controller, and the files of a group.

On a hybrid host some controllers are on v1 and some on v2; only this module knows which. Other modules name
a hierarchy ("" for cgroup2, "memory" for the one with that controller) and a group's path below it. Sources:
Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/, cgroups(7).
"""

from __future__ import annotations

import errno
import functools
import os
import select
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing

from msgspec import Struct

from vsprov.errors import HostError
from vsprov.kernel import proc, syscall

# The controllers that vsprov uses: name on v2 -> name on v1.
V1_NAMES = {
    "cpu": "cpu",
    "cpuset": "cpuset",
    "memory": "memory",
    "pids": "pids",
    "io": "blkio",
    "hugetlb": "hugetlb",
}
ALL_V1 = frozenset(V1_NAMES.values()) | {
    "cpuacct", "devices", "freezer", "misc", "net_cls", "net_prio", "perf_event", "rdma"
}  # fmt: skip
EMPTIED = select.POLLPRI | select.POLLERR  # poll(2) events of cgroup.events
GONE = (errno.ENOENT, errno.ENODEV)  # there is no such group; it was removed after open(2)
# What runtimes (JVM, Go, node) read to find their limits. On v1 the OpenJDK gives up unless it finds memory,
# cpu, cpuacct and cpuset mounted (cgroupSubsystem_linux.cpp).
READ_BY_RUNTIMES = frozenset(("cpu", "cpuacct", "cpuset", "memory", "pids"))
OOM_COUNTERS = ("memory.events", "memory.oom_control")  # the files that count OOM kills, on v2 and v1
BUSY_TRIES = 12  # attempts at rmdir; with pauses doubling from 1 ms, about 4 s in total


class Hierarchies(Struct, frozen=True):
    """Where the controllers of this host are.

    `cgroup2` is the mount point of cgroup2, `v1` those of the v1 hierarchies by controller, `v2` the set of
    controllers on cgroup2. `read` are the v1 hierarchies that runtimes read, each as its controllers.
    """

    cgroup2: str
    v1: Mapping[str, str]
    v2: frozenset[str]
    read: tuple[tuple[str, ...], ...] = ()

    def versions(self) -> dict[str, int]:
        """{controller by its v2 name: 1 or 2}, for the controllers of this host."""
        out = {}
        for name, old in V1_NAMES.items():
            if name in self.v2:
                out[name] = 2
            elif old in self.v1:
                out[name] = 1
        return out

    def directory(self, controller: str, group: str) -> str:
        """The directory of a group in the hierarchy of `controller` (by either name), in cgroup2 for ""."""
        base = self.v1.get(V1_NAMES.get(controller, controller)) if controller not in self.v2 else None
        return f"{base or self.cgroup2}/{group}" if group else base or self.cgroup2


def find(mountinfo: str = "/proc/self/mountinfo") -> Hierarchies:
    """The hierarchies of this host. If cgroup2 is not mounted, mount it for this process only.

    Raises HostError if the kernel has no cgroup2, or if the root of a hierarchy cannot be reached: a limit
    that is written to another hierarchy, or to none, would silently not hold.
    """
    v1: dict[str, str] = {}
    read: set[tuple[str, ...]] = set()
    cgroup2 = ""
    parts: dict[str, tuple[str, str]] = {}  # (group, mount point) of mounts that are not of the root
    mounts = proc.mounts(mountinfo)
    if not mounts:
        raise HostError(f"{mountinfo}: read: {os.strerror(errno.ENOENT)}", hint="mount -t proc proc /proc")
    for mount in mounts:
        if mount.kind not in ("cgroup", "cgroup2"):
            continue
        options = mount.options.split(",")
        names = [name for name in options if name in V1_NAMES.values()]
        if mount.root != "/":  # a bind mount of a single group, or a mount from outside this cgroup namespace
            parts.update(dict.fromkeys(names if mount.kind == "cgroup" else [""], (mount.root, mount.point)))
        elif mount.kind == "cgroup2":
            cgroup2 = cgroup2 or mount.point
        else:
            if READ_BY_RUNTIMES.intersection(options):
                read.add(tuple(name for name in options if name in ALL_V1))
            for name in names:
                v1.setdefault(name, mount.point)
    for name, (root, point) in parts.items():
        if (name not in v1) if name else (not cgroup2 and root.startswith("/..")):
            raise HostError(
                f"cgroup {f'v1 controller {name}' if name else 'v2'}: find its root: "
                f"{point} shows the group {root} of it",
                hint="run vsprov in the cgroup namespace of the host, with its cgroup file systems mounted",
            )
    if not (cgroup2 or v1):
        _refuse_hidden()
    cgroup2 = cgroup2 or _private_mount()
    with open(f"{cgroup2}/cgroup.controllers") as file:
        return Hierarchies(cgroup2, v1, frozenset(file.read().split()), tuple(sorted(read)))


def _refuse_hidden() -> None:
    """Raise HostError if there are hierarchies of v1, none of which is mounted in this mount namespace.

    Servers would have no limits. Where cgroup2 is mounted, but not these, somebody has made a choice.
    """
    for line in proc.lines("/proc/self/cgroup"):
        number, controllers, _ = line.split(":", 2)
        for name in controllers.split(",") if number != "0" else ():
            if name in V1_NAMES.values():
                raise HostError(
                    f"cgroup v1 controller {name}: find its root: it is not mounted in this mount namespace",
                    hint="`ip netns exec` hides it; use nsenter --net=/run/netns/NAME, or mount it",
                )


@functools.cache
def _private_mount() -> str:
    """A path to cgroup2 by a detached mount, which lives as long as this process."""
    try:
        context = syscall.fsopen("cgroup2")
        try:
            syscall.fsconfig(context, syscall.FSCONFIG_CMD_CREATE)
            mount = syscall.fsmount(context)
        finally:
            os.close(context)
    except OSError as error:
        hint = "vsprov needs a kernel with CONFIG_CGROUPS"
        raise HostError(f"mount cgroup2: {error.strerror}", hint=hint) from error
    return f"/proc/{os.getpid()}/fd/{mount}"


def read(path: str) -> str | None:
    """The content of a file without the final newline; None if the file or the group does not exist."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in GONE:
            return None
        raise
    try:
        text = b""  # a read(2) returns at most a page: the pids of about 800 processes
        while part := os.read(fd, 1 << 16):
            text += part
        return text.decode().rstrip("\n")
    except OSError as error:
        if error.errno in (*GONE, errno.EOPNOTSUPP):  # EOPNOTSUPP: no swap accounting
            return None
        raise
    finally:
        os.close(fd)


def write(path: str, data: str) -> None:
    """Write `data` to an existing file by one write(2), so that the kernel accepts or refuses all of it.

    "" is written as a newline, which empties cpuset.cpus: a write of no bytes does not reach the file.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data.encode() or b"\n")
    finally:
        os.close(fd)


def memory_used(directory: str) -> int | None:
    """Bytes charged to a group of the memory controller, v1 or v2; None if the group does not exist."""
    for file in ("memory.current", "memory.usage_in_bytes"):
        if text := read(f"{directory}/{file}"):
            return int(text)
    return None


def oom_kills(directory: str) -> int:
    """How many processes in a group of the memory controller, v1 or v2, were killed for lack of memory: in it
    and below it on v2, in it on v1. 0 if it does not exist.
    """
    for file in OOM_COUNTERS:
        for line in (read(f"{directory}/{file}") or "").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def children(directory: str) -> list[str]:
    """Names of the child groups; [] if the group does not exist."""
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno in GONE:
            return []
        raise


def count_children(directory: str) -> int:
    """The number of child groups, from the link count (kernfs, as on any Unix); 0 without such a group."""
    try:
        return os.stat(directory).st_nlink - 2
    except FileNotFoundError:
        return 0


def processes(directory: str) -> list[int]:
    """Pids in the group itself, in this pid namespace; [] if the group does not exist."""
    text = read(f"{directory}/cgroup.procs")
    return [int(word) for word in text.split()] if text else []


def all_processes(directory: str) -> list[int]:
    """Pids in the group and in all groups below it."""
    return [pid for group in walk(directory) for pid in processes(group)]


def walk(directory: str) -> Iterator[str]:
    """The directories of the group and of all groups below it, children before parents."""
    stack = [(directory, False)]
    while stack:
        group, expanded = stack.pop()
        if expanded:
            yield group
        else:
            stack.append((group, True))
            stack += [(f"{group}/{name}", False) for name in children(group)]


def populated(directory: str) -> bool:
    """Whether a process is in this cgroup2 group or below it; False if the group does not exist."""
    text = read(f"{directory}/cgroup.events")
    return text is not None and "populated 1" in text


def frozen(directory: str) -> bool:
    """Whether all processes of a cgroup2 group are frozen (cgroup.events); False if it does not exist.

    An empty group is frozen if a new process in it would be.
    """
    return "frozen 1" in (read(f"{directory}/cgroup.events") or "")


def thaw(directory: str, levels: int) -> list[str]:
    """Thaw a group, all groups below it, and its ancestors up to `levels` above; those that were frozen."""
    above = [directory.rsplit("/", level)[0] for level in range(1, levels + 1)]
    thawed = [group for group in (*above, *walk(directory)) if read(f"{group}/cgroup.freeze") == "1"]
    for group in thawed:
        write(f"{group}/cgroup.freeze", "0")
    return thawed


def kill(directory: str) -> None:
    """SIGKILL all processes in a cgroup2 group and below it, frozen or not (cgroup.kill, Linux 5.14)."""
    try:
        write(f"{directory}/cgroup.kill", "1")
    except OSError as error:
        if error.errno not in GONE:
            raise


def kill_all(directory: str) -> Generator[int, None, None]:
    """Kill all processes in a cgroup2 group and below it; yield a descriptor while any is left.

    The caller polls the descriptor for `EMPTIED` before it continues the iteration. Nothing is yielded if the
    group is empty or does not exist.
    """
    if not populated(directory):
        return
    try:
        fd = os.open(f"{directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        kill(directory)
        while _is_populated(fd):
            yield fd
    finally:
        os.close(fd)


def _is_populated(events: int) -> bool:
    try:
        return b"populated 1" in os.pread(events, 4096, 0)
    except OSError as error:
        if error.errno in GONE:
            return False
        raise


def end(directory: str, seconds: float) -> None:
    """Kill all processes in a cgroup2 group and remove it. OSError (ETIMEDOUT) if a process does not end."""
    poll = select.poll()
    with closing(kill_all(directory)) as waits:
        for fd in waits:
            poll.register(fd, EMPTIED)
            if not poll.poll(seconds * 1000):
                raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), directory)
    remove(directory)


def remove(directory: str) -> None:
    """Remove a group and all groups below it, if they exist."""
    try:
        return os.rmdir(directory)  # most groups have no children
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    for group in walk(directory):
        remove_empty(group)


def remove_empty(directory: str) -> None:
    """Remove a group without groups below it, if it exists; OSError (EBUSY) if it has processes or groups.

    For a moment after the last process has left, rmdir(2) fails with EBUSY, longer on v1; it is retried.
    """
    pause = 0.001
    for tries_left in range(BUSY_TRIES, -1, -1):
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or not tries_left or children(directory):
                raise
            time.sleep(pause)
            pause *= 2
