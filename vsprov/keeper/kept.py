"""A server that the keeper keeps."""

from __future__ import annotations

import os
from errno import EINVAL
from select import POLLIN, poll

from .exits import ends
from .packets import close
from .protocol import decode

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .protocol import Ended, Keep

FDS = ("folder", "home", "pidfd", "spec")  # descriptors that come with each server
MORE_FDS = ("counters", "entry", "notify")  # those that come with some
LONGEST_SPEC = 16 << 20  # bytes
ENDING = 1000  # milliseconds for the end of an init that has left its control group


class Kept:
    """A server that runs, or one that has ended without a keeper, which has no pidfd.

    `spec` is the part of it that the keeper works by, as `model.fields.kept` returns it. `status`, once its
    init has ended, is its wait status, or None if nobody knows it; `oom` is whether the kernel killed a
    process of it for lack of memory. `fds` are its descriptors, by name (`protocol.Keep`).
    """

    __slots__ = (
        "counters",
        "fds",
        "folder",
        "home",
        "kills",
        "name",
        "oom",
        "pid",
        "pidfd",
        "spec",
        "start",
        "status",
    )

    def __init__(self, request: Keep | Ended, fds: dict[str, int], spec: dict[str, Any]) -> None:
        self.name, self.pid, self.start = request["name"], request["pid"], request["start"]
        self.folder, self.home, self.pidfd = fds["folder"], fds["home"], fds.get("pidfd", -1)
        self.counters = fds.get("counters", -1)
        self.fds = fds
        self.spec = spec
        self.kills = ends.oom_kills(self.counters)
        self.status: int | None = None
        self.oom = False

    def renew(self, fds: dict[str, int], spec: dict[str, Any]) -> None:
        """Take a new spec, and the descriptors that belong to it instead of those of the old one."""
        self.spec = spec
        for name, fd in fds.items():
            if name in MORE_FDS[1:]:
                fd, self.fds[name] = self.fds.get(name, -1), fd
            if fd >= 0:
                os.close(fd)

    def is_ending(self) -> bool:
        """Wait for the end of its init if its group is empty, which the kernel announces just before the end:
        commands take the server for ended. Whether the init has ended.
        """
        return not ends.is_populated(self.home) and bool(readable([self.pidfd], ENDING))

    def close(self) -> None:
        """Close its descriptors."""
        close(*self.fds.values())


def readable(fds: Iterable[int], milliseconds: int) -> set[int]:
    """Which of these descriptors are readable, or the first that become so within this time."""
    waits = poll()
    for fd in fds:
        waits.register(fd, POLLIN)
    return {fd for fd, _ in waits.poll(milliseconds)}


def read_spec(fd: int) -> dict[str, Any]:
    """The spec in a memfd. OSError if there is none."""
    size = os.fstat(fd).st_size
    text = os.pread(fd, size, 0) if size <= LONGEST_SPEC else b""
    if not text or len(text) < size:
        raise OSError(EINVAL, "its spec is incomplete")
    found: dict[str, Any] = decode(text)
    return found
