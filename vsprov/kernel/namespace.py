"""Namespaces of a running server, looked into from the host."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from vsprov.kernel import syscall


@contextmanager
def uts(pid: int) -> Iterator[None]:
    """This thread in the uts namespace of `pid`, and back again; setns(2).

    Other kinds would need a process of their own.
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
    """The hostname `pid` sees; None when it is gone.

    Bytes that are no text, which a server may choose, are shown as backslash escapes.
    """
    try:
        with uts(pid):
            return os.fsencode(os.uname().nodename).decode(errors="backslashreplace")
    except (FileNotFoundError, ProcessLookupError):
        return None


def set_hostname(pid: int, name: str) -> None:
    """Give the uts namespace of `pid` another hostname."""
    with uts(pid):
        socket.sethostname(name)
