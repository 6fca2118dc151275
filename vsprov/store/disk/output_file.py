"""Writing to a path that the user gave."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from vsprov.errors import FailedError, UsageError, reason
from vsprov.kernel.paths import FOLDER
from vsprov.store.disk.durable import hint_for

STDIN = "-"
# proc_pid_fd(5): opening such a name again fails for a socket, and starts at the beginning of a file.
_DESCRIPTOR = re.compile(
    r"/dev/std(?P<name>in|out|err)|(/dev/fd|/proc/(self|thread-self)/fd)/(?P<number>\d+)"
)
_NUMBERS = {"in": 0, "out": 1, "err": 2}
_WITHOUT_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)  # open(2), O_TMPFILE
_UNWRITABLE = {stat.S_IFDIR: "a directory", stat.S_IFBLK: "a block device", stat.S_IFSOCK: "a socket"}


def write_output(
    path: str,
    data: bytes,
    what: str,
    *,
    mode: int,
    replaces: Callable[[str], bool],
    inputs: Iterable[str] = (),
) -> bool:
    """Write `data` to a file, device, pipe or terminal; whether it is a file that can be read later.

    A regular file is replaced as a whole or not at all, and only if it is empty or `replaces(its path)` says
    that it is an older version of `what` ("the plan"). Symbolic links are followed. Raises UsageError for
    anything else and for a file that is one of the `inputs` of the command ("-": standard input), FailedError
    if it cannot be written.
    """
    try:
        descriptor = descriptor_of(path)
        if descriptor is not None:
            if sys.stdout is not None:
                sys.stdout.flush()
            _write_all(descriptor, data)
            return False
        found = _status(path)
        if found is not None and not stat.S_ISREG(found.st_mode):
            _refuse_unwritable(path, what, found)
            _write_through(path, data)
            return False
        if found is not None:
            _refuse_other_file(path, what, found, replaces, inputs)
        _replace(os.path.realpath(path), data, mode)
        return True
    except BrokenPipeError:
        raise  # the reader has gone, as with standard output
    except OSError as error:
        raise _failed(path, what, error) from error


@contextmanager
def opened_output(path: str, what: str, *, replace: bool) -> Iterator[int]:
    """A descriptor to write much to: of a file, device or pipe; "-" is standard output.

    A regular file gets its name at the end of the block, complete and on the disk; if the block raises,
    nothing is left of it. One that exists and is not empty is replaced only with `replace`. Raises UsageError
    for a terminal and for what cannot be written; OSErrors in the block become FailedErrors.
    """
    try:
        descriptor = 1 if path == "-" else descriptor_of(path)
        found = os.fstat(descriptor) if descriptor is not None else _status(path)
        if descriptor is not None or (found is not None and not stat.S_ISREG(found.st_mode)):
            with _through(path, what, descriptor) as fd:
                yield fd
            return
        if found is not None and found.st_size and not replace:
            raise UsageError(f"{path}: write {what}: it exists", hint="--force replaces it")
        with _new(os.path.realpath(path)) as fd:
            yield fd
    except BrokenPipeError:
        raise  # the reader has gone
    except OSError as error:
        raise _failed(path, what, error) from error


@contextmanager
def _through(path: str, what: str, descriptor: int | None) -> Iterator[int]:
    """The descriptor, or one of what is at the path, which is no regular file."""
    if descriptor is None:
        _refuse_unwritable(path, what, os.stat(path))
        fd = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    else:
        fd = os.dup(descriptor)
        if sys.stdout is not None:
            sys.stdout.flush()
    try:
        if os.isatty(fd):
            raise UsageError(f"{path}: write {what}: it is a terminal", hint="specify a file, or redirect it")
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _new(path: str) -> Iterator[int]:
    """A file that has no name until it is complete: nothing of it is left if the process is killed."""
    above, name = os.path.split(path)
    folder = os.open(above, FOLDER & ~os.O_NOFOLLOW)
    try:
        try:
            fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=folder)
        except OSError as error:
            if error.errno not in _WITHOUT_NAMELESS:
                raise
            with _temporary_file(path) as fd:
                yield fd
                os.fsync(fd)
        else:
            with open(fd, "wb", buffering=0):
                yield fd
                os.fsync(fd)
                _give_name(fd, folder, name)
        os.fsync(folder)
    finally:
        os.close(folder)


def _give_name(fd: int, folder: int, name: str) -> None:
    """Give a file without a name this one, in the place of a file that has it; linkat(2)."""
    nameless = f"/proc/self/fd/{fd}"
    try:
        os.link(nameless, name, dst_dir_fd=folder)
    except FileExistsError:
        making = f".vsprov-{os.getpid()}"
        os.link(nameless, making, dst_dir_fd=folder)
        os.rename(making, name, src_dir_fd=folder, dst_dir_fd=folder)


@contextmanager
def _temporary_file(path: str) -> Iterator[int]:
    """A file that gets the name `path` at the end, for file systems where every file has a name."""
    import tempfile

    fd, making = tempfile.mkstemp(prefix=".vsprov-", dir=os.path.dirname(path))
    try:
        with open(fd, "wb", buffering=0):
            yield fd
        os.rename(making, path)
    except BaseException:
        os.unlink(making)
        raise


def write_new(path: str, data: bytes, what: str) -> bool:
    """Create a file with its content; False if there is something at this path.

    Raises UsageError for a symbolic link to nothing, FailedError if it cannot be written.
    """
    try:
        with open(path, "xb") as file:
            try:
                file.write(data)
                file.flush()
            except BaseException:
                os.unlink(path)
                raise
        return True
    except FileExistsError:
        if os.path.exists(path):
            return False
        raise UsageError(f"{path}: write {what}: it is a symbolic link to a missing file") from None
    except OSError as error:
        raise _failed(path, what, error) from error


def descriptor_of(path: str) -> int | None:
    """The number of the file descriptor that a path like /dev/stdout or /dev/fd/3 names."""
    match = _DESCRIPTOR.fullmatch(os.path.normpath(path))
    if match is None:
        return None
    return _NUMBERS[match["name"]] if match["name"] else int(match["number"])


def _status(path: str) -> os.stat_result | None:
    """The status of what the path leads to; None if there is nothing."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _refuse_unwritable(path: str, what: str, found: os.stat_result) -> None:
    kind = _UNWRITABLE.get(stat.S_IFMT(found.st_mode))
    if kind is not None:
        raise UsageError(f"{path}: write {what}: it is {kind}", hint="specify the path of a file")


