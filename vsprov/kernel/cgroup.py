"""Control groups: where each controller lives, and reading and writing the files of a group.

This is the one place that decides, per controller, where it lives, for on a hybrid host some are on v1 and
some on v2. Everyone else names a hierarchy ("" is cgroup2, "memory" whatever holds that controller) and a
group's path below it. Sources: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/;
cgroups(7).
"""

from __future__ import annotations

import errno
import functools
import os
import select
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

from vsprov.errors import HostError
from vsprov.kernel import syscall

# v2's name of each controller vsprov knows -> its name on v1.
V1_NAMES = {
    "cpu": "cpu",
    "cpuset": "cpuset",
    "memory": "memory",
    "pids": "pids",
    "io": "blkio",
    "hugetlb": "hugetlb",
}
EMPTIED = select.POLLPRI | select.POLLERR  # poll(2) events of cgroup.events
BUSY_TRIES = 12  # rmdir just after the last process went; doubling from 1 ms this is about 4 s


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where this host's controllers are.

    `cgroup2` and `v1` (by controller) are where they are mounted, `v2` the controllers cgroup2 has.
    """

    cgroup2: str
    v1: Mapping[str, str]
    v2: frozenset[str]

    def versions(self) -> dict[str, int]:
        """{controller, by v2 name: 1 or 2} of those this host has."""
        out = {}
        for name, old in V1_NAMES.items():
            if name in self.v2:
                out[name] = 2
            elif old in self.v1:
                out[name] = 1
        return out

    def directory(self, controller: str, group: str) -> str:
        """A group's directory in the hierarchy of `controller` (by either name), in cgroup2 for ""."""
        base = self.v1.get(V1_NAMES.get(controller, controller)) if controller not in self.v2 else None
        return f"{base or self.cgroup2}/{group}" if group else base or self.cgroup2


def find(mountinfo: str = "/proc/self/mountinfo") -> Hierarchies:
    """The hierarchies of this host. Where nobody has mounted cgroup2, it is mounted for this process alone.

    Raises HostError when the kernel has no cgroup2.
    """
    v1: dict[str, str] = {}
    cgroup2 = ""
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            head, _, tail = line.rstrip("\n").partition(" - ")
            kind, _, options = tail.split(" ", 2)
            if kind not in ("cgroup", "cgroup2"):
                continue
            fields = head.split(" ")
            if fields[3] != "/":  # a bind of some group, not the hierarchy
                continue
            if kind == "cgroup2":
                cgroup2 = cgroup2 or fields[4]
            else:
                for name in options.split(","):
                    if name in V1_NAMES.values():
                        v1.setdefault(name, fields[4])
    cgroup2 = cgroup2 or _private_mount()
    with open(f"{cgroup2}/cgroup.controllers") as file:
        return Hierarchies(cgroup2, v1, frozenset(file.read().split()))


@functools.cache
def _private_mount() -> str:
    """A path of cgroup2, mounted nowhere: a detached mount that lives as long as this process."""
    try:
        context = syscall.fsopen("cgroup2")
        try:
            syscall.fsconfig(context, syscall.FSCONFIG_CMD_CREATE)
            mount = syscall.fsmount(context)
        finally:
            os.close(context)
    except OSError as error:
        hint = "vsprov needs a kernel with CONFIG_CGROUPS"
        raise HostError(f"cgroup2 cannot be mounted: {error.strerror}", hint=hint) from error
    return f"/proc/{os.getpid()}/fd/{mount}"


def read(path: str) -> str | None:
    """A file's content without the newline at its end; None when there is no such file or group.

    One read(2) gives a page of it at most: the pids of some 800 processes.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        text = b""
        while part := os.read(fd, 1 << 16):
            text += part
        return text.decode().rstrip("\n")
    except OSError as error:
        # The group went between open and read; no swap accounting.
        if error.errno in (errno.ENODEV, errno.EOPNOTSUPP):
            return None
        raise
    finally:
        os.close(fd)


def write(path: str, data: str) -> None:
    """One write(2), so that the kernel's answer is about all of `data`; never creates the file.

    Nothing is written as a newline: a write of no bytes never reaches the file, and that empties cpuset.cpus.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data.encode() or b"\n")
    finally:
        os.close(fd)


def memory_used(directory: str) -> int | None:
    """Bytes charged to a group of the memory controller, by the file of either version; None without it."""
    for file in ("memory.current", "memory.usage_in_bytes"):
        if text := read(f"{directory}/{file}"):
            return int(text)
    return None


def children(directory: str) -> list[str]:
    """Names of the groups directly below; [] when the directory is gone."""
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def processes(directory: str) -> list[int]:
    """Pids directly in the group, as this pid namespace knows them; [] when it is gone."""
    text = read(f"{directory}/cgroup.procs")
    return [int(word) for word in text.split()] if text else []


def all_processes(directory: str) -> list[int]:
    """Pids in the group and everything below it."""
    return [pid for group in walk(directory) for pid in processes(group)]


def walk(directory: str) -> Iterator[str]:
    """The group and all below it, children before parents."""
    stack = [(directory, False)]
    while stack:
        group, expanded = stack.pop()
        if expanded:
            yield group
        else:
            stack.append((group, True))
            stack += [(f"{group}/{name}", False) for name in children(group)]


def populated(directory: str) -> bool:
    """Whether any process is in this cgroup2 group or below; False when it is gone."""
    text = read(f"{directory}/cgroup.events")
    return text is not None and "populated 1" in text


def kill(directory: str) -> None:
    """SIGKILL to everything in a cgroup2 group and below it, frozen or not (cgroup.kill, since 5.14)."""
    if os.path.isdir(directory):
        write(f"{directory}/cgroup.kill", "1")


def kill_all(directory: str) -> Generator[int, None, None]:
    """Kill everything in a cgroup2 group and below it; yields a descriptor while processes are left.

    Poll the descriptor for `EMPTIED` before each next step. Nothing is yielded if the group is empty or gone.
    """
    if not populated(directory):
        return
    fd = os.open(f"{directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        kill(directory)
        while b"populated 1" in os.pread(fd, 4096, 0):
            yield fd
    finally:
        os.close(fd)


def end(directory: str, seconds: float) -> None:
    """Kill everything in a cgroup2 group and remove it. OSError, ETIMEDOUT, for what does not die in time."""
    poll = select.poll()
    with closing(kill_all(directory)) as waits:
        for fd in waits:
            poll.register(fd, EMPTIED)
            if not poll.poll(seconds * 1000):
                raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), directory)
    remove(directory)


def remove(directory: str) -> None:
    """Remove a group and all below it; without error when it is gone.

    The kernel says EBUSY for a moment after the last process has left (v1 more so), so that is tried again
    with growing pauses.
    """
    try:
        return os.rmdir(directory)  # most have none below them
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    for group in walk(directory):
        pause = 0.001
        for tries_left in range(BUSY_TRIES, -1, -1):
            try:
                os.rmdir(group)
                break
            except FileNotFoundError:
                break
            except OSError as error:
                if error.errno != errno.EBUSY or not tries_left:
                    raise
                time.sleep(pause)
                pause *= 2
