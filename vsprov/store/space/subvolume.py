"""The backend `qgroup`: a subvolume of the state root's btrfs, which its quota group limits.

    servers/<name>/disk/        a subvolume
        upper/, work/           the directories of these names beside it are empty
    volumes/<name>/data/        the files of a volume that is limited so

It holds nothing else: the log of the server and its record belong to the host.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

from vsprov.errors import FailedError, reason
from vsprov.kernel import paths
from vsprov.kernel.storage import btrfs
from vsprov.model.disk_backends import QGROUP
from vsprov.plan.seen_disk import SeenDisk
from vsprov.store.disk import durable
from vsprov.store.instance import DISK_SUBVOLUME
from vsprov.store.space.parts import MODES, make_part
from vsprov.store.space.project import is_of_pool

_ROOM = 16 << 20  # bytes; the kernel sets aside more for a change of metadata than that takes
# {(file system, group): (servers that start with a raised limit, the limit that it has otherwise)}
_RAISED: dict[tuple[str | None, int], tuple[int, int]] = {}
_AT_ONCE = Lock()


def path(folder: str) -> str:
    """The subvolume in the directory of a server."""
    return f"{folder}/{DISK_SUBVOLUME}"


def lack(root: str) -> str:
    """Why the file system of the state root has no quota groups; "" if it does."""
    folder = os.path.realpath(paths.existing(root))
    try:
        with paths.opened(folder) as fd:
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
    with paths.opened(folder) as fd:
        groups = btrfs.groups(fd)
    if groups and btrfs.is_inconsistent(groups):
        return f"what is used is unknown until btrfs has counted it (btrfs quota rescan -w {folder})"
    return ""


def observe_volume(data: str) -> SeenDisk | None:
    """What limits the volume with this directory of files; None if that is no subvolume, or has no limit."""
    with paths.opened(data) as fd:
        if not btrfs.is_subvolume(fd):
            return None
    found = _observe(data)
    return found if found.space else None


def make_volume(data: str, size: int) -> None:
    """Create the directory with the files of a volume as a subvolume of a limited size."""
    with paths.opened(os.path.dirname(data)) as fd:
        btrfs.create(fd, os.path.basename(data))
    limit_at(data, size)


def limit_volume(data: str, size: int) -> None:
    """Limit a volume whose files are in a subvolume to `size` bytes, 0 for no limit."""
    try:
        with paths.opened(data) as fd:
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
        with paths.opened(disk) as fd:
            if not btrfs.is_subvolume(fd):
                return SeenDisk(QGROUP, 0, problem=f"{disk}: is not a subvolume of btrfs")
            own = btrfs.subvolume(fd)
            group, pools = btrfs.find(fd, own) or btrfs.Group(0, 0), _pools_of(fd, own)
    except OSError as error:
        return SeenDisk(QGROUP, 0, problem=f"{disk}: {reason(error)}")
    numbers = (group.limit, None, group.used, None, None, group.limit)
    return SeenDisk(QGROUP, *numbers, attached=True, pools=pools)


def _pools_of(fd: int, own: int) -> tuple[int, ...]:
    """The numbers of the quota groups of pools that a subvolume is in."""
    return tuple(sorted(filter(is_of_pool, btrfs.parents(fd, own))))


def make(folder: str, base: int, size: int, pools: Iterable[int] = ()) -> None:
    """Create the subvolume of a server, in the quota groups of `pools`, with an empty upper/ and work/ for
    ids from `base` on: complete, or not at all. 0 for no limit.
    """
    disk = path(folder)
    new = durable.temporary(disk)
    try:
        durable.remove_tree(new)
        with paths.opened(folder) as fd:
            btrfs.create(fd, os.path.basename(new))
        try:
            os.chmod(new, 0o700)
            limit_at(new, size)
            for name in MODES:
                make_part(new, name, base)
            share_at(new, pools)  # which may be full
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


def share(folder: str, pools: Iterable[int]) -> None:
    """Have what a server writes count in the quota groups of these pools, and of no others."""
    try:
        share_at(path(folder), pools)
    except OSError as error:
        raise durable.failed(path(folder), "assign it to the quota group of its pool", error) from error


def share_at(disk: str, pools: Iterable[int]) -> None:
    """The same for the subvolume at the path `disk`."""
    with _beside(disk) as (fd, own):
        wanted = set(pools)
        before = {*_pools_of(fd, own)}
        unknown = [btrfs.take_out(fd, own, btrfs.above(number)) for number in before - wanted]
        unknown += [btrfs.put_into(fd, own, btrfs.above(number)) for number in wanted - before]
        if any(unknown):
            btrfs.count_again(fd)


@contextmanager
def room_to_start(folder: str) -> Iterator[None]:
    """Raise the limit of a server that is full, or of its pool, until its root file system is mounted.

    Overlayfs then makes a directory in work/. Without room for it, it would be mounted read-only, and nobody
    could remove anything.
    """
    with _beside(path(folder)) as (fd, own):
        above = [btrfs.above(number) for number in _pools_of(fd, own)]
    with ExitStack() as raised:
        for group in (own, *above):
            raised.enter_context(_room_in(path(folder), group))
        yield


@contextmanager
def _room_in(disk: str, group: int) -> Iterator[None]:
    """Raise the limit of a group that is full. Those of pools are raised until the last server is mounted."""
    with _AT_ONCE, _beside(disk) as (fd, _):
        found = btrfs.find(fd, group) or btrfs.Group(0, 0)
        key = (btrfs.groups(fd), group)
        starting, limit = _RAISED.get(key, (0, found.limit))
        full = found.limit - found.used - found.reserved <= _ROOM
        if limit and full:
            btrfs.set_limit(fd, group, max(found.limit, found.used + found.reserved) + _ROOM)
        raised = bool(limit and (full or starting))
        if raised:
            _RAISED[key] = (starting + 1, limit)
    try:
        yield
    finally:
        with _AT_ONCE:
            if raised and (left := _RAISED.pop(key)[0] - 1):
                _RAISED[key] = (left, limit)
            elif raised:
                with _beside(disk) as (fd, _):
                    btrfs.set_limit(fd, group, limit)


def limit_at(disk: str, size: int) -> None:
    """Limit the subvolume at the path `disk`."""
    with _beside(disk) as (fd, own):
        btrfs.set_limit(fd, own, size)


def limit_of(folder: str) -> tuple[int, tuple[int, ...]]:
    """(the limit of a server, 0 for none, the numbers of the quota groups of pools that it is in)."""
    try:
        with paths.opened(path(folder)) as fd:
            own = btrfs.subvolume(fd)
            found, pools = btrfs.find(fd, own), _pools_of(fd, own)
    except OSError as error:
        raise durable.failed(path(folder), "read the limit of its quota group", error) from error
    return found.limit if found else 0, pools


@contextmanager
def _beside(disk: str) -> Iterator[tuple[int, int]]:
    """(the directory that a subvolume is in, open, the ID of the subvolume and of its group). What changes a
    group through a file of a subvolume that is full is refused as if it wrote to that.
    """
    with paths.opened(disk) as fd:
        own = btrfs.subvolume(fd)
    with paths.opened(os.path.dirname(disk)) as fd:
        yield fd, own
