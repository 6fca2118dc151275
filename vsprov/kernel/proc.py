"""Files of /proc that more than one module reads."""

from __future__ import annotations

import functools
import os

_PIECE = 1 << 16


def read(path: str) -> str | None:
    """A /proc file's text; None when the process is gone."""
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


@functools.cache
def boot_id() -> str:
    """A value that is another after each boot of the host (random(4))."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def capabilities() -> int:
    """The bits of the capabilities that are in effect for this process. capabilities(7)."""
    status = read("/proc/self/status") or ""
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)


def first_id(pid: int) -> int | None:
    """The host's id that is 0 in the process's user namespace; None when it is gone. user_namespaces(7)."""
    words = (read(f"/proc/{pid}/uid_map") or "").split()
    return int(words[1]) if words else None


def groups_of(pid: int) -> dict[str, str]:
    """{v1 controller, "" for cgroup2: a process's group}; {} when gone. cgroups(7), /proc/PID/cgroup."""
    out = {}
    for line in (read(f"/proc/{pid}/cgroup") or "").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            out[name] = path
    return out
