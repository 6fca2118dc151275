"""Checks on the host whether servers can start, before running servers are stopped for a restart."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any

from vsprov.engine.look.situation import Situation
from vsprov.errors import Problem, reason
from vsprov.kernel import paths
from vsprov.model.defaults import init_of, lacks_command
from vsprov.model.kinds.sections.mounts import Mount
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.plan.aspects.mounts import ChangeVolume
from vsprov.plan.builder import Wanted
from vsprov.plan.observed import ObservedServer
from vsprov.plan.plan import Change, Plan
from vsprov.plan.reconcile import reconcile
from vsprov.plan.seen_disk import SeenDisk
from vsprov.plan.steps import Spawn


def plan(wanted: Wanted, now: Situation) -> Plan:
    """The plan for the wanted state, with restarts where a process keeps a volume from being unmounted."""
    made = reconcile(wanted, now.observed, now.machine)
    if any(map(_unmounts_volumes, made.changes)):
        from vsprov.engine.volumes import in_use

        if marked := in_use.mark(made, now):
            return reconcile(wanted, marked, now.machine)
    return made


def problems(
    root: str,
    plan: Plan,
    objects: tuple[Object, ...],
    seen: Mapping[str, ObservedServer],
    image_config: Callable[[str], Mapping[str, Any] | None],
) -> Iterator[Problem]:
    """The reasons why servers that the plan starts could not start; `root` is the state root, and `seen` are
    the servers by name.

    `image_config` returns the defaults of an image by its name; None if they are not known yet.
    """
    starting = {step.server for change in plan.changes for step in change.steps if isinstance(step, Spawn)}
    moved = [change for change in plan.changes if any(path.path.startswith(_DISK) for path in change.paths)]
    if moved:
        known = {(problem.subject, problem.path) for problem in plan.problems}
        for problem in _of_disks(root, moved, seen):
            if (problem.subject, problem.path) not in known:
                yield problem
    servers = [
        (want, want.spec) for want in objects if isinstance(want.spec, Server) and want.name in starting
    ]
    mounts_volumes = any(mount.type == "volume" for _, spec in servers for mount in spec.mounts)
    if mounts_volumes or any(map(_is_of_volumes, plan.changes)):
        from vsprov.engine.volumes import preflight

        yield from preflight.problems(root, plan, objects)
    if not servers:
        return
    from vsprov.engine.guests import host_sources

    silent = host_sources.unanswered(
        [mount.source for _, spec in servers for mount in spec.mounts if _is_bind(mount) and mount.source]
    )
    yield from _of_root(root)
    for want, spec in servers:
        yield from _of_server(want.address, spec, silent)
        config = image_config(spec.image)
        if config is not None and not init_of(spec.init, config).command:
            hint = "init: {command: [/bin/sh, -c, …]}"
            yield Problem(lacks_command(spec.image), None, "spec.init.command", want.address, hint)


def _is_of_volumes(change: Change) -> bool:
    """Whether a change creates or changes a volume, or mounts one in a running server."""
    changes = change.kind == "Volume" and change.action in ("create", "update")
    return changes or any(isinstance(step, ChangeVolume) and step.after for step in change.steps)


def _unmounts_volumes(change: Change) -> bool:
    """Whether a change takes a volume from a running server."""
    return any(isinstance(step, ChangeVolume) and step.before for step in change.steps)


def _is_bind(mount: Mount) -> bool:
    return mount.type == "bind"


def _of_root(root: str) -> Iterator[Problem]:
    from vsprov.kernel import overlay

    place = paths.existing(root)
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        return  # the kernel answers EINVAL; an apply says that it is read-only, before it stops anything
    try:
        overlay.refuse_upper(place)
    except OSError as error:
        message = f"state root {root}: {reason(error)}"
        yield Problem(message, None, "", "Host", "choose another --root; see vsprov doctor", lack=True)


_DISK = ("spec.resources.disk.", "status.disk.pool")


def _of_disks(root: str, changes: Iterable[Change], seen: Mapping[str, ObservedServer]) -> Iterator[Problem]:
    """Whether what servers have written fits in the disks that they are moved to, and in what is left of the
    limits of pools.
    """
    from vsprov.model.values.units import format_rough
    from vsprov.plan.servers import disk, disk_steps

    left: dict[str, disk_steps.Room] = {}
    for change in changes:
        for step in change.steps:
            if not isinstance(step, disk_steps.MoveDisk):
                continue
            now = seen.get(change.name)
            used, inodes = _written(
                f"{os.path.realpath(root)}/servers/{change.name}", now.space if now else None
            )
            if 0 < step.space < used:
                yield disk.too_small(change.address, step.space, used)
            if step.inodes is not None and step.inodes < inodes:
                yield disk.too_few(change.address, step.inodes, inodes)
            room, room_inodes = left.get(step.pool, step.room)
            if room is not None and used > room:
                yield disk.no_room(change.address, step.pool, format_rough(used), format_rough(room))
            elif room_inodes is not None and inodes > room_inodes:
                counts = f"{inodes} inodes", str(room_inodes)
                yield disk.no_room(change.address, step.pool, *counts)
            left[step.pool] = (
                None if room is None else max(0, room - used),
                None if room_inodes is None else max(0, room_inodes - inodes),
            )


def _written(folder: str, disk: SeenDisk | None) -> tuple[int, int]:
    """The bytes and inodes that a server has written, at least. The file system of an image knows it."""
    from vsprov.store.layers import sizes
    from vsprov.store.space.disks import has_image, place

    if not has_image(folder):
        return sizes.written(f"{place(folder)}/upper")
    return (disk.used, disk.written_inodes) if disk else (0, 0)


def _of_server(address: str, spec: Server, silent: Container[str]) -> Iterator[Problem]:
    from vsprov.engine.guests import host_sources
    from vsprov.engine.guests.request import find_reaper

    if spec.init.reaper and find_reaper() is None:
        message = "neither catatonit nor tini is installed on the host"
        yield Problem(message, None, "spec.init.reaper", address, "apt install catatonit")
    for index, mount in enumerate(spec.mounts):
        if not _is_bind(mount) or mount.source is None:
            continue
        refused = (
            host_sources.no_answer(mount.source) if mount.source in silent else host_sources.problem(mount)
        )
        if refused:
            where = f"spec.mounts[{index}].source"
            yield Problem(refused.message, None, where, address, refused.hint)
