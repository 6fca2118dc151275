"""The directory of an instance in /run, and the files in it.

Whoever could write there could make vsprov kill any process and write to any file as root. Everything is
therefore opened below a descriptor of the directory, without following links, and only used if it belongs to
root and nobody else may write to it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from vsprov.errors import FailedError, reason
from vsprov.kernel.paths import FOLDER
from vsprov.store.instance import Instance

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@contextmanager
def opened(instance: Instance, *, create: bool = False) -> Iterator[int]:
    """A descriptor of the directory, during the block. With `create`, it is created if it does not exist.

    Raises FailedError if it is not a directory that only root may write to, FileNotFoundError if there is
    none.
    """
    path = instance.run
    try:
        made = create and _make(path)
        folder = os.open(path, FOLDER)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unusable(path, f"open: {reason(error)}") from error
    try:
        if made:
            os.fchmod(folder, 0o755)  # whatever the umask
        status = os.fstat(folder)
        _check(path, status, status.st_mode & _OTHERS)
        yield folder
    finally:
        os.close(folder)


def _make(path: str) -> bool:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return False
    return True


def open_file(instance: Instance, folder: int, name: str, flags: int) -> int:
    """A descriptor of a file in the directory; with O_CREAT, of a new one for root alone.

    Raises FailedError if what has the name is not a regular file that only root may write to,
    FileNotFoundError if there is none.
    """
    path = f"{instance.run}/{name}"
    try:
        fd = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unusable(path, f"open: {reason(error)}") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _unusable(path, "not a regular file")
        if status.st_nlink > 1:
            raise _unusable(path, "it has other hard links")
        _check(path, status, status.st_mode & _OTHERS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check(path: str, status: os.stat_result, writable: int) -> None:
    if status.st_uid != 0:
        raise _unusable(path, f"belongs to uid {status.st_uid}, not to root")
    if writable:
        raise _unusable(path, f"other users may write to it (mode {stat.S_IMODE(status.st_mode):04o})")


def _unusable(path: str, why: str) -> FailedError:
    hint = f"vsprov did not create it this way: find out who did, remove {path}, and try again"
    return FailedError(f"{path}: {why}", hint=hint)
