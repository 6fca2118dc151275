"""Copy files between the host and a server."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from threading import Thread

from msgspec import Struct
from msgspec.structs import replace

from vsprov.engine.apply.report import Report
from vsprov.engine.servers.files import root
from vsprov.engine.work import WorkOptions
from vsprov.errors import FailedError, UsageError, path_of, reason
from vsprov.store.disk.output_file import descriptor_of
from vsprov.store.instance import Instance
from vsprov.store.trees.tree import left_out_note
from vsprov.store.unpack.files.packing import MOST_NAMED
from vsprov.store.unpack.files.placement import Source
from vsprov.store.written import copies, staging
from vsprov.store.written.copies import Copied, ServerRoot

ARCHIVE = "-"  # standard input or output, as a tar archive


class Place(Struct, frozen=True):
    """A path on the host, or in the `server` if that is not "". "-" on the host is an archive."""

    path: str
    server: str = ""

    def __str__(self) -> str:
        return f"{self.server}:{self.path}" if self.server else self.path


def parse(word: str) -> Place:
    """`SERVER:PATH` or a path of the host. A path with a colon in front of its first slash needs `./`.

    >>> parse("web1:/etc/hosts"), parse("./web1:x"), parse("-")
    (Place(path='/etc/hosts', server='web1'), Place(path='./web1:x', server=''), Place(path='-', server=''))
    """
    name, colon, path = word.partition(":")
    if not colon or "/" in name.removeprefix("Server/") or not name:
        return Place(word)
    return Place("/" + path.lstrip("/") if path else "", name.removeprefix("Server/"))


def copy(
    instance: Instance,
    source: Place,
    target: Place,
    report: Report,
    work: WorkOptions,
    *,
    keep_owners: bool = False,
    follow: bool = False,
) -> Copied:
    """Copy a file or a directory between the host and a server, by the rules of cp(1).

    The copies belong to root; with `keep_owners` to the same ids inside and outside. Raises UsageError unless
    exactly one of the places is in a server.
    """
    if bool(source.server) == bool(target.server):
        raise UsageError(
            "cp: exactly one of SRC and DEST must be in a server", hint="vsprov cp ./file web1:/path"
        )
    for place in (source, target):
        if "\0" in place.path or not place.path:
            raise UsageError(f"cp: {place}: not a path")
    if source.server and descriptor_of(target.path) is not None:  # a file behind it would be replaced
        hint = f"vsprov exec {source.server} -- cat {source.path}; or -, for an archive"
        raise UsageError(f"cp: {target}: is a file that is open already", hint=hint)
    name = source.server or target.server
    with root.opened(instance, name, report, work) as opened:
        for path in staging.sweep(instance, lambda error: report.notice(f"{error}; not removed")):
            report.notice(f"removed {path}, left by an interrupted copy")

        def progress(done: int) -> None:
            opened.check()
            report.progressed(f"Server/{name}", "copied", done, 0)

        copying = _Copying(instance, opened.server, source.path, target.path, keep_owners, follow, progress)
        copied = copying.to_server() if target.server else copying.from_server()
    if copied.left_out_count:
        why = "cp copies no devices, FIFOs and sockets"
        report.notice(f"Server/{name}: {left_out_note(copied.left_out, copied.left_out_count, why)}")
    if copied.stripped:
        files = ", ".join(map(repr, copied.stripped))
        report.notice(f"Server/{name}: without setuid, setgid and capabilities: {files}")
    return copied


class _Copying(Struct, frozen=True):
    """A copy between the host and a server, in one direction or the other."""

    instance: Instance
    server: ServerRoot
    source: str
    target: str
    keep_owners: bool
    follow: bool
    progress: Callable[[int], None]

    def to_server(self) -> Copied:
        if self.source == ARCHIVE:
            return self._unpack(Source("", True), 0)
        what = _source(self.source, self.follow)
        read, write = os.pipe2(os.O_CLOEXEC)
        failed: list[FailedError | OSError] = []
        left_out: list[dict[str, str]] = []
        sender = Thread(target=self._send, args=(what.name, write, left_out, failed))
        with open(read, "rb", buffering=0) as archive:
            sender.start()
            try:
                done = self._unpack(what, archive.fileno())
            except FailedError:
                archive.close()
                sender.join()
                _raise(self.source, failed)  # what the other end says is the consequence
                raise
            except BaseException:
                archive.close()
                sender.join()
                raise
        sender.join()
        _raise(self.source, failed)
        (special,) = left_out
        return replace(done, left_out=list(special.items())[:MOST_NAMED], left_out_count=len(special))

    def _unpack(self, what: Source, archive: int) -> Copied:
        owner = None if self.keep_owners else (0, 0)
        return copies.to_server(self.server, self.target, what, archive, owner=owner, progress=self.progress)

    def _send(
        self, name: str, out: int, left_out: list[dict[str, str]], failed: list[FailedError | OSError]
    ) -> None:
        """Write the archive to the descriptor `out`, in a thread; what is left out, or how it has failed."""
        try:
            packing = copies.pack(self.source, name, out, follow=self.follow, progress=lambda done: None)
            left_out.append(packing.left_out)
        except (FailedError, OSError) as error:
            failed.append(error)
        finally:
            os.close(out)

    def from_server(self) -> Copied:
        contents = _is_contents(self.source)
        name = os.path.basename(os.path.normpath(self.source)) or "root"
        if self.target == ARCHIVE:
            name = "." if contents or name == "root" else name
            return copies.archive_of(
                self.server, self.source, name, 1, follow=self.follow, progress=self.progress
            )
        return copies.from_server(
            self.instance,
            self.server,
            self.source,
            self.target,
            name,
            contents=contents,
            owner=None if self.keep_owners else (os.geteuid(), os.getegid()),
            follow=self.follow,
            progress=self.progress,
        )


def _raise(source: str, failed: list[FailedError | OSError]) -> None:
    for error in failed:
        if isinstance(error, FailedError):
            raise error
        if not isinstance(error, BrokenPipeError):
            raise FailedError(f"{path_of(error) or source}: read: {reason(error)}") from error


def _source(path: str, follow: bool) -> Source:
    """What is to be copied from a path of the host."""
    try:
        status = os.stat(path) if follow or path.endswith(("/", "/.")) else os.lstat(path)
    except OSError as error:
        raise FailedError(f"{path}: {reason(error)}") from error
    name = os.path.basename(os.path.abspath(path)) or "root"
    return Source(name, stat.S_ISDIR(status.st_mode), _is_contents(path))


def _is_contents(path: str) -> bool:
    return path == "." or path.endswith("/.")
