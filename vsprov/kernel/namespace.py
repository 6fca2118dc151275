"""The namespaces of a running server, from the host."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from vsprov.kernel import syscall


@contextmanager
def _entered(pid: int, name: str, kind: int) -> Iterator[None]:
    """Run the block with this thread in a namespace of `pid`; setns(2).

    A thread cannot enter every kind of namespace: for the others, use a separate process.
    """
    own = os.open(f"/proc/thread-self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        theirs = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscall.setns(theirs, kind)
        finally:
            os.close(theirs)
        try:
            yield
        finally:
            syscall.setns(own, kind)
    finally:
        os.close(own)


def uts(pid: int) -> AbstractContextManager[None]:
    """Run the block with this thread in the UTS namespace of `pid`."""
    return _entered(pid, "uts", syscall.CLONE_NEWUTS)


def net(pid: int) -> AbstractContextManager[None]:
    """Run the block with this thread in the network namespace of `pid`, to which a socket that is made there
    belongs.
    """
    return _entered(pid, "net", syscall.CLONE_NEWNET)


def hostname(pid: int) -> str | None:
    """The hostname that `pid` sees; None if the process does not exist.

    A server may choose bytes that are not UTF-8; they become backslash escapes.
    """
    try:
        with uts(pid):
            return os.fsencode(os.uname().nodename).decode(errors="backslashreplace")
    except (FileNotFoundError, ProcessLookupError):
        return None


def set_hostname(pid: int, name: str) -> None:
    """Set the hostname in the UTS namespace of `pid`."""
    with uts(pid):
        socket.sethostname(name)
