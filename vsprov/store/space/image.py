"""The backend `image`: a file with an ext4 of its own, which holds what the server writes.

    servers/<name>/disk.img     sparse, with the mark `disk`: "BYTES BLOCKS INODES"
        upper/, work/           in its file system; the directories of these names beside it are empty

BYTES is its size. BLOCKS of 4 KiB are what its file system has got of it, 0 while it grows, and INODES how
many were asked for, 0 for any number.

Only the overlay of the running server has it mounted: in no mount namespace there is a path to it. The loop
device goes with the last mount. It holds a lock on the file (flock(2)) that it took over from whoever
attached it, so that two of them never write to one file system; the next start waits for it, as long as the
kernel needs to write back what the server has left in memory.

Whatever takes place while it is not mounted changes a copy, which then replaces the file.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vsprov.errors import FailedError, reason
from vsprov.kernel.storage import ext4, loop
from vsprov.model.disk_backends import RESERVED
from vsprov.store.disk import durable, marks
from vsprov.store.space import blank, programs
from vsprov.store.space.image_state import MARK, Made, made_with, mounted_at, opened_device, path, problem
from vsprov.store.space.parts import MODES

SECONDS_TO_DETACH = 120.0  # the kernel writes back what the server has left in memory
_FIXED = (0, 1)  # exit codes of e2fsck: nothing was wrong, or not any more


def lack() -> str:
    """Why this host has no such images; "" if it does."""
    if missing := programs.lack():
        return missing
    if not os.path.exists(loop.CONTROL):
        return f"{loop.CONTROL} does not exist (modprobe loop)"
    return ""


def make(folder: str, size: int, inodes: int | None) -> None:
    """Create the image of a server, or replace it by an empty one.

    After a power failure it is complete, or what it was before, until the caller flushes its directory.
    """
    image = path(folder)
    new = durable.temporary(image)
    try:
        durable.unlink(new)
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            blank.make(image, new, fd, size, None if inodes is None else inodes + RESERVED)
            _finish(image, new, fd, size, inodes or 0)
        finally:
            os.close(fd)
    except BaseException as error:
        durable.unlink(new)
        if isinstance(error, OSError):
            raise durable.failed(image, "create", error) from error
        raise


def _finish(image: str, new: str, fd: int, size: int, inodes: int) -> None:
    """Mark a new image, and give it its name."""
    found = ext4.superblock(fd)
    if found is None:
        raise FailedError(f"{image}: no ext4 file system was created")
    marks.write_mark(new, MARK, str(Made(size, found.blocks, inodes)))
    os.fsync(fd)
    os.rename(new, image)


def remake(folder: str) -> None:
    """Replace the image of a stopped server by an empty one of the same size."""
    size, inodes = made_with(folder)
    with _unused(path(folder)):
        make(folder, size, inodes)


def attach(folder: str, base: int) -> int:
    """The fd of a detached mount of the image of a stopped server, with upper/ and work/ for ids from `base`
    on.

    The file is detached when that, and every mount that was made of it, has gone.
    """
    image = path(folder)
    mounted = mount(folder)
    try:
        for name, mode in MODES.items():
            _provide(mounted, name, mode, base)
    except OSError as error:
        os.close(mounted)
        raise durable.failed(image, "create upper and work", error) from error
    return mounted


def mount(folder: str, seconds: float | None = None) -> int:
    """The fd of a detached mount of an image. InUseError if somebody still uses it after `seconds`."""
    image = path(folder)
    with _unused(image, seconds) as fd:
        why = problem(ext4.superblock(fd), Made.of(image), os.fstat(fd).st_size)
        if why:
            raise FailedError(
                f"{image}: {why}", hint="restore it from a backup, or remove what it belongs to"
            )
        try:
            device = loop.attach(fd)
        except OSError as error:
            raise durable.failed(image, "attach it to a loop device", error) from error
    try:
        return ext4.mount(device)
    except OSError as error:
        hint = f"check it with e2fsck -f {image}, while no server uses it"
        raise FailedError(f"{image}: mount: {reason(error)}", hint=hint) from error
    finally:
        os.close(device)


def _provide(mounted: int, name: str, mode: int, base: int) -> None:
    """Create a directory in the file system, complete or not at all."""
    new = f"{durable.MAKING}{name}"
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=mounted, follow_symlinks=False)
        return
    with suppress(FileNotFoundError):
        os.rmdir(new, dir_fd=mounted)
    os.mkdir(new, 0o700, dir_fd=mounted)
    part = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=mounted)
    try:
        os.fchmod(part, mode)
        os.fchown(part, base, base)
    finally:
        os.close(part)
    os.rename(new, name, src_dir_fd=mounted, dst_dir_fd=mounted)


def mount_again(folder: str) -> int | None:
    """The fd of another detached mount of an image that is mounted now; None if it is not."""
    image = path(folder)
    try:
        with opened_device(image, os.lstat(image), loop.devices()) as device:
            return None if device is None else ext4.mount(device)
    except OSError as error:
        broken = "it has become read-only after an error; stop the servers that use it"
        hint = broken if error.errno == errno.EBUSY else ""
        raise FailedError(f"{image}: mount: {reason(error)}", hint=hint) from error


@contextmanager
def opened(folder: str, base: int) -> Iterator[int]:
    """A detached mount of the image of a server, running or stopped; `base` as in `attach`."""
    mounted = mount_again(folder)
    if mounted is None:
        mounted = attach(folder, base)
    try:
        yield mounted
    finally:
        os.close(mounted)


def wait_until_detached(folder: str) -> None:
    """Wait until the kernel has detached the image of a stopped server; FailedError if it does not."""
    image = path(folder)
    if os.path.lexists(image):
        with _locked(image):
            return


class InUseError(FailedError):
    """Whoever uses an image has not stopped doing so in time."""


@contextmanager
def _unused(image: str, seconds: float | None = None) -> Iterator[int]:
    """As `_locked`. FailedError if somebody else has attached it, who would write to the same file system."""
    with _locked(image, seconds) as fd:
        if device := loop.devices().get(os.path.realpath(image)):
            hint = f"findmnt {device} shows where it is mounted: unmount it, or losetup -d {device}"
            raise FailedError(f"{image}: is attached to {device} by something other than vsprov", hint=hint)
        yield fd


@contextmanager
def _locked(image: str, seconds: float | None = None) -> Iterator[int]:
    """The image of a stopped server, open, as long as nobody else may use it."""
    try:
        fd = os.open(image, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise durable.failed(image, "open", error) from error
    try:
        seconds = SECONDS_TO_DETACH if seconds is None else seconds
        if not loop.lock(fd, seconds):
            message = f"{image}: is still in use after {seconds:g} s"
            raise InUseError(message, hint="losetup -a shows by which loop device")
        yield fd
    finally:
        os.close(fd)


def grow(folder: str, size: int) -> None:
    """Make the image of a running server `size` bytes large; growing needs CAP_SYS_RESOURCE."""
    image = path(folder)
    made = Made.of(image)
    try:
        fd = os.open(image, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with opened_device(image, os.fstat(fd), loop.devices()) as device:
                if made is None or device is None:
                    raise FailedError(f"{image}: is not attached to a loop device")
                _grow(image, fd, device, made, size)
        finally:
            os.close(fd)
    except OSError as error:
        raise durable.failed(image, f"grow to {size} bytes", error) from error


def _grow(image: str, fd: int, device: int, made: Made, size: int) -> None:
    found = ext4.superblock(device)
    if found is None:
        raise FailedError(f"{image}: has no ext4 file system (any more)")
    if size < found.size:
        raise FailedError(f"{image}: a mounted file system cannot shrink")
    if made.size != size:
        marks.write_mark(image, MARK, str(Made(size, 0, made.inodes)))
    os.ftruncate(fd, size)
    loop.update_size(device)
    if found.size < size and (made.size, made.blocks) != (size, found.blocks):
        with mounted_at(device) as mounted:
            ext4.grow(mounted, size)
    found = ext4.superblock(device) or found
    marks.write_mark(image, MARK, str(Made(size, found.blocks, made.inodes)))
    os.fsync(fd)


def rebuild(folder: str, size: int) -> None:
    """Make the image of a stopped server `size` bytes large, with all that is in it; safe from power failure.

    FailedError if that does not fit.
    """
    image = path(folder)
    new, made = durable.temporary(image), Made.of(image)
    with _unused(image):
        try:
            programs.run(image, "cp", "--sparse=always", "--reflink=auto", "--", image, new)
            _check(image, new)
            fd = os.open(new, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fchmod(fd, 0o600)
                found = ext4.superblock(fd)
                if found is None or found.size < size:
                    os.ftruncate(fd, size)
                programs.run(image, "resize2fs", new, f"{size // 1024}K")
                os.ftruncate(fd, size)
                _finish(image, new, fd, size, made.inodes if made else 0)
                durable.flush_folder(folder)
            finally:
                os.close(fd)
        except BaseException as error:
            durable.unlink(new)
            if isinstance(error, OSError):
                raise durable.failed(image, f"resize to {size} bytes", error) from error
            raise


def _check(image: str, new: str) -> None:
    """Check a file system that was not mounted since it was copied, as resize2fs requires."""
    programs.run(image, "e2fsck", "-f", "-p", new, good=_FIXED)
