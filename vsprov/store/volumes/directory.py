"""Volumes as they are on disk, and access to their files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from msgspec import Struct

from vsprov.errors import FailedError, reason
from vsprov.kernel import syscall
from vsprov.kernel.paths import FOLDER
from vsprov.plan.seen_disk import SeenDisk
from vsprov.store.disk import folders, marks, sealed
from vsprov.store.disk.marks import Owner
from vsprov.store.instance import Instance
from vsprov.store.space import disks
from vsprov.store.volumes.building import CREATED, DATA, RECORD


class VolumeDirectory(Struct, frozen=True):
    """A volume on disk.

    `owner` is None for a directory (or a file) that vsprov did not create. `applied` is what was last passed
    to `make` or `write`, None if it is not readable. `created` is in Unix time, 0 if unknown. `empty` is
    whether it has no files. `problem` says why its files cannot be used; "" if they can. `root` is the status
    of its root directory, None if there is none, or if it is in an image that no server has mounted. `space`
    is what limits it, None if nothing does.
    """

    name: str
    owner: Owner | None
    applied: Mapping[str, Any] | None
    created: float
    empty: bool
    problem: str
    root: os.stat_result | None
    space: SeenDisk | None = None


def observe(instance: Instance) -> dict[str, VolumeDirectory]:
    """All volumes by name. Damage is reported in `problem`, not raised."""
    limits = disks.Disks()
    return {
        name: observed_at(name, f"{instance.volumes}/{name}", limits)
        for name in folders.names(instance.volumes)
    }


def observed_at(name: str, path: str, limits: disks.Disks) -> VolumeDirectory:
    """A volume by the path of its directory, which exists."""
    owner, root, empty, problem, space = None, None, True, "", None
    applied, _ = sealed.read(f"{path}/{RECORD}")
    created = applied.pop(CREATED, 0) if applied else 0
    try:
        owner = marks.read_owner(path)
        space = limits.of(path, recorded=applied is None or _is_limited(applied), part=DATA)
        if not disks.has_image(path):
            root, empty = _root(f"{path}/{DATA}")
        elif space and not space.problem:
            root, empty = _root_of_image(path, space)
        problem = space.problem if space else ""
    except NotADirectoryError:
        problem = f"{path}/{DATA} is not a directory"
    except OSError as error:
        problem = f"its files cannot be read: {path}/{DATA}: {reason(error)}"
    except FailedError as error:
        problem = str(error)
    empty &= not problem  # as far as we know
    return VolumeDirectory(name, owner, applied, created, empty, problem, root, space)


def _is_limited(applied: Mapping[str, Any]) -> bool:
    return not {"size", "inodes"}.isdisjoint(applied.get("spec", {}))


def _root(path: str) -> tuple[os.stat_result, bool]:
    """(the status of the root directory of a volume, whether that is empty)."""
    root = os.lstat(path)
    if not stat.S_ISDIR(root.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    with os.scandir(path) as entries:
        return root, next(entries, None) is None


def _root_of_image(path: str, space: SeenDisk) -> tuple[os.stat_result | None, bool]:
    """As `_root`, if the image is mounted: looking must not mount it."""
    from vsprov.store.space import image, shared

    mounted = image.mount_again(path) if space.attached else None
    if mounted is None:
        return None, shared.is_empty(path)
    try:
        return _root(shared.place(mounted))
    finally:
        os.close(mounted)


@contextmanager
def opened(instance: Instance, name: str) -> Iterator[str]:
    """The path, for this process, of the directory with the files of a volume, whether servers use it or not.

    It is not to be followed by other processes. Servers can change what is in it, but not itself.
    """
    with opened_at(folders.place(instance.volumes, name)) as path:
        yield path


@contextmanager
def opened_at(path: str) -> Iterator[str]:
    """As `opened`, by the path of the directory of a volume."""
    if not disks.has_image(path):
        yield f"{path}/{DATA}"
        return
    from vsprov.store.space import shared

    mounted = shared.tree(path)
    try:
        yield shared.place(mounted)
    finally:
        os.close(mounted)


def size(instance: Instance, name: str, space: SeenDisk | None, *, folders_too: bool = True) -> int:
    """Bytes on disk of the files of a volume, and of its directories; `space` is what limits it."""
    from vsprov.store.layers import sizes

    path = folders.place(instance.volumes, name)
    if space and not space.problem:
        return space.used
    measure = sizes.upper_size if folders_too else sizes.written_size
    return measure(path if disks.has_image(path) else f"{path}/{DATA}")  # a damaged image, or the files


def data_size(instance: Instance, name: str) -> int:
    """Bytes that are lost if a volume is removed; 0 if it has no files."""
    seen = observed_at(name, folders.place(instance.volumes, name), disks.Disks())
    return 0 if seen.empty else size(instance, name, seen.space, folders_too=False)


def tree(instance: Instance, name: str) -> int:
    """The fd of a detached mount of the directory with the files of a volume, as it is stored.

    FailedError, or OSError, if it cannot be mounted. An image stays attached as long as it is mounted.
    """
    path = folders.place(instance.volumes, name)
    if disks.has_image(path):
        from vsprov.store.space import shared

        return shared.tree(path)
    data = os.open(f"{path}/{DATA}", FOLDER)
    try:
        return syscall.open_tree(data, "", syscall.AT_EMPTY_PATH | syscall.OPEN_TREE_CLONE)
    finally:
        os.close(data)


def has_image(instance: Instance, name: str) -> bool:
    """Whether the files of a volume are in an image, so that mounting it may take a while."""
    return disks.has_image(folders.place(instance.volumes, name))
