"""One apply at a time per instance: flock(2) on a file in /run, which goes free when its holder dies."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vsprov.errors import LockedError
from vsprov.store.instance import Instance


@contextmanager
def locked(instance: Instance, timeout: float = 0.0) -> Iterator[None]:
    """Hold the instance's lock; LockedError, naming the holder, when it is not free within `timeout` seconds.

    The lock file is opened close-on-exec, so that no child keeps it, and checked to be the one the name still
    stands for. Only root may open it: flock(2) asks for no right to write, so whoever may read a file can
    keep everyone else waiting.
    """
    os.makedirs(instance.run, mode=0o755, exist_ok=True)
    deadline = time.monotonic() + timeout
    while True:
        fd = os.open(instance.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _take(fd, instance, deadline - time.monotonic())
            if _is_named(fd, instance.lock):
                break
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    try:
        os.ftruncate(fd, 0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        os.pwrite(
            fd,
            f"pid {os.getpid()}: {shlex.join(['vsprov', *sys.argv[1:]])} since {since}\n".encode(
                errors="replace"
            ),
            0,
        )
        yield
    finally:
        os.ftruncate(fd, 0)
        os.close(fd)


def _is_named(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _take(fd: int, instance: Instance, seconds: float) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        if seconds <= 0:
            raise _held(fd, instance) from None

    def expire(number: int, frame: FrameType | None) -> None:
        raise _held(fd, instance)

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _held(fd: int, instance: Instance) -> LockedError:
    holder = os.pread(fd, 4096, 0).decode(errors="replace").strip() or "a holder that has not said who it is"
    return LockedError(
        f"{instance.name}: another command is at work: {holder}",
        hint="wait for it, or give --lock-timeout 1m",
    )
