"""Files in /proc that several modules read."""

from __future__ import annotations

import errno
import functools
import os
import re
from typing import NamedTuple

from vsprov.errors import HostError

_PIECE = 1 << 16


def read(path: str) -> str | None:
    """The text of a file in /proc; None if the process does not exist."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        text = b""
        while piece := os.read(fd, _PIECE):
            text += piece
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)
    return text.decode("utf-8", "surrogateescape")


def lines(path: str) -> list[str]:
    """The lines of a file in /proc; [] if the process does not exist.

    Names in it may contain any character, also those that str.splitlines() takes for line breaks.
    """
    text = read(path)
    return text.removesuffix("\n").split("\n") if text else []


@functools.cache
def boot_id() -> str:
    """A UUID that differs after each boot of the host; random(4). HostError if it is hidden."""
    path = "/proc/sys/kernel/random/boot_id"
    if not (text := read(path)):
        found = os.strerror(errno.ENOENT) if text is None else "it is empty"
        raise HostError(
            f"{path}: read the ID of this boot: {found}",
            hint="part of /proc is hidden on this host, as in a container without nesting; see vsprov doctor",
        )
    return text.strip()


def capabilities() -> int:
    """The effective capabilities of this process, as a bit mask; none if /proc is not mounted.

    capabilities(7).
    """
    found = (line.split()[1] for line in lines("/proc/self/status") if line.startswith("CapEff:"))
    return int(next(found, "0"), 16)


class Mount(NamedTuple):
    """A line of mountinfo, with paths escaped as there; `options` are those of the file system, `flags` those
    of the mount, and `number` is its ID.

    `root` is the path in the file system that is mounted at `point`.
    """

    device: str
    root: str
    point: str
    kind: str
    options: str
    flags: str = ""
    number: int = 0


def mounts(path: str = "/proc/self/mountinfo") -> list[Mount]:
    """The mounts of this mount namespace; proc_pid_mountinfo(5). [] if /proc is not mounted."""
    found = []
    for line in lines(path):
        head, _, tail = line.partition(" - ")
        number, _parent, device, root, point, flags, *_ = head.split(" ")
        kind, _source, options = tail.split(" ", 2)
        found.append(Mount(device, root, point, kind, options, flags, int(number)))
    return found


def mount_of(place: str | int) -> Mount | None:
    """The mount that a path, or an open file, is on; None if it is in no mount namespace, or another one.

    Found by the number of the mount, because files of btrfs have other devices than their file system:
    stat(2) and mountinfo differ.
    """
    fd = os.open(place, os.O_PATH | os.O_CLOEXEC) if isinstance(place, str) else place
    try:
        found = lines(f"/proc/self/fdinfo/{fd}")
    finally:
        if isinstance(place, str):
            os.close(fd)
    number = next((int(line.split()[1]) for line in found if line.startswith("mnt_id:")), 0)
    return next((mount for mount in mounts() if mount.number == number), None)


def unescaped(path: str) -> str:
    """A path of mountinfo, where blanks, backslashes and # are written as \\ooo, as it is."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), path) if "\\" in path else path


def first_id(pid: int) -> int | None:
    """The host uid that is uid 0 in the process's user namespace; None if the process does not exist."""
    words = (read(f"/proc/{pid}/uid_map") or "").split()
    return int(words[1]) if words else None


def groups_of(pid: int) -> dict[str, str]:
    """{v1 controller, or "" for cgroup2: path of the process's group}; {} if there is no such process."""
    out = {}
    for line in lines(f"/proc/{pid}/cgroup"):
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            out[name] = path
    return out
