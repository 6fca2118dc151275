"""Downloading blobs from a registry, with verification and resumption.

In the directory of downloads, `<sha256>` is a complete blob that was verified, and `<sha256>.part` an
incomplete one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import queue
import stat
import threading
import time
from collections.abc import Callable, Generator, Iterator

from vsprov.errors import ImageError
from vsprov.model.values import digests
from vsprov.store.disk import durable
from vsprov.store.disk.progress import PACE, Progress
from vsprov.store.registry.oci_documents import Descriptor

TRIES = 4  # without progress of `_ENOUGH` bytes
PAUSE = 1.0  # seconds between two
_ENOUGH = 1 << 20
_BLOCK = 1 << 20
_WAIT = 0.2  # seconds between two checks whether another process has downloaded the blob
_AHEAD = 8  # blocks that may be received and not yet written

# The answer to a request for a blob from an offset on: the actual offset (that one, or 0), and the data.
Opened = tuple[int, Iterator[bytes]]


class Interrupted(ImageError):
    """The connection failed; another attempt may succeed."""


class _TooLong(ImageError):
    pass


def fetch(
    descriptor: Descriptor,
    folder: str,
    open_at: Callable[[int], Opened],
    progress: Progress,
    label: str,
) -> str:
    """Download a blob to `folder`; its path. The blob is complete and its SHA-256 is verified.

    After an error (an ImageError, a full disk, an exception of `progress`) the incomplete blob is kept, and
    the next call resumes the download. A blob with another SHA-256 is deleted. If several threads or
    processes request a blob, one downloads it and the others wait.
    """
    path = f"{folder}/{descriptor.digest}"
    part = f"{path}.part"
    report = _reporter(descriptor, progress)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with _locked(part, report) as fd:
            if _is_whole(path, descriptor, report):
                os.unlink(part)
            else:
                _fill(fd, part, descriptor, open_at, report, label)
                os.rename(part, path)
    except OSError as error:
        raise durable.failed(part, "download", error) from error
    return path


def _reporter(descriptor: Descriptor, progress: Progress) -> Callable[[int], None]:
    return lambda done: progress(f"download {digests.short(descriptor.digest)}", done, descriptor.size)


@contextlib.contextmanager
def _locked(part: str, report: Callable[[int], None]) -> Iterator[int]:
    """A descriptor of `part`, created if missing, with an exclusive lock."""
    while True:
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if _lock(fd) and _is_file(part, fd):
                yield fd
                return
        finally:
            os.close(fd)
        report(0)
        time.sleep(_WAIT)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_file(part: str, fd: int) -> bool:
    """Whether `part` is still the file that was opened: the previous lock owner may have renamed it."""
    try:
        return os.path.samestat(os.lstat(part), os.fstat(fd))
    except FileNotFoundError:
        return False


def _is_whole(path: str, descriptor: Descriptor, report: Callable[[int], None]) -> bool:
    """Whether the complete blob exists; after a power failure, the name may exist without the content."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode) and os.fstat(fd).st_size == descriptor.size:
            if _read(fd, report)[0].hexdigest() == descriptor.digest:
                return True
    finally:
        os.close(fd)
    os.unlink(path)
    return False


def _read(fd: int, report: Callable[[int], None]) -> tuple[hashlib._Hash, int]:
    """The SHA-256 and the size of the rest of an open file."""
    sum_, size = hashlib.sha256(), 0
    while block := os.read(fd, _BLOCK):
        sum_.update(block)
        size += len(block)
        report(size)
    return sum_, size


def _fill(
    fd: int,
    part: str,
    descriptor: Descriptor,
    open_at: Callable[[int], Opened],
    report: Callable[[int], None],
    label: str,
) -> None:
    """Complete the locked `part`."""
    if os.fstat(fd).st_size > descriptor.size:
        os.ftruncate(fd, 0)
    resumed = os.fstat(fd).st_size > 0
    while True:
        try:
            found = _complete(fd, descriptor, open_at, report, label)
        except _TooLong:
            os.unlink(part)
            raise
        if found == descriptor.digest:
            return
        if not resumed:
            break
        resumed = False  # the part from earlier may be wrong: download all of it once more
        os.ftruncate(fd, 0)
    os.unlink(part)
    raise ImageError(
        f"{label}: layer: expected {digests.full(descriptor.digest)}, got {digests.full(found)}",
        hint="it was damaged or replaced in the registry, or in transit; it is not used",
    )


def _complete(
    fd: int,
    descriptor: Descriptor,
    open_at: Callable[[int], Opened],
    report: Callable[[int], None],
    label: str,
) -> str:
    """Append what is missing, with retries if the connection fails; the SHA-256 of the blob."""
    os.lseek(fd, 0, os.SEEK_SET)
    sum_, have = _read(fd, report)
    tries, furthest = 0, have
    while have < descriptor.size:
        try:
            with contextlib.closing(_ahead(open_at, have, report)) as coming:
                start = next(coming)
                if start != have:
                    os.ftruncate(fd, 0)
                    os.lseek(fd, 0, os.SEEK_SET)
                    sum_, have = hashlib.sha256(), 0
                for block in coming:
                    assert isinstance(block, bytes)
                    if have + len(block) > descriptor.size:
                        raise _TooLong(f"{label}: layer: expected {descriptor.size} bytes, got more")
                    _write(fd, block)
                    sum_.update(block)
                    have += len(block)
                    report(have)
            if have < descriptor.size:
                raise Interrupted(f"{label}: a layer ended after {have} of {descriptor.size} bytes")
        except Interrupted as error:
            # Relative to the furthest offset: starting again at 0 is not progress.
            tries = 1 if have - furthest >= _ENOUGH else tries + 1
            furthest = max(have, furthest)
            if tries == TRIES:
                hint = error.hint or "try again: the download will be resumed"
                raise ImageError(str(error), hint=hint) from error
            report(have)
            time.sleep(PAUSE)
    return sum_.hexdigest()


def _ahead(
    open_at: Callable[[int], Opened], have: int, report: Callable[[int], None]
) -> Generator[int | bytes, None, None]:
    """The actual offset, then the blocks of the blob, read by a separate thread.

    A read from a socket cannot be interrupted; with the thread, the caller can still be cancelled. The thread
    then ends at the next block, or when the read times out.
    """
    came: queue.Queue[int | bytes | Exception | None] = queue.Queue(_AHEAD)
    left = threading.Event()

    def read() -> None:
        try:
            start, blocks = open_at(have)
            with contextlib.closing(blocks):  # type: ignore[type-var]
                came.put(start)
                for block in blocks:
                    if left.is_set():
                        return
                    came.put(block)
            came.put(None)
        except Exception as error:  # raised again in the waiting thread
            came.put(error)

    threading.Thread(target=read, name="download", daemon=True).start()
    done = have
    try:
        while True:
            try:
                item = came.get(timeout=PACE)
            except queue.Empty:
                report(done)
                continue
            if isinstance(item, Exception):
                raise item
            if item is None:
                return
            done = item if isinstance(item, int) else done + len(item)
            yield item
    finally:
        left.set()
        while not came.empty():  # the thread may be waiting for room in the queue
            came.get()


def _write(fd: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(fd, rest) :]