def _refuse_other_file(
    path: str, what: str, found: os.stat_result, replaces: Callable[[str], bool], inputs: Iterable[str]
) -> None:
    for given in inputs:
        read = os.fstat(0) if given == STDIN else _status(given)
        if read is not None and (read.st_dev, read.st_ino) == (found.st_dev, found.st_ino):
            name = "standard input" if given == STDIN else given
            raise UsageError(
                f"{path}: write {what}: the command reads this file ({name})", hint="specify another file"
            )
    if found.st_size and not replaces(path):
        raise UsageError(
            f"{path}: write {what}: the existing file contains something else",
            hint="specify another file, or remove this one first",
        )


def _write_through(path: str, data: bytes) -> None:
    """Write to a device or pipe. Opening a pipe waits for a reader; fifo(7)."""
    fd = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _write_all(fd, data)
    finally:
        os.close(fd)


def _replace(path: str, data: bytes, mode: int) -> None:
    making = _temporary(path, data, mode)
    try:
        os.rename(making, path)
    except BaseException:
        os.unlink(making)
        raise


def _temporary(path: str, data: bytes, mode: int) -> str:
    """A new file with this content in the directory of `path`; its path."""
    import tempfile  # loads much, and few commands write such a file

    fd, making = tempfile.mkstemp(prefix=".vsprov-", dir=os.path.dirname(os.path.abspath(path)))
    try:
        _write_all(fd, data)
        os.fchmod(fd, mode)
        os.fsync(fd)
    except BaseException:
        os.unlink(making)
        raise
    finally:
        os.close(fd)
    return making


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _failed(path: str, what: str, error: OSError) -> FailedError:
    place = 1 if path == "-" else path
    return FailedError(f"{path}: write {what}: {reason(error)}", hint=hint_for(error, place))
