"""Files as sources, and the detection of changes to them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Iterator

from vsprov.errors import ImageError, reason
from vsprov.kernel.paths import open_host
from vsprov.store.images import ImageRecord
from vsprov.store.sources import Resolved
from vsprov.store.trees.tree import unusable

_COARSE = 5  # CLOCK_REALTIME_COARSE, the clock of file timestamps


def resolve_file(path: str, word: str, known: ImageRecord | None) -> Resolved:
    """A file by its SHA-256; it is read only if its status has changed since the import."""
    with opened_file(path) as fd:
        fingerprint, newest = _status(fd, word)
        if known is not None and known.fingerprint == fingerprint:
            return Resolved(known.digest, fingerprint)
        wait_past_mtime(newest)
        try:
            with open(fd, "rb", closefd=False) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ImageError(f"{path}: read: {reason(error)}") from error
        if _status(fd, word)[0] != fingerprint:
            raise ImageError(
                f"{path}: changed while it was being read", hint="try again when nothing writes to it"
            )
    return Resolved(digest, fingerprint)


@contextlib.contextmanager
def opened_file(path: str, *, links: bool = True) -> Iterator[int]:
    """A descriptor of a regular file, for reading, during the block.

    Follows no symbolic link that others could have placed; with `links` false, none.
    """
    try:
        fd = open_host(os.path.abspath(path), os.O_RDONLY | os.O_NONBLOCK, links=links, owners=False)
    except OSError as error:
        raise unusable(path, "open", error) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ImageError(
                f"{path}: not a file",
                hint="use source.directory for a directory, oci.layout for an OCI layout",
            )
        yield fd
    finally:
        os.close(fd)


def _status(fd: int, word: str) -> tuple[str, int]:
    s = os.fstat(fd)
    return f"{word} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino} {s.st_dev}", s.st_ctime_ns


def plain(path: str | None) -> str:
    """The normalized path. ImageError if it is missing or invalid."""
    if not path or "\0" in path:
        raise ImageError(f"{path!r}: a path cannot contain NUL" if path else "a path is missing")
    return os.path.normpath(path)


def wait_past_mtime(newest: int) -> None:
    """Wait until the clock is past the newest change, so that a later one gets a different time."""
    for _ in range(20):
        if not 0 <= time.clock_gettime_ns(_COARSE) - newest < 1:
            return
        time.sleep(0.001)
