"""Copies files out of a server, or into one, or to a directory of the host, as a tar archive.

JOB is the `Job` as JSON. It prints lines of JSON to descriptor 1: {"is_folder"} for what is packed, then
{"bytes"} so far; at the end {"files", "bytes", "left_out", "stripped"}, {"error", "hint"}, or {"unread"} if
whoever reads what is packed has gone.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
from typing import Any, NamedTuple, NoReturn

from ..confine import Mounts, confine
from ..headers import Members
from ..refused import Refused
from ..stream import Archive, Stream, decompressor
from ..target import Tree
from ..worker import failure, report
from ..writing import Limits
from .entering import enter
from .packing import MOST_NAMED, Packing, Unwritable
from .placement import ABSENT, FILE, FOLDER, Source, place
from .writing import NO_LIMIT, Changes, Copying

DEPTH, LENGTH = 256, 4095
MAX_LINKS = 40  # as in path_resolution(7)
PACE = 1 << 22  # bytes between two reports


class Job(NamedTuple):
    """What to do: "pack" `path`, with the name that it has in `source`, to the descriptor `out`; or "unpack"
    the archive in descriptor 0 to `path`, by the rules of cp(1).

    `root` and `userns` are descriptors of a server's, or None: then it is about the directory `target` of the
    host. `owner` and `powerless` are those of `Changes`. `follow`: a symbolic link as `path` is followed.
    `private`: the archive is for another process of this program, and nothing is reported before the end.
    """

    do: str
    path: str
    source: list[Any]
    parent: int
    root: int | None = None
    userns: int | None = None
    target: str = ""
    out: int = -1
    owner: list[int] | None = None
    powerless: bool = False
    follow: bool = False
    private: bool = False


def main(text: str) -> None:
    job = Job(**json.loads(text))
    signal.signal(signal.SIGTERM, _end)
    try:
        report(_pack(job) if job.do == "pack" else _unpack(job))
    except Exception as error:
        report(failure(error, "read" if job.do == "pack" else "write"))
    os._exit(0)  # without waiting for the thread that reads ahead


def _end(number: int, frame: object) -> NoReturn:
    """End as after an error: a file that is incomplete is removed."""
    raise SystemExit


def _confine(job: Job) -> None:
    if job.root is None or job.userns is None:
        confine(Mounts(job.target, "", []), job.parent)
    else:
        enter(job.root, job.userns, job.parent)


def _pack(job: Job) -> dict[str, Any]:
    _confine(job)
    packing = Packing(job.out, (lambda done: None) if job.private else Pace(), holes=job.private)
    source = Source(*job.source)
    try:
        folder, name = _find(job.path, follow=job.follow)
        kind = stat.S_IFMT(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError as error:
        raise OSError(error.errno, error.strerror, job.path) from error
    if job.path.endswith("/") and kind != stat.S_IFDIR:
        raise Refused(f"{job.path!r}: is not a directory")
    report({"is_folder": kind == stat.S_IFDIR})
    try:
        packing.add(folder, name, source.name)
    except Unwritable as error:
        if error.error.errno == errno.EPIPE:
            return {"unread": True}
        return failure(error.error, "write the archive")
    os.close(job.out)
    return _done(packing.files, packing.bytes, packing.left_out)


def _find(path: str, *, follow: bool) -> tuple[int, str]:
    """(its directory, its name) of a path in this root. With `follow`, of what a link leads to."""
    parts = [part for part in path.split("/") if part and part != "."]
    folder = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if not parts:
        return folder, "."
    if follow or parts[-1] == ".." or path.endswith(("/", "/.")):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd), "."
        path = _resolved(path)
        os.close(fd)
    above, _, name = path.rstrip("/").rpartition("/")
    return os.open(above or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), name


def _resolved(path: str) -> str:
    """The path of a file at the end of the symbolic links that `path` leads to, if any."""
    for _ in range(MAX_LINKS):
        try:
            target = os.readlink(path)
        except OSError:
            return path  # not a link, or nothing
        path = os.path.join(os.path.dirname(path), target)
    return path


def _unpack(job: Job) -> dict[str, Any]:
    archive = Archive(0)
    opened = decompressor(archive.head)
    _confine(job)
    stream = Stream(archive, opened(archive), NO_LIMIT, Pace())
    tree = Tree(None, DEPTH, LENGTH, alone=False, in_use=True)
    source = Source(*job.source)
    into = place(_resolved(job.path), source, _kind)
    limits = Limits(NO_LIMIT, NO_LIMIT, DEPTH, LENGTH)
    copying = Copying(tree, stream, limits, whole=True, merge=True, below=())
    owner = (job.owner[0], job.owner[1]) if job.owner else None
    copying.changes = Changes(into, bool(source.name), owner, job.powerless)
    copying.run(Members(stream, may_lack_end=False))
    stream.diff_id()  # reads what follows the end of the archive, so that its writer is not interrupted
    return {**_done(copying.files, copying.bytes, copying.left_out), "stripped": copying.stripped}


def _kind(path: str) -> str:
    try:
        status = os.stat(path.rstrip("/") or "/")
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    return FOLDER if stat.S_ISDIR(status.st_mode) else FILE


def _done(files: int, size: int, left_out: dict[str, str]) -> dict[str, Any]:
    return {
        "files": files,
        "bytes": size,
        "left_out": list(left_out.items())[:MOST_NAMED],
        "left_out_count": len(left_out),
    }


class Pace:
    """Reports the bytes so far, not after every piece."""

    def __init__(self) -> None:
        self.next = PACE

    def __call__(self, done: int) -> None:
        if done >= self.next:
            self.next = done + PACE
            report({"bytes": done})
