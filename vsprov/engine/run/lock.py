"""One apply at a time per instance: flock(2) on a file in /run, which is released when its holder dies."""

from __future__ import annotations

import fcntl
import os
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vsprov.engine.run import run_directory
from vsprov.errors import FailedError, LockedError, reason
from vsprov.store.instance import LOCK, Instance

_TRIES = 100


@contextmanager
def locked(instance: Instance, timeout: float = 0.0) -> Iterator[None]:
    """Hold the instance's lock; any thread may. Raises LockedError, which names the holder, if the lock does
    not become free within `timeout` seconds.

    The lock file is opened close-on-exec, so that no child process keeps the lock, and compared with the file
    that has its name now. Only root may open it: flock(2) needs no write permission, so whoever may read the
    file could block every apply.
    """
    deadline, tries = time.monotonic() + timeout, 0
    while True:
        try:
            with run_directory.opened(instance, create=True) as folder:
                fd = run_directory.open_file(instance, folder, LOCK, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError as error:  # a command that has ended has removed the empty directory
            tries += 1
            if tries < _TRIES:
                continue
            raise FailedError(f"{instance.run}: create the run directory: {reason(error)}") from error
        try:
            os.fchmod(fd, 0o600)
            if not _take(fd, deadline - time.monotonic()):
                raise _held(fd, instance)
            if _is_named(fd, instance.lock):
                break
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    try:
        os.ftruncate(fd, 0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        holder = f"pid {os.getpid()}: {shlex.join(['vsprov', *sys.argv[1:]])} since {since}\n"
        os.pwrite(fd, holder.encode(errors="replace"), 0)
        yield
    finally:
        os.ftruncate(fd, 0)
        os.close(fd)


def _is_named(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _take(fd: int, seconds: float) -> bool:
    """Lock the file, or return False if that is not possible within this time.

    flock(2) has no time limit, and only the main thread can interrupt it by a signal, so a thread waits in
    it. A lock belongs to the open file, which the thread's copy of the descriptor shares, so it stays when
    the thread closes its copy. If the caller gives up and closes `fd`, the copy is the last descriptor: the
    thread closes it as soon as it gets the lock, which releases the lock.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        if seconds <= 0:
            return False
    taken = threading.Event()

    def wait(copy: int) -> None:
        try:
            fcntl.flock(copy, fcntl.LOCK_EX)
            taken.set()
        finally:
            os.close(copy)

    threading.Thread(target=wait, args=(os.dup(fd),), name="wait for lock", daemon=True).start()
    return taken.wait(min(seconds, threading.TIMEOUT_MAX))


def _held(fd: int, instance: Instance) -> LockedError:
    holder = os.pread(fd, 4096, 0).decode(errors="replace").strip() or "an unknown process"
    return LockedError(
        f"{instance.name}: locked by another command: {holder}",
        hint="wait until it has finished, or use --lock-timeout 1m",
    )
