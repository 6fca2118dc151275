"""Creating a path of a guest that leads through a dangling link, as a program inside would: within its root.

The list of system calls that a child runs cannot read links. A process of ours does it instead: in the
guest's user and mount namespaces, whose root is the guest's, so that no link leads out (CVE-2024-45310).

The path may be on a file system that another process serves, as with FUSE. If that process never answers,
the kernel does not even let ours end. So the spawner goes on meanwhile, and leaves it behind at its deadline.
"""

from __future__ import annotations

import os
from errno import ETIMEDOUT
from time import monotonic

from ..sys_calls import (
    CLONE_NEWNS,
    CLONE_NEWUSER,
    PR_SET_DUMPABLE,
    SIGKILL,
    close_others,
    prctl,
    setns,
)

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .children import Child

SECONDS_TO_ANSWER = 5.0


class Creation:
    """A path that is being created for a child; `step` names what for. No deadline: it was given up."""

    __slots__ = ("child", "deadline", "path", "step")

    def __init__(self, child: Child, step: str, path: str) -> None:
        self.child = child
        self.step = step
        self.path = path
        self.deadline: float | None = monotonic() + SECONDS_TO_ANSWER

    def failure(self, code: int) -> OSError | None:
        """What the exit code of the process that creates the path means."""
        if code == 0:
            return None
        return OSError(code, os.strerror(code) if 0 < code < 255 else "its creation failed", self.path)


class Creations:
    """All paths being created, by the pid of the process that does it."""

    __slots__ = ("by_pid",)

    def __init__(self) -> None:
        self.by_pid: dict[int, Creation] = {}

    def start(self, child: Child, step: str, path: str, directory: bool) -> None:
        """Start to create a directory or an empty file, and what leads to it, in the root of a child that
        waits.
        """
        pid = os.fork()
        if pid == 0:
            _create_inside(child.pid, path, directory)
        self.by_pid[pid] = Creation(child, step, path)

    def patience(self) -> float:
        """The seconds until the first deadline; -1 if there is none."""
        deadlines = [each.deadline for each in self.by_pid.values() if each.deadline is not None]
        return max(0.0, min(deadlines) - monotonic()) if deadlines else -1

    def overdue(self) -> Iterator[tuple[Creation, OSError]]:
        """Give up those whose deadline has passed."""
        for pid, creation in self.by_pid.items():
            if creation.deadline is not None and creation.deadline <= monotonic():
                creation.deadline = None
                os.kill(pid, SIGKILL)
                message = f"its file system did not answer within {SECONDS_TO_ANSWER:g} s"
                yield creation, OSError(ETIMEDOUT, message, creation.path)


def _create_inside(pid: int, path: str, directory: bool) -> None:
    """Create the path in the root of a process, and exit with 0 or an errno."""
    code = 255
    try:
        # A process that is left behind must hold neither the sockets of clients and guests, whose ends others
        # wait for, nor our standard error.
        pidfd = os.pidfd_open(pid)
        close_others(pidfd)
        os.dup2(0, 2)
        _enter(pid, pidfd)
        _create(path, directory)
        code = 0
    except OSError as error:
        code = error.errno or code
    finally:
        os._exit(code)


def _enter(pid: int, pidfd: int) -> None:
    """Become root of the process's namespaces."""
    flags = CLONE_NEWNS
    if os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user"):
        flags |= CLONE_NEWUSER
    setns(pidfd, flags)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    prctl(PR_SET_DUMPABLE, 0)  # setresuid may have set it


def _create(path: str, directory: bool) -> None:
    real = os.path.realpath(path)
    os.makedirs(real if directory else os.path.dirname(real), 0o755, exist_ok=True)
    if not directory:
        os.close(os.open(real, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644))
