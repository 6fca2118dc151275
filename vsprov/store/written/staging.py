"""Directories of the host in which files from a server are unpacked, beside the place of the copy.

    copies/<random>     in the state root: the path of such a directory; locked while the copy runs

What a copy that was killed has left is thus found, wherever it is.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from vsprov.errors import FailedError, reason
from vsprov.store.disk import durable, folders
from vsprov.store.disk.durable import hint_for
from vsprov.store.instance import Instance

PREFIX = ".vsprov-copy-"


@contextmanager
def beside(instance: Instance, place: str) -> Iterator[str]:
    """A directory on the file system of `place`, which is removed at the end with what is left in it."""
    above = place.rstrip("/") if os.path.isdir(place) else os.path.dirname(place.rstrip("/"))
    token = os.urandom(6).hex()
    path = f"{os.path.abspath(above or '.').rstrip('/')}/{PREFIX}{token}"
    record = f"{instance.copies}/{token}"
    lock = _record(instance, record, path)
    try:
        try:
            os.mkdir(path, 0o700)
        except OSError as error:
            durable.unlink(record)
            message = f"{place}: copy: {reason(error)}"
            raise FailedError(message, hint=hint_for(error, path)) from error
        try:
            yield path
        finally:
            durable.remove_tree(path)
            durable.unlink(record)
    finally:
        os.close(lock)


def _record(instance: Instance, record: str, path: str) -> int:
    """Write a record, safe from power failure; the descriptor that holds its lock."""
    try:
        fd = _locked(record)
        try:
            os.write(fd, os.fsencode(path))
            os.fsync(fd)
            durable.flush_folder(instance.copies)
        except BaseException:
            os.unlink(record)
            os.close(fd)
            raise
    except OSError as error:
        raise durable.failed(record, "record a copy", error) from error
    return fd


def _locked(record: str) -> int:
    """A new file, locked. Other commands may remove its directory, while that is empty, and the file before
    it is locked; then they are made again.
    """
    while True:
        with suppress(FileExistsError):
            os.mkdir(os.path.dirname(record), 0o700)
        try:
            fd = os.open(record, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)


def sweep(instance: Instance, failed: Callable[[FailedError], None]) -> list[str]:
    """Remove the directories of copies that were killed; their paths. Others may copy meanwhile.

    `failed` is called for those that cannot be removed, and the sweep continues.
    """
    found = []
    for token in folders.names(instance.copies):
        record = f"{instance.copies}/{token}"
        try:
            fd = os.open(record, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # it has ended
        except OSError as error:
            failed(durable.failed(record, "open", error))
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path = os.fsdecode(os.read(fd, 1 << 13))
            if path.endswith(f"/{PREFIX}{token}") and os.path.lexists(path):
                durable.remove_tree(path)
                found.append(path)
            os.unlink(record)
        except BlockingIOError:
            continue  # it runs
        except FailedError as error:
            failed(error)
        except OSError as error:
            failed(durable.failed(record, "remove", error))
        finally:
            os.close(fd)
    return found
