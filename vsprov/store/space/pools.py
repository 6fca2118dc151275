"""The disk limits of pools: a project, or a quota group of btrfs, that all servers of a pool are in.

    pools/<name>.disk     its backend and its number, sealed; and once more as its mark `disk`

The number, one of `project.OF_POOLS` for quota groups too, is recorded before the kernel knows anything by
it, and until it does not any more: a crash leaves nothing that nobody knows of.
"""

from __future__ import annotations

import hashlib
import os
from itertools import chain

from msgspec import Struct

from vsprov.errors import FailedError
from vsprov.kernel import paths, syscall
from vsprov.kernel.storage import btrfs, quota
from vsprov.model.disk_backends import PROJECT, QGROUP, SHARED
from vsprov.plan.seen_disk import SeenDisk
from vsprov.store.disk import durable, folders, marks, ownership, sealed
from vsprov.store.disk.marks import Owner
from vsprov.store.instance import DISK_OF_POOL, Instance
from vsprov.store.space import project
from vsprov.store.space.project import OF_POOLS

MARK = "disk"


class Group(Struct, frozen=True):
    """The project or quota group of a pool."""

    backend: str
    number: int


def find(instance: Instance, name: str) -> Group | None:
    """The project or quota group of a pool; None if its disk was never limited, or nothing of the file can be
    read.
    """
    path = f"{instance.pools}/{name}{DISK_OF_POOL}"
    found, _ = sealed.read(path)
    if found:
        return Group(str(found["backend"]), int(found["number"]))
    # If it is damaged, the pool must not get another number: nobody would ever remove this one.
    backend, _, number = (marks.find_mark(path, MARK) or "").partition(" ")
    known = backend in SHARED and number.isdecimal() and int(number) in OF_POOLS
    return Group(backend, int(number)) if known else None


def must_find(instance: Instance, name: str) -> Group:
    """The same of a pool that has one. FailedError otherwise."""
    found = find(instance, name)
    if found is None:
        raise FailedError(f"Quota/{name}: {instance.pools}/{name}{DISK_OF_POOL} is missing or damaged")
    return found


def observe(instance: Instance) -> dict[str, SeenDisk]:
    """{pool: its limit, and what its servers use together} of the pools whose disk is, or was, limited."""
    names = (file for file in folders.names(instance.pools) if file.endswith(DISK_OF_POOL))
    found = {name: find(instance, name) for name in (file.removesuffix(DISK_OF_POOL) for file in names)}
    return {name: _observe(instance, group) for name, group in found.items() if group}


def _observe(instance: Instance, group: Group) -> SeenDisk:
    number = (group.number,)
    with paths.opened(instance.pools) as fd:
        if group.backend == PROJECT:
            has = quota.find(fd, group.number)
            used = (has.used, has.used_inodes, has.inodes)
            return SeenDisk(PROJECT, has.space, has.inodes or None, *used, attached=True, pools=number)
        there = btrfs.find(fd, btrfs.above(group.number)) or btrfs.Group(0, 0)
        return SeenDisk(QGROUP, there.limit, None, there.used, None, None, attached=True, pools=number)


def limit(instance: Instance, name: str, owner: Owner, backend: str, space: int, inodes: int | None) -> None:
    """Limit what the servers of a pool write together; 0 and None for no limit."""
    found = find(instance, name)
    if found and found.backend != backend:
        release(instance, name)
        found = None
    path = f"{instance.pools}/{name}{DISK_OF_POOL}"
    try:
        with paths.opened(instance.pools) as fd:
            number = found.number if found else _choose(fd, instance, name, backend)
            if not found:
                written = sealed.seal({"backend": backend, "number": number})
                durable.write_file(path, written, owner=owner, more={MARK: f"{backend} {number}"})
            if backend == PROJECT:
                quota.set_limits(fd, number, space, inodes or 0)
            else:
                btrfs.set_limit(fd, btrfs.above(number), space)  # which creates it
    except OSError as error:
        raise durable.failed(path, "limit the disk of the pool", error) from error


def _choose(fd: int, instance: Instance, name: str, backend: str) -> int:
    """A number that nobody has. It is derived from the names, so that two instances do not choose the same
    one at once.
    """
    digest = hashlib.sha256(f"{instance.name}/{name}".encode()).digest()
    first = int.from_bytes(digest[:4], "big") % len(OF_POOLS)
    for number in chain(OF_POOLS[first:], OF_POOLS[:first]):
        if backend == PROJECT and quota.find(fd, number) == quota.Quota(0, 0):
            return number
        if backend == QGROUP and btrfs.find(fd, btrfs.above(number)) is None:
            return number
    raise FailedError(f"Quota/{name}: no project or quota group is left for it")


def release(instance: Instance, name: str) -> None:
    """Remove the project or the quota group of a pool that no server is in any more."""
    found = find(instance, name)
    path = folders.place(instance.pools, name, DISK_OF_POOL)
    try:
        if found and found.backend == PROJECT:
            project.release(instance.pools, found.number)
        elif found:
            with paths.opened(instance.pools) as fd:
                _remove_group(fd, btrfs.above(found.number))
        ownership.refuse_foreign(path, instance.name, f"Quota/{name}")
        os.unlink(path)
        durable.flush_folder(instance.pools)
    except FileNotFoundError:
        return
    except OSError as error:
        raise durable.failed(path, "remove the limit of the pool", error) from error


def _remove_group(fd: int, group: int) -> None:
    """Remove a quota group. The groups of subvolumes that the kernel has not removed yet may be in it."""
    members = btrfs.members(fd, group)
    if members:
        syscall.syncfs(fd)  # then it is known that they have nothing
    unknown = [btrfs.take_out(fd, member, group) for member in members]
    btrfs.remove_group(fd, group)
    if any(unknown):
        btrfs.count_again(fd)
