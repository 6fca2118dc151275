"""Reading an exported server into a directory. The archive is hostile input, whoever has made it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable

from vsprov.errors import FailedError
from vsprov.kernel import syscall
from vsprov.kernel.paths import FOLDER
from vsprov.model.values.units import format_rough
from vsprov.store.disk import durable
from vsprov.store.disk.progress import Progress
from vsprov.store.transfer import header as headers
from vsprov.store.transfer.header import Header
from vsprov.store.trees.tree import OPAQUE
from vsprov.store.unpack.exported.layout import HEADER
from vsprov.store.written.workers import worker

MOST_FILES = 20_000_000
_INSIDE = syscall.RESOLVE_BENEATH | syscall.RESOLVE_NO_SYMLINKS | syscall.RESOLVE_NO_XDEV


# Called with the header and the manifest, as YAML, before the files are read; what it raises ends that.
Accept = Callable[[Header, str], None]


def read(archive: int, into: str, label: str, most_bytes: int, accept: Accept, progress: Progress) -> None:
    """Unpack the archive open as `archive`, a file or a pipe, into the empty directory `into`, with the ids
    that the server sees; it is complete and has the right checksums when this returns.

    FailedError for an archive that is damaged or not allowed, that would take more than `most_bytes`, or for
    which there is no room. The caller then removes the directory.
    """
    status = os.fstat(archive)
    total = status.st_size if stat.S_ISREG(status.st_mode) else 0
    found: Header | None = None
    opaque: list[str] = []
    done = 0
    with worker("exported", label, {"target": into}, archive=archive) as messages:
        for message in messages:
            if "header" in message:
                text = message["header"].encode("utf-8", "surrogateescape")
                found = headers.parse(text, f"{label}: {HEADER}")
                _refuse_size(found, into, label, most_bytes)
            if "manifest" in message and found is not None:
                accept(found, message["manifest"])
            opaque += message.get("opaque", ())
            done = message.get("read", done)
            progress("unpacked", done, total)
    try:
        _set_opaque(into, opaque)
    except OSError as error:
        raise durable.failed(into, "mark opaque directories", error) from error


def _refuse_size(header: Header, into: str, label: str, most_bytes: int) -> None:
    if header.bytes > most_bytes:
        size, most = format_rough(header.bytes), format_rough(most_bytes)
        message = f"{label}: its files have {size}; at most {most} are allowed"
        raise FailedError(message, hint="if that is right, raise --max-size")
    if header.files > MOST_FILES:
        raise FailedError(f"{label}: it has {header.files} files; at most {MOST_FILES} are allowed")
    now = os.statvfs(into)
    free = now.f_bavail * now.f_frsize
    if header.disk_bytes > free:
        needed, root = format_rough(header.disk_bytes), os.path.dirname(os.path.dirname(into))
        message = f"{label}: its files take {needed}, and only {format_rough(free)} are free in {root}"
        raise FailedError(message, hint="free some space there")


def _set_opaque(top: str, paths: Iterable[str]) -> None:
    """Set what the worker may not: that a directory hides those of lower layers."""
    fd = os.open(top, FOLDER)
    try:
        for path in paths:
            folder = syscall.openat2(fd, path, os.O_RDONLY | os.O_DIRECTORY, _INSIDE)
            try:
                os.setxattr(folder, OPAQUE, b"y")
            finally:
                os.close(folder)
    finally:
        os.close(fd)
