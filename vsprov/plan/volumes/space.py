"""Limits of volumes: what differs, the step that changes it, and what is refused.

The backends are those of servers, see `plan.servers.disk`. Unlike a server, a volume keeps its files when it
gets a limit, loses it, or gets another backend: they are copied. That, and whatever else takes place only
while the file system of an image is not mounted, is refused while a server uses the volume.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from vsprov.errors import Problem
from vsprov.model.cost import Cost
from vsprov.model.disk_backends import IMAGE, PROJECT, QGROUP
from vsprov.model.kinds.volume import Volume
from vsprov.model.objects import read_spec
from vsprov.model.values.units import format_bytes, format_number, format_rough
from vsprov.plan.aspects.mounts import MOUNTS
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.limits.disk import MOST_INODES, DiskLimit, Keys, choose, impossible, unsupported
from vsprov.plan.observed import Machine
from vsprov.plan.plan import PathChange, change
from vsprov.plan.seen_disk import SeenDisk
from vsprov.plan.step import Step
from vsprov.plan.volumes.state import UNLIMITED, ObservedVolume, Space
from vsprov.plan.volumes.steps import MoveVolume, ResizeVolume

QUOTAS = (PROJECT, QGROUP)
KEYS = ("size", "inodes", "backend")
OF_VOLUME = Keys("volumes", "spec.size", "spec.inodes", "spec.backend")


class SpaceDelta(Struct, frozen=True):
    """What differs, the step that changes it, and why that cannot be."""

    paths: tuple[PathChange, ...] = ()
    step: Step | None = None
    problems: tuple[Problem, ...] = ()


def limit_of(spec: Volume) -> DiskLimit | None:
    """The limit of a volume; None if it has none."""
    return DiskLimit.of(spec.limits())


def recorded(seen: ObservedVolume) -> DiskLimit | None:
    """The limit that a volume was applied with."""
    if not any(key in seen.spec for key in KEYS):
        return None
    spec = read_spec("Volume", {key: seen.spec[key] for key in KEYS if key in seen.spec})
    assert isinstance(spec, Volume)
    return limit_of(spec)


def wanted(limit: DiskLimit | None, disk: SeenDisk | None, machine: Machine) -> Space:
    """What is to limit a volume; its backend is "" if nothing does."""
    if limit is None:
        return UNLIMITED
    return Space(choose(limit, disk, machine), limit.space or 0, limit.inodes)


def users(builder: PlanBuilder, name: str) -> tuple[str, ...]:
    """The servers that have a volume mounted, under the name that it is to have."""
    return tuple(
        sorted(
            server
            for server, seen in builder.observed.servers.items()
            if any(one.volume == name for one in seen.live.get(MOUNTS, ()))
        )
    )


def create(address: str, spec: Volume, machine: Machine) -> tuple[Space, tuple[Problem, ...]]:
    """(what limits a new volume, why it cannot)."""
    limit = limit_of(spec)
    if limit is None:
        return UNLIMITED, ()
    space = wanted(limit, None, machine)
    problems = (
        *impossible(address, space.backend, space.space, space.inodes, OF_VOLUME),
        *unsupported(address, limit, space.backend, machine, OF_VOLUME),
    )
    return space, problems


def compare(
    address: str, spec: Volume, seen: ObservedVolume, machine: Machine, used_by: tuple[str, ...]
) -> SpaceDelta:
    """The limit of a volume compared with what is on disk and in the kernel."""
    limit, disk = limit_of(spec), seen.space
    if limit is None and disk is None:
        return SpaceDelta()
    before = Space(disk.backend, disk.space, disk.inodes) if disk else UNLIMITED
    after = wanted(limit, disk, machine)
    if limit and before.backend != after.backend:
        if refused := tuple(unsupported(address, limit, after.backend, machine, OF_VOLUME)):
            return SpaceDelta(problems=refused)
    step = _step(seen, before, after, machine)
    problems = tuple(_problems(address, before, after, disk, step, used_by, machine))
    cost: Cost = "restart" if _takes_restart(step, used_by) else "live"
    return SpaceDelta(tuple(_paths(before, after, limit, recorded(seen), cost)), step, problems)


def _takes_restart(step: Step | None, used_by: tuple[str, ...]) -> bool:
    """Whether the servers that use the volume have to be stopped for a step."""
    return bool(step and used_by) and not (isinstance(step, ResizeVolume) and step.live)


def _step(seen: ObservedVolume, before: Space, after: Space, machine: Machine) -> Step | None:
    if before == after:
        return None
    if before.backend == after.backend == IMAGE and before.inodes == after.inodes:
        return ResizeVolume(seen.name, before, after, _is_live(seen.space, after, machine))
    # A quota can be taken away at any time. It can be set where there are no files yet, or where it was.
    lifted = before.backend in QUOTAS and after == UNLIMITED
    was_limited = recorded(seen) is not None or (seen.empty and after.backend == PROJECT)
    set_again = before == UNLIMITED and after.backend in QUOTAS and was_limited
    if lifted or set_again or (before.backend == after.backend and before.backend in QUOTAS):
        backend = before.backend or after.backend
        return ResizeVolume(seen.name, _by_quota(before, backend), _by_quota(after, backend), True)
    return MoveVolume(seen.name, before, after)


def _by_quota(space: Space, backend: str) -> Space:
    return space if space.backend else Space(backend)


def _is_live(disk: SeenDisk | None, after: Space, machine: Machine) -> bool:
    """Whether servers that have an image mounted keep it mounted. Growing needs CAP_SYS_RESOURCE."""
    if disk is None or not disk.attached:
        return False
    return after.space == disk.file_system or (after.space > disk.file_system and not machine.ceilings)


def _paths(
    before: Space, after: Space, limit: DiskLimit | None, recorded: DiskLimit | None, cost: Cost
) -> Iterator[PathChange]:
    if before.space != after.space:
        old, new = before.space or None, after.space or None
        shown = tuple("—" if value is None else format_bytes(value) for value in (old, new))
        yield PathChange("spec.size", old, new, cost, (shown[0], shown[1]))
    if (old := before.inodes) != (new := after.inodes):
        shown = tuple("—" if value is None else format_number(value) for value in (old, new))
        yield PathChange("spec.inodes", old, new, cost, (shown[0], shown[1]))
    if before.backend and after.backend and before.backend != after.backend:
        yield change("spec.backend", before.backend, after.backend, cost)
    elif limit and recorded and limit.backend != recorded.backend:
        yield change("spec.backend", recorded.backend, limit.backend, "none")


def _problems(
    address: str,
    before: Space,
    after: Space,
    disk: SeenDisk | None,
    step: Step | None,
    used_by: tuple[str, ...],
    machine: Machine,
) -> Iterator[Problem]:
    yield from impossible(address, after.backend, after.space, after.inodes, OF_VOLUME)
    hint = "remove files from it, or choose a higher limit"
    if disk and after.space and after.space < disk.used and after.space != before.space:
        less = f"{format_bytes(after.space)} is less than what the volume contains"
        yield Problem(f"{less}, {format_rough(disk.used)}", None, "spec.size", address, hint)
    elif disk and (after.inodes or MOST_INODES) < disk.written_inodes and after.inodes != before.inodes:
        message = f"{after.inodes} is less than what the volume contains, {disk.written_inodes}"
        yield Problem(message, None, "spec.inodes", address, hint)
    elif step and _takes_restart(step, used_by):
        yield _in_use(address, before, after, disk, step, used_by)


def _in_use(
    address: str, before: Space, after: Space, disk: SeenDisk | None, step: Step, used_by: tuple[str, ...]
) -> Problem:
    names, contains = ", ".join(f"Server/{name}" for name in used_by), ""
    if isinstance(step, MoveVolume):
        path = "spec.size" if before.space != after.space else "spec.inodes"
        path = (
            "spec.backend" if before.backend and after.backend and before.backend != after.backend else path
        )
        why = "its files have to be copied, which is not possible while servers use it"
    elif after.space < before.space:
        path = "spec.size"
        why = f"{format_bytes(before.space)} → {format_bytes(after.space)}: "
        why += "the file system of an image shrinks only while it is not mounted"
        contains = f"; it contains {format_rough(disk.used)}" if disk else ""
    else:
        path = "spec.size"
        why = f"{format_bytes(before.space)} → {format_bytes(after.space)}: "
        why += "growing a mounted file system requires CAP_SYS_RESOURCE, which vsprov does not have here"
    hint = f"vsprov stop {' '.join(used_by)}; then apply, which starts them again"
    return Problem(f"{why}: mounted by {names}{contains}", None, path, address, hint)


def without(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec without the keys that limit the volume."""
    return {key: given for key, given in spec.items() if key not in KEYS}


def shown(spec: Mapping[str, Any], disk: SeenDisk | None) -> dict[str, Any]:
    """The spec of a volume with the limits that it has now."""
    if disk is None or disk.problem:
        return dict(spec) if disk else without(spec)
    limits = {"size": disk.space or None, "inodes": disk.inodes}
    return {**spec, **{key: given for key, given in limits.items() if given is not None}}
