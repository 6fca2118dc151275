"""The limit of what the servers of a pool write together: what differs, the steps, and what is refused.

The backends that can do it are quotas, so it changes at any time. A pool keeps its project or quota group
when it has no limit any more, and its servers stay in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct, field

from vsprov.errors import Problem
from vsprov.model.disk_backends import AUTO, HINT_IMAGE, IMAGE, NO_IMAGE, PROJECT, QGROUP, SHARED, UNLIMITED
from vsprov.model.values.units import MAX, format_bytes, format_number, format_rough
from vsprov.plan.limits.disk import MOST_INODES, DiskLimit, Keys, choose, impossible, unsupported
from vsprov.plan.observed import Machine, ObservedGroup
from vsprov.plan.plan import PathChange
from vsprov.plan.seen_disk import SeenDisk
from vsprov.plan.servers.disk_steps import Room
from vsprov.plan.step import Step

SPACE, INODES, BACKEND = "spec.disk.space", "spec.disk.inodes", "spec.disk.backend"
OF_POOL = Keys("what several servers write together", SPACE, INODES, BACKEND, SHARED)
_HINT = "remove files in its servers, or choose a higher limit"


class LimitPool(Step, frozen=True):
    """Limit what the servers of a pool write together; 0 and None for no limit. `before` is the step that
    would set what there is now, None if the pool has no project or quota group yet.
    """

    pool: str
    owner: str
    backend: str
    space: int
    inodes: int | None
    before: LimitPool | None = None

    def describe(self) -> str:
        limits = [format_bytes(self.space)] if self.space else []
        limits += [f"{format_number(self.inodes)} inodes"] if self.inodes else []
        return f"limit the disk of pool {self.pool} to {', '.join(limits) or MAX} ({self.backend})"

    def undo(self) -> Step | None:
        return self.before or ReleasePool(self.pool)


class ReleasePool(Step, frozen=True):
    """Remove the project or quota group of a pool that has no servers any more."""

    pool: str

    def describe(self) -> str:
        return f"remove the disk limit of pool {self.pool}"


class Share(Struct, frozen=True):
    """What a server shares with the others of its `pool`, "" for none: the backend that limits it, UNLIMITED
    for none, and the number of its project or quota group, 0 if it has none yet. `names` are those of all
    pools by their numbers. `room` are the bytes, and the inodes, that are left of the limit, None without
    one.
    """

    pool: str = ""
    backend: str = UNLIMITED
    number: int = 0
    names: Mapping[int, str] = field(default_factory=dict)
    room: Room = (None, None)

    @property
    def limited(self) -> bool:
        return self.backend != UNLIMITED

    def allows(self, disk: SeenDisk) -> bool:
        """Whether a server counts where it has to. It may stay in a quota group that has no limit any more;
        but the files in a project have no other limit.
        """
        if self.limited or (disk.backend == QGROUP and disk.pools):
            return self.number != 0 and disk.pools == (self.number,)
        return not disk.pools

    def leaves(self, disk: SeenDisk) -> bool:
        """Whether a server that is to have no limit has to leave a project or a quota group."""
        return bool(disk.pools) and disk.pools != (self.number,)

    def before(self, disk: SeenDisk | None) -> str:
        """The pools that a server counts in; "" for none."""
        return ", ".join(
            self.names.get(number, str(number)) for number in (disk.pools if disk else ()) if number
        )


def share_of(
    pool: str | None, resources: Mapping[str, Any], pools: Mapping[str, ObservedGroup], machine: Machine
) -> Share:
    """What a server in a pool with these resources shares with the others; `pools` are those that exist."""
    names = {seen.space.pools[0]: name for name, seen in pools.items() if seen.space}
    if pool is None:
        return Share(names=names)
    seen = pools[pool].space if pool in pools else None
    limit = DiskLimit.of(resources)
    backend = choose(limit, seen, machine, SHARED) if limit else UNLIMITED
    same = seen is not None and (backend == seen.backend or limit is None)
    used = (seen.used, seen.used_inodes or 0) if seen and same else (0, 0)
    most = (limit.space, limit.inodes) if limit else (None, None)
    room = (_left(most[0], used[0]), _left(most[1], used[1]))
    return Share(pool, backend, seen.pools[0] if seen and same else 0, names, room)


def _left(most: int | None, used: int) -> int | None:
    return None if most is None else max(0, most - used)


def is_lost(share: Share, resources: Mapping[str, Any]) -> bool:
    """Whether a pool with these resources should have a project or quota group, and has none."""
    return share.number == 0 and DiskLimit.of(resources) is not None


def compare(
    name: str, owner: str, resources: Mapping[str, Any], seen: SeenDisk | None, machine: Machine
) -> tuple[tuple[PathChange, ...], tuple[Step, ...]]:
    """(what differs of the limit of a pool, the steps)."""
    limit = DiskLimit.of(resources)
    if limit is None and seen is None:
        return (), ()
    backend = choose(limit, seen, machine, SHARED) if limit else seen.backend if seen else UNLIMITED
    space, inodes = ((limit.space or 0), limit.inodes) if limit else (0, None)
    if seen and seen.backend == backend and (seen.space, seen.inodes) == (space, inodes):
        return (), ()
    before = LimitPool(name, owner, seen.backend, seen.space, seen.inodes) if seen else None
    return tuple(_paths(seen, space, inodes)), (LimitPool(name, owner, backend, space, inodes, before),)


def _paths(seen: SeenDisk | None, space: int, inodes: int | None) -> Iterator[PathChange]:
    old, new = (seen.space or None) if seen else None, space or None
    if old != new:
        texts = tuple("—" if value is None else format_bytes(value) for value in (old, new))
        yield PathChange(SPACE, old, new, "live", (texts[0], texts[1]))
    old, new = seen.inodes if seen else None, inodes
    if old != new:
        texts = tuple("—" if value is None else format_number(value) for value in (old, new))
        yield PathChange(INODES, old, new, "live", (texts[0], texts[1]))


def problems(
    address: str, resources: Mapping[str, Any], seen: SeenDisk | None, machine: Machine
) -> Iterator[Problem]:
    """Why the limit of a pool cannot be what is wanted."""
    limit = DiskLimit.of(resources)
    if limit is None:
        return
    backend = choose(limit, seen, machine, SHARED)
    if backend == IMAGE:
        yield Problem(NO_IMAGE, None, BACKEND, address, HINT_IMAGE)
        return
    # Its quotas may have been disabled meanwhile.
    if seen is None or seen.backend != backend or (seen.space, seen.inodes) == (0, None):
        yield from unsupported(address, limit, backend, machine, OF_POOL)
    yield from impossible(address, backend, limit.space, limit.inodes, OF_POOL)
    if seen is None or seen.backend != backend:
        return
    if limit.space is not None and limit.space < seen.used and limit.space != seen.space:
        message = f"{format_bytes(limit.space)} is less than what its servers use, {format_rough(seen.used)}"
        yield Problem(message, None, SPACE, address, _HINT)
    elif (limit.inodes or MOST_INODES) < (seen.used_inodes or 0) and limit.inodes != seen.inodes:
        message = f"{limit.inodes} is less than what its servers use, {seen.used_inodes}"
        yield Problem(message, None, INODES, address, _HINT)


def refused_beside(address: str, own: DiskLimit, share: Share, keys: Keys) -> Iterator[Problem]:
    """Limits of a server of its own that are not possible beside the one that it shares."""
    if not share.limited:
        return
    if share.backend == PROJECT:
        key = keys.space if own.space is not None else keys.inodes
        message = (
            f"pool {share.pool} limits its disk by a project quota, and a file can be in one project only"
        )
        yield Problem(message, None, key, address, "omit it, or use another pool")
    elif own.backend not in (share.backend, AUTO):
        message = f"pool {share.pool} limits its disk by the backend {share.backend}"
        yield Problem(message, None, keys.backend, address, f"omit it, or use {share.backend}")
