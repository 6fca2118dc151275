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
from vsprov.kernel import process
from vsprov.store.instance import LOCK, Instance

_TRIES = 100
SECONDS_OF_KEEPER = 60.0  # to wait for `vsprov keeper act` in any case


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
            if not _take(fd, deadline - time.monotonic()) and not _outwait_keeper(fd):
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


def open_holder(instance: Instance) -> int:
    """A pidfd of the command that holds the lock; -1 if none does.

    What is written in the file is only believed of a process that has it locked: a command that was killed
    has left its pid there, which may be that of another process by now. Read-only.
    """
    try:
        fd = os.open(instance.lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        pid = _pid(_written(fd))
        pidfd = os.pidfd_open(pid) if pid > 0 else -1
        if pidfd < 0 or process.holds_flock(pid, fd):  # seen after the pidfd, which is thus of the holder
            return pidfd
        os.close(pidfd)
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)
    return -1


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


def _outwait_keeper(fd: int) -> bool:
    """Lock the file after `vsprov keeper act`, which nobody has asked for, so that no command fails because
    of it; False if another command holds the lock.
    """
    for _ in range(_TRIES):
        if holder := _holder(fd):
            return holder.partition(" since ")[0].endswith(" keeper act") and _take(fd, SECONDS_OF_KEEPER)
        if _take(fd, 0.01):  # one without a name has just taken the lock, or is about to release it
            return True
    return False


def _holder(fd: int) -> str:
    """Who holds the lock; "" if that is not written yet."""
    text = _written(fd)
    return text if process.holds_flock(_pid(text), fd) else ""


def _written(fd: int) -> str:
    return os.pread(fd, 4096, 0).decode(errors="replace").strip()


def _pid(text: str) -> int:
    """The pid in what a holder has written; -1 if there is none."""
    word = text.removeprefix("pid ").partition(":")[0]
    return int(word) if word.isascii() and word.isdigit() else -1


def _held(fd: int, instance: Instance) -> LockedError:
    holder = _holder(fd) or "an unknown process"
    return LockedError(
        f"{instance.name}: locked by another command: {holder}",
        hint="wait until it has finished, or use --lock-timeout 1m",
    )
