"""The backend `qgroup`: a subvolume of the state root's btrfs, which its quota group limits.

    servers/<name>/disk/        a subvolume
        upper/, work/           the directories of these names beside it are empty
    volumes/<name>/data/        the files of a volume that is limited so

It holds nothing else: the log of the server and its record belong to the host.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from vsprov.errors import FailedError, reason
from vsprov.kernel import paths
from vsprov.kernel.storage import btrfs
from vsprov.model.disk_backends import QGROUP
from vsprov.plan.observed import SeenDisk
from vsprov.store.disk import durable
from vsprov.store.instance import DISK_SUBVOLUME
from vsprov.store.space.parts import MODES, make_part

_ROOM = 16 << 20  # bytes; the kernel sets aside more for a change of metadata than that takes


def path(folder: str) -> str:
    """The subvolume in the directory of a server."""
    return f"{folder}/{DISK_SUBVOLUME}"


def lack(root: str) -> str:
    """Why the file system of the state root has no quota groups; "" if it does."""
    folder = os.path.realpath(paths.existing(root))
    try:
        with _opened(folder) as fd:
            groups = btrfs.groups(fd)
    except OSError as error:
        return f"{folder}: {reason(error)}"
    if groups is None:
        return f"{folder} is not on btrfs"
    if not os.path.isdir(groups):
        return f"the btrfs of {folder} has no quotas enabled (btrfs quota enable {folder})"
    return ""


def doubt(root: str) -> str:
    """Why the figures of quota groups may be wrong; "" if they are not."""
    folder = os.path.realpath(paths.existing(root))
    with _opened(folder) as fd:
        groups = btrfs.groups(fd)
    if groups and btrfs.is_inconsistent(groups):
        return f"what is used is unknown until btrfs has counted it (btrfs quota rescan -w {folder})"
    return ""


def observe_volume(data: str) -> SeenDisk | None:
    """What limits the volume with this directory of files; None if that is no subvolume, or has no limit."""
    with _opened(data) as fd:
        if not btrfs.is_subvolume(fd):
            return None
    found = _observe(data)
    return found if found.space else None


def make_volume(data: str, size: int) -> None:
    """Create the directory with the files of a volume as a subvolume of a limited size."""
    with _opened(os.path.dirname(data)) as fd:
        btrfs.create(fd, os.path.basename(data))
    limit_at(data, size)


def limit_volume(data: str, size: int) -> None:
    """Limit a volume whose files are in a subvolume to `size` bytes, 0 for no limit."""
    try:
        with _opened(data) as fd:
            if not btrfs.is_subvolume(fd):  # its group would be that of the whole state root
                raise FailedError(f"{data}: is not a subvolume of btrfs")
        limit_at(data, size)
    except OSError as error:
        raise durable.failed(data, "set the limit of its quota group", error) from error


def observe(folder: str) -> SeenDisk:
    """What limits the server with this directory."""
    return _observe(path(folder))


def _observe(disk: str) -> SeenDisk:
    try:
        with _opened(disk) as fd:
            if not btrfs.is_subvolume(fd):
                return SeenDisk(QGROUP, 0, problem=f"{disk}: is not a subvolume of btrfs")
            group = btrfs.find(fd, btrfs.subvolume(fd)) or btrfs.Group(0, 0)
    except OSError as error:
        return SeenDisk(QGROUP, 0, problem=f"{disk}: {reason(error)}")
    return SeenDisk(QGROUP, group.limit, None, group.used, None, None, file_system=group.limit, attached=True)


def make(folder: str, base: int, size: int) -> None:
    """Create the subvolume of a server, with an empty upper/ and work/ for ids from `base` on: complete, or
    not at all. 0 for no limit.
    """
    disk = path(folder)
    new = durable.temporary(disk)
    try:
        durable.remove_tree(new)
        with _opened(folder) as fd:
            btrfs.create(fd, os.path.basename(new))
        try:
            os.chmod(new, 0o700)
            limit_at(new, size)
            for name in MODES:
                make_part(new, name, base)
            durable.rename_new(new, disk)
        except BaseException:
            durable.remove_tree(new)
            raise
    except OSError as error:
        raise durable.failed(disk, "create", error) from error


def limit(folder: str, size: int) -> None:
    """Limit what a server writes to `size` bytes, 0 for no limit, while it runs or not."""
    try:
        limit_at(path(folder), size)
    except OSError as error:
        raise durable.failed(path(folder), "set the limit of its quota group", error) from error


@contextmanager
def room_to_start(folder: str) -> Iterator[None]:
    """Raise the limit of a server that is full, until its root file system is mounted.

    Overlayfs then makes a directory in work/. Without room for it, it would be mounted read-only, and nobody
    could remove anything.
    """
    with _opened(path(folder)) as fd:
        found = btrfs.find(fd, btrfs.subvolume(fd))
    if found is None or not found.limit or found.limit - found.used - found.reserved > _ROOM:
        yield
        return
    limit(folder, max(found.limit, found.used + found.reserved) + _ROOM)
    try:
        yield
    finally:
        limit(folder, found.limit)


def limit_at(disk: str, size: int) -> None:
    """Limit the subvolume at the path `disk`."""
    with _opened(disk) as fd:
        btrfs.set_limit(fd, btrfs.subvolume(fd), size)


def limit_of(folder: str) -> int:
    """The limit of a server, 0 for none."""
    try:
        with _opened(path(folder)) as fd:
            found = btrfs.find(fd, btrfs.subvolume(fd))
    except OSError as error:
        raise durable.failed(path(folder), "read the limit of its quota group", error) from error
    return found.limit if found else 0


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, paths.FOLDER)
    try:
        yield fd
    finally:
        os.close(fd)
