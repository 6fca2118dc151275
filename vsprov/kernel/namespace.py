"""The namespaces of a running server, from the host."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from vsprov.kernel import syscall


@contextmanager
def uts(pid: int) -> Iterator[None]:
    """Run the block with this thread in the UTS namespace of `pid`; setns(2).

    A thread cannot enter every kind of namespace: for the others, use a separate process.
    """
    own = os.open("/proc/thread-self/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    try:
        theirs = os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscall.setns(theirs, syscall.CLONE_NEWUTS)
        finally:
            os.close(theirs)
        try:
            yield
        finally:
            syscall.setns(own, syscall.CLONE_NEWUTS)
    finally:
        os.close(own)


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
