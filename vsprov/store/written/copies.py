"""Copying files between the host and the root of a server, by worker processes (`vsprov.store.unpack.files`).

What goes from one to the other is a tar archive in a pipe. The process at the server's end has no more rights
than the server's root; what a server sends is unpacked by a process that is confined to an empty directory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from vsprov.errors import FailedError, reason
from vsprov.kernel.paths import FOLDER
from vsprov.store.disk.durable import hint_for
from vsprov.store.instance import Instance
from vsprov.store.unpack.files import placement, replacing
from vsprov.store.unpack.files.packing import Packing, Unwritable
from vsprov.store.unpack.files.placement import Source
from vsprov.store.unpack.refused import Refused
from vsprov.store.written import staging
from vsprov.store.written.workers import worker

# Called with the bytes of files copied so far; an exception raised by it cancels the copy.
Progress = Callable[[int], None]


class ServerRoot(Struct, frozen=True):
    """Descriptors of the root of a server and of its user namespace; `name` is for messages."""

    name: str
    root: int
    userns: int


class Copied(Struct, frozen=True):
    """What was copied: the number of files, and the bytes in them. `left_out` are some of the special files
    that were left out, (path, what it is), `stripped` some that have lost setuid, setgid or capabilities.
    """

    files: int
    bytes: int
    left_out: Sequence[Sequence[str]] = ()
    left_out_count: int = 0
    stripped: Sequence[str] = field(default=())


def _result(found: Iterator[dict[str, Any]], progress: Progress) -> Copied:
    last: dict[str, Any] = {}
    for message in found:
        last = message or last
        progress(last.get("bytes", 0))
    return Copied(**last)


def to_server(
    server: ServerRoot,
    path: str,
    source: Source,
    archive: int,
    *,
    owner: tuple[int, int] | None,
    progress: Progress,
) -> Copied:
    """Unpack the archive open as `archive` to `path` in the server, by the rules of cp(1).

    A `source` without a name is an archive of any kind. `owner` is that of all files; None for those in the
    archive, and files with another owner lose setuid, setgid and capabilities. FailedError for an archive
    that is not allowed, and for errors of the kernel.
    """
    job = {
        "do": "unpack",
        "path": path,
        "source": source,
        "owner": owner,
        "powerless": owner is not None,
        "root": server.root,
        "userns": server.userns,
    }
    passed = (server.root, server.userns)
    label = f"Server/{server.name}" if source.name else f"standard input to Server/{server.name}"
    with worker("files", label, job, archive=archive, passed=passed) as found:
        return _result(found, progress)


def archive_of(
    server: ServerRoot, path: str, name: str, out: int, *, follow: bool, progress: Progress
) -> Copied:
    """Write a tar archive of `path` in the server to the descriptor `out`, in which it is called `name`.

    BrokenPipeError if nobody reads it.
    """
    with _packing(server, path, name, out, follow) as found:
        return _result(found, progress)


@contextmanager
def _packing(
    server: ServerRoot, path: str, name: str, out: int, follow: bool, private: bool = False
) -> Iterator[Iterator[dict[str, Any]]]:
    passed = (server.root, server.userns, os.dup(out))  # a worker has others as its first three descriptors
    job = {
        "do": "pack",
        "path": path,
        "source": Source(name, False),
        "root": server.root,
        "userns": server.userns,
        "out": passed[2],
        "follow": follow,
        "private": private,
    }
    with ExitStack() as held:
        try:
            found = held.enter_context(worker("files", f"Server/{server.name}", job, passed=passed))
        finally:
            os.close(passed[2])
        yield found


def pack(source: str, name: str, out: int, *, follow: bool, progress: Progress) -> Packing:
    """Write a tar archive of a path of the host to the descriptor `out`, for `to_server`; `name` is its name
    there.
    """
    packing = Packing(out, progress, holes=True)
    try:
        if follow or source.endswith(("/", "/.", "/..")) or source in (".", ".."):
            source = os.path.realpath(source)
        above, base = os.path.split(os.path.abspath(source))
        folder = os.open(above, FOLDER & ~os.O_NOFOLLOW)
        try:
            packing.add(folder, base or ".", name)
        finally:
            os.close(folder)
    except Refused as error:
        raise FailedError(f"{source}: {error}", hint=error.hint) from error
    except Unwritable as error:
        raise error.error from error
    return packing


def from_server(
    instance: Instance,
    server: ServerRoot,
    path: str,
    target: str,
    source_name: str,
    *,
    contents: bool,
    owner: tuple[int, int] | None,
    follow: bool,
    progress: Progress,
) -> Copied:
    """Copy `path` in the server to `target` on the host, by the rules of cp(1).

    Files lose setuid, setgid and capabilities. They are unpacked in a directory beside the target, to which
    only root has access, and each is moved to its place when it is complete. Symbolic links are followed in
    `target` only: what is below it may come from an earlier copy, so the server may have made it.
    """
    target = os.path.realpath(target) + ("/" if target.endswith("/") else "")
    with ExitStack() as held:
        read, write = os.pipe2(os.O_CLOEXEC)
        archive = held.enter_context(open(read, "rb", buffering=0))
        with open(write, "wb", buffering=0) as out:
            packing = held.enter_context(_packing(server, path, source_name, out.fileno(), follow, True))
            is_folder = next(message["is_folder"] for message in packing if "is_folder" in message)
        try:
            place = placement.place(target, Source(source_name, is_folder, contents), _kind)
        except Refused as error:
            raise FailedError(str(error), hint=error.hint) from error
        made = held.enter_context(staging.beside(instance, place))
        job = {
            "do": "unpack",
            "path": "/new",
            "source": Source(source_name, is_folder, contents=True),
            "owner": owner,
            "powerless": True,
            "target": made,
        }
        with worker("files", place, job, archive=archive.fileno()) as unpacking:
            archive.close()
            try:
                copied = _result(unpacking, progress)
            except FailedError:
                # If packing has failed for a reason of its own, this is the consequence.
                with suppress(BrokenPipeError):
                    _result(packing, progress)
                raise
        sent = _result(packing, progress)
        try:
            _move(f"{made}/new", place)
        except OSError as error:
            where = error.filename2 or place
            raise FailedError(f"{where}: copy: {reason(error)}", hint=hint_for(error, where)) from error
        return replace(copied, left_out=sent.left_out, left_out_count=sent.left_out_count)


def _kind(path: str) -> str:
    """What is at a path of the host, in the words of `placement`; a symbolic link is a file."""
    try:
        status = os.lstat(path.rstrip("/") or "/")
    except (FileNotFoundError, NotADirectoryError):
        return placement.ABSENT
    except OSError as error:
        raise FailedError(f"{path}: {reason(error)}") from error
    return placement.FOLDER if stat.S_ISDIR(status.st_mode) else placement.FILE


def _move(source: str, target: str) -> None:
    """Move a file, or everything in a directory, to a path where directories that exist are kept.

    A file takes the place of a symbolic link, but not of a device, a FIFO or a socket. No link is followed.
    """
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        os.rename(source, target)
        return
    if os.path.islink(source) or not os.path.isdir(source):
        if what := replacing.kept_kind(mode):
            raise FailedError(f"{target}: copy: is {what}", hint="specify the path of a file")
        os.rename(source, target)
    elif stat.S_ISLNK(mode):
        raise FailedError(
            f"{target}: copy: it is a symbolic link", hint="remove it, or copy to where it leads"
        )
    elif not stat.S_ISDIR(mode):
        raise FailedError(f"{target}: copy: is not a directory")
    else:
        for name in sorted(os.listdir(source)):
            _move(f"{source}/{name}", f"{target.rstrip('/')}/{name}")
