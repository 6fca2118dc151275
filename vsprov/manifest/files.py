"""Finding and reading manifest files.

FIFOs and devices are refused without opening them, so that nothing blocks except reading standard input, `-`.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
from collections.abc import Iterator, Sequence

from vsprov.errors import ManifestError, Problem, reason
from vsprov.manifest.syntax.encoding import decode
from vsprov.manifest.syntax.text import MAX_TEXT

STDIN = "-"
SUFFIXES = (".yaml", ".yml", ".json", ".yaml.j2", ".yml.j2")
# Files in the same directory that are not manifests.
PROJECT, LOCK = "vsprov.yaml", "vsprov.lock.yaml"


def find(paths: Sequence[str], recursive: bool) -> list[str]:
    """The files that `paths` select, each once, in the order of `paths` and by name within a directory.

    A directory selects its manifests (`SUFFIXES`) except hidden ones, and with `recursive` those in its
    subdirectories. Symbolic links to directories are not followed. Raises ManifestError with all paths that
    are missing, unreadable or not regular files, and directories without manifests.
    """
    problems: list[Problem] = []
    found: dict[tuple[int, int] | str, str] = {}
    for path in paths:
        for file in _expand(path, recursive, problems):
            if file == STDIN:
                found.setdefault(STDIN, STDIN)
                continue
            try:
                fd = _open(file)
            except OSError as error:
                problems.append(_problem(file, error))
                continue
            status = os.fstat(fd)
            os.close(fd)
            found.setdefault((status.st_dev, status.st_ino), file)
    if problems:
        raise ManifestError(problems)
    return list(found.values())


def read(path: str, what: str = "the manifest") -> str:
    """The text of a file, or of standard input for `-`; `what` describes the file in errors.

    Raises ManifestError if it cannot be read, is larger than MAX_TEXT bytes or has invalid bytes.
    """
    try:
        data = _read_stdin() if path == STDIN else _read_file(path)
    except OSError as error:
        raise ManifestError([_problem(path, error, what)]) from None
    if len(data) > MAX_TEXT:
        message = f"larger than {MAX_TEXT >> 20} MiB"
        raise ManifestError([Problem(message, subject=path, hint="split it into several files")])
    return decode(data, path)


def _expand(path: str, recursive: bool, problems: list[Problem]) -> list[str]:
    """The path itself, or the manifests of a directory."""
    if path == STDIN or not os.path.isdir(path):
        return [path]
    before = len(problems)
    files = list(_walk(path, os.path.realpath(path), recursive, problems))
    if not files and len(problems) == before:
        hint = f"manifest names end in {', '.join(SUFFIXES)}"
        hint += "" if recursive else "; -R searches subdirectories"
        problems.append(Problem("no manifests in this directory", subject=path, hint=hint))
    return files


def _walk(directory: str, top: str, recursive: bool, problems: list[Problem]) -> Iterator[str]:
    try:
        with os.scandir(directory) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        problems.append(_problem(directory, error))
        return
    for entry in listed:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            if recursive:
                yield from _walk(entry.path, top, recursive, problems)
        elif entry.name in (PROJECT, LOCK):
            continue
        elif entry.name.endswith(SUFFIXES) and not os.path.isdir(entry.path):
            target = os.path.realpath(entry.path)
            if os.path.commonpath((top, target)) == top:
                yield entry.path
            else:
                hint = "to use it, pass the path of the file itself"
                message = f"symbolic link points out of the directory, to {target}"
                problems.append(Problem(message, subject=entry.path, hint=hint))


def _open(path: str) -> int:
    """A file descriptor of a regular file. Raises OSError for everything else."""
    # Checked before opening, because opening a device can have effects (watchdog, tape), and afterwards,
    # because the path may have been replaced. O_NONBLOCK keeps open(2) from waiting on a FIFO (fifo(7)).
    _check_regular(os.stat(path))
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _check_regular(os.fstat(fd))
    except OSError:
        os.close(fd)
        raise
    return fd


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")


def _read_file(path: str) -> bytes:
    """The content, up to MAX_TEXT + 1 bytes."""
    with open(_open(path), "rb") as file:
        return file.read(MAX_TEXT + 1)


def _read_stdin() -> bytes:
    """The content, up to MAX_TEXT + 1 bytes."""
    if sys.stdin is None or sys.stdin.closed:
        raise OSError(errno.EBADF, "standard input is closed")
    data = b""
    # None is not the end of the file: another process made the shared pipe non-blocking.
    while (piece := sys.stdin.buffer.read(MAX_TEXT + 1 - len(data))) != b"":
        if piece is None:
            select.select([sys.stdin], [], [])
        else:
            data += piece
    return data


def _problem(path: str, error: OSError, what: str = "the manifest") -> Problem:
    hint = "pipe it to standard input and pass -" if error.errno == errno.EINVAL else ""
    return Problem(f"read {what}: {reason(error)}", subject=path, hint=hint)
