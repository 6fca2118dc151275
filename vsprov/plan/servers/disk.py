"""Limits of what a server writes to its disk: what differs, the steps, and what is refused.

A backend limits it (`disk.backend`): `project` and `qgroup` are quotas, which can be changed at any time.
`image` is a file system of its own, in a file in the directory of the server. It grows while it is mounted
and shrinks while it is not. What cannot be changed in place, the backend and the number of inodes of an
image, takes a new disk, to which the files are copied while the server is stopped. The backend `auto` stays
what it is for servers that exist.

What a server writes may count in a limit that it shares with its pool (`plan.limits.pool_disk`): in the
project of the pool, which takes a new disk too, or in its quota group, beside that of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from vsprov.errors import Problem
from vsprov.model.disk_backends import AUTO, IMAGE, PROJECT, QGROUP, UNLIMITED
from vsprov.model.kinds.server import Server
from vsprov.model.limits.resources import read_resources
from vsprov.model.values.units import format_bytes, format_number, format_rough
from vsprov.plan.limits.disk import GROUP, MOST_INODES, DiskLimit, Keys, choose, impossible, unsupported
from vsprov.plan.limits.pool_disk import Share, refused_beside
from vsprov.plan.observed import Machine, ObservedServer
from vsprov.plan.plan import PathChange, change
from vsprov.plan.seen_disk import SeenDisk
from vsprov.plan.servers.disk_steps import ForgetDisk, MakeDisk, MoveDisk, ResizeDisk, ShareDisk
from vsprov.plan.step import Step

SPACE, INODES, BACKEND = (
    "spec.resources.disk.space",
    "spec.resources.disk.inodes",
    "spec.resources.disk.backend",
)
POOL = "status.disk.pool"  # in whose limit it counts
OF_SERVER = Keys("disks", SPACE, INODES, BACKEND)


class DiskDelta(Struct, frozen=True):
    """What differs: the `paths` of a server that exists, the steps for a `new` directory, those for the one
    that it has, and those when the server has `started`.
    """

    paths: tuple[PathChange, ...] = ()
    new: tuple[Step, ...] = ()
    steps: tuple[Step, ...] = ()
    started: tuple[Step, ...] = ()

    def while_stopped(self) -> tuple[Step, ...]:
        """The steps for a server that something else restarts."""
        return tuple(
            replace(step, live=False) if isinstance(step, ResizeDisk) else step for step in self.steps
        )


def compare(
    name: str,
    spec: Server,
    seen: ObservedServer,
    machine: Machine,
    ignore: frozenset[str],
    share: Share | None = None,
) -> DiskDelta:
    """The limit of a server, and what it shares with its pool, compared with what is on disk and in the
    kernel.

    If `disk.space` is among the knobs to `ignore`, it is only set when the disk is created.
    """
    share, disk = share or Share(), seen.space
    own = _wanted(spec, seen, ignore)
    limit = _within(own, share)
    if limit is None:
        return _without(name, disk, share, runs=seen.init is not None) if disk else DiskDelta()
    backend, pool = choose(limit, disk, machine), share.pool if share.limited else ""
    new = (MakeDisk(name, backend, limit.space or 0, limit.inodes, pool),)
    if not seen.directory:
        return DiskDelta(new=new)
    if disk is None and not pool:
        return _unlimited(name, limit, backend, seen, new)
    if disk is None:
        return _move(name, backend, limit, [*_counted(disk, share, "restart")], new, share)
    paths = [*_resized(limit, disk, "restart")]
    counts = share.allows(disk) or disk.problem
    remade = backend == IMAGE and limit.inodes != disk.inodes and not disk.problem
    if disk.backend != backend or remade or (backend == PROJECT and not counts):
        paths = [*_moved(limit, backend, disk), *paths]
        paths += [] if counts and disk.backend == backend else _counted(disk, share, "restart")
        return _move(name, backend, limit, paths, new, share)
    if seen.init and not disk.attached:
        replaced = change("status.disk", "removed or replaced since the start", "mounted", "restart")
        return DiskDelta((replaced, *paths), new, _resize(name, limit, disk, False))
    live = _is_live(limit, disk, machine)
    paths = [*_resized(limit, disk, "live" if live else "restart")]
    paths += _without_effect(own, _recorded(seen), disk) if own else ()
    if seen.init and disk.read_only:
        paths.append(change("status.disk", "read-only after an I/O error", "writable", "restart"))
    steps = _resize(name, limit, disk, live and seen.init is not None)
    if not counts:
        paths += _counted(disk, share, "live")
        steps += (ShareDisk(name, pool, share.before(disk)),)
    return DiskDelta(tuple(paths), new, steps)


def _within(own: DiskLimit | None, share: Share) -> DiskLimit | None:
    """The limit of a server by the backend of its pool, if that is limited."""
    if not share.limited:
        return own
    return replace(own, backend=share.backend) if own else DiskLimit(share.backend, None, None)


def _counted(disk: SeenDisk | None, share: Share, cost: Any) -> Iterator[PathChange]:
    """The pools in whose limits a server counts, if others than it should."""
    before, after = share.before(disk), share.pool if share.limited else ""
    if before != after:
        yield change(POOL, before or None, after or None, cost)
    elif disk and not share.allows(disk):
        yield change(POOL, f"{before} in part", after, cost)


def _unlimited(
    name: str, limit: DiskLimit, backend: str, seen: ObservedServer, new: tuple[Step, ...]
) -> DiskDelta:
    """A server that has no limit, although one may be recorded."""
    if _recorded(seen) is None or seen.unlimited:
        return _move(name, backend, limit, [_space(None, limit, "restart")], new)
    if backend == PROJECT:
        return DiskDelta((change("status.disk", "missing", "present", "live"),), new, new)
    lost = change("status.disk", "missing", "empty; what the server had written is lost", "restart")
    return DiskDelta((lost,), new, new)


def _without(name: str, disk: SeenDisk, share: Share, *, runs: bool) -> DiskDelta:
    """A server that is not limited any more: a quota is only taken from what it has written."""
    if disk.backend == IMAGE:
        return _move(name, UNLIMITED, None, [_space(disk, None, "restart")])
    paths, steps = list[PathChange](), list[Step]()
    if share.leaves(disk) and disk.backend == PROJECT:
        return _move(name, UNLIMITED, None, _counted(disk, share, "restart"))
    if disk.space or disk.inodes is not None:
        paths.append(_space(disk, None, "live"))
        steps.append(ResizeDisk(name, disk.backend, 0, None, (disk.space, disk.inodes), runs))
    if share.leaves(disk):
        paths += _counted(disk, share, "live")
        steps.append(ShareDisk(name, "", share.before(disk)))
    return DiskDelta(tuple(paths), (), tuple(steps))


def _move(
    name: str,
    backend: str,
    limit: DiskLimit | None,
    paths: Iterable[PathChange],
    new: tuple[Step, ...] = (),
    share: Share | None = None,
) -> DiskDelta:
    space, inodes = ((limit.space or 0), limit.inodes) if limit else (0, None)
    step = MoveDisk(name, backend, space, inodes)
    if share and share.limited:
        step = replace(step, pool=share.pool, room=share.room)
    return DiskDelta(tuple(paths), new, (step,), (ForgetDisk(name),))


def _moved(limit: DiskLimit, backend: str, disk: SeenDisk) -> Iterator[PathChange]:
    """Why a new disk is needed."""
    if disk.backend != backend:
        yield change(BACKEND, disk.backend, backend, "restart")
    if backend == IMAGE and limit.inodes != disk.inodes:
        shown = (_number(disk.inodes), _number(limit.inodes))
        yield PathChange(INODES, disk.inodes, limit.inodes, "restart", shown)


def _wanted(spec: Server, seen: ObservedServer, ignore: frozenset[str]) -> DiskLimit | None:
    limit = DiskLimit.of(spec.resources)
    keeps = limit and seen.space and f"{GROUP}space" in ignore
    return replace(limit, space=seen.space.space) if limit and seen.space and keeps else limit


def _recorded(seen: ObservedServer) -> DiskLimit | None:
    recorded = seen.applied["spec"].get("resources", {}) if seen.applied else {}
    return DiskLimit.of(read_resources(recorded))


def _is_live(limit: DiskLimit, disk: SeenDisk, machine: Machine) -> bool:
    """Whether the limit can change while the server runs. Growing a file system needs CAP_SYS_RESOURCE."""
    space = limit.space or 0
    grows = space > disk.file_system and not machine.ceilings
    return disk.backend != IMAGE or space == disk.file_system or grows


def _resized(limit: DiskLimit, disk: SeenDisk, cost: Any) -> Iterator[PathChange]:
    if disk.problem:
        return
    if (limit.space or 0) != disk.space:
        yield _space(disk, limit, cost)
    if disk.backend == PROJECT and limit.backend in (AUTO, PROJECT) and limit.inodes != disk.inodes:
        shown = (_number(disk.inodes), _number(limit.inodes))
        yield PathChange(INODES, disk.inodes, limit.inodes, "live", shown)


def _resize(name: str, limit: DiskLimit, disk: SeenDisk, live: bool) -> tuple[Step, ...]:
    if not list(_resized(limit, disk, "live")):
        return ()
    before = (disk.space, disk.inodes)
    return (ResizeDisk(name, disk.backend, limit.space or 0, limit.inodes, before, live),)


def _without_effect(limit: DiskLimit, before: DiskLimit | None, disk: SeenDisk) -> Iterator[PathChange]:
    """Keys that are recorded otherwise and change nothing: a backend that it has already."""
    if before and before.backend != limit.backend and limit.backend in (AUTO, disk.backend):
        yield change(BACKEND, before.backend, limit.backend, "live")


def _number(inodes: int | None) -> str:
    return "—" if inodes is None else format_number(inodes)


def _space(disk: SeenDisk | None, limit: DiskLimit | None, cost: Any) -> PathChange:
    """The change of a limit; only the number of inodes of a server may be limited."""
    before, after = (disk.space or None) if disk else None, limit.space if limit else None
    if before is None and after is None:
        old, new = disk.inodes if disk else None, limit.inodes if limit else None
        return PathChange(INODES, old, new, cost, (_number(old), _number(new)))
    shown = ["—" if value is None else format_bytes(value) for value in (before, after)]
    return PathChange(SPACE, before, after, cost, (shown[0], shown[1]))


def problems(
    address: str,
    spec: Server,
    seen: ObservedServer,
    machine: Machine,
    ignore: frozenset[str],
    share: Share | None = None,
) -> Iterator[Problem]:
    """Why the limit cannot be what is wanted."""
    own, disk = _wanted(spec, seen, ignore), seen.space
    if own is None:
        return
    if share and (refused := [*refused_beside(address, own, share, OF_SERVER)]):
        yield from refused
        return
    limit = _within(own, share or Share()) or own
    backend = choose(limit, disk, machine)
    # Its quotas may have been disabled meanwhile.
    if disk is None or disk.backend != backend or (backend == QGROUP and not disk.space):
        yield from unsupported(address, limit, backend, machine, OF_SERVER)
    yield from impossible(address, backend, limit.space, limit.inodes, OF_SERVER)
    if disk is None:
        return
    if disk.problem and (spec.state == "Running" or disk.backend != backend):
        hint = "restore the file from a backup, or destroy the server"
        yield Problem(disk.problem, None, "status.disk", address, hint)
    elif limit.space is not None and limit.space < disk.used and limit.space != disk.space:
        yield too_small(address, limit.space, disk.used)
    elif (limit.inodes or MOST_INODES) < disk.written_inodes and limit.inodes != disk.inodes:
        yield too_few(address, limit.inodes or 0, disk.written_inodes)


def too_small(address: str, space: int, used: int) -> Problem:
    """A limit below what is in use."""
    message = f"{format_bytes(space)} is less than what the server uses, {format_rough(used)}"
    return Problem(message, None, SPACE, address, "remove files in the server, or choose a higher limit")


def too_few(address: str, inodes: int, used: int) -> Problem:
    """A limit below the number of inodes in use."""
    message = f"{inodes} is less than what the server uses, {used}"
    return Problem(message, None, INODES, address, "remove files in the server, or choose a higher limit")


def no_room(address: str, pool: str, used: str, room: str) -> Problem:
    """A pool that cannot take what a server has written."""
    message = f"the server uses {used}, but the limit of pool {pool} leaves {room}"
    hint = "remove files in the servers, or raise the limit of the pool"
    return Problem(message, None, POOL, address, hint)


def notes(paths: Iterable[PathChange], machine: Machine) -> tuple[str, ...]:
    """Why a change of the limit needs a restart."""
    paths = tuple(path for path in paths if path.cost == "restart")
    if any(
        path.path in (BACKEND, INODES, POOL) or (path.path == SPACE and None in (path.before, path.after))
        for path in paths
    ):
        return ("restart needed: the files of the server are moved to a new disk",)
    for path in paths:
        if path.path == SPACE and isinstance(path.before, int):
            if isinstance(path.after, int) and path.after < path.before:
                return ("restart needed: the file system of an image shrinks only while it is not mounted",)
            if machine.ceilings:
                return (
                    "restart needed: growing a mounted file system requires CAP_SYS_RESOURCE, which vsprov "
                    "does not have here",
                )
    return ()
