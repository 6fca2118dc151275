"""Which processes use the volumes that a plan unmounts: the kernel would refuse that; it takes a restart."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

from msgspec.structs import replace

from vsprov.engine.look.situation import Situation
from vsprov.kernel import cgroup, proc
from vsprov.model.kinds.server import Server
from vsprov.plan.aspects.mounts import MOUNTS, ChangeVolume, MountedVolume, may_mount
from vsprov.plan.compare import applied
from vsprov.plan.observed import Observed, ObservedServer
from vsprov.plan.plan import Plan

_GONE = (FileNotFoundError, ProcessLookupError)


def mark(plan: Plan, now: Situation) -> Observed | None:
    """The observation with the users of the volumes that the plan unmounts, or makes read-only; None if they
    have none. Looks at all processes of their servers.

    It is for the plan, and may be out of date when the plan is carried out: the step fails then.
    """
    marked: dict[str, ObservedServer] = {}
    for server, steps in _steps(plan).items():
        seen = now.observed.servers[server]
        found = tuple(_marked(one, steps, seen, now) for one in seen.live.get(MOUNTS, ()))
        if any(one.used_by for one in found):
            marked[server] = replace(seen, live={**seen.live, MOUNTS: found})
    return replace(now.observed, servers={**now.observed.servers, **marked}) if marked else None


def _steps(plan: Plan) -> dict[str, list[ChangeVolume]]:
    """The steps that take something away, by server."""
    found: dict[str, list[ChangeVolume]] = {}
    for change in plan.changes:
        for step in change.steps:
            if isinstance(step, ChangeVolume) and step.before:
                found.setdefault(step.server, []).append(step)
    return found


def _marked(
    one: MountedVolume, steps: list[ChangeVolume], seen: ObservedServer, now: Situation
) -> MountedVolume:
    step = next((step for step in steps if step.target == one.target), None)
    if step is None or seen.group is None or seen.applied is None:
        return one
    only_writers = step.after == (one.volume, "ro")
    if step.after == (one.volume, "rw"):
        spec = applied.to_object(seen.name, seen.applied).spec
        if not (isinstance(spec, Server) and may_mount(spec)):  # otherwise it is locked
            return one
    home = now.hierarchies.directory("", seen.group.path)
    used_by = next(_users(cgroup.all_processes(home), os.path.normpath(one.point), only_writers), "")
    return dataclasses.replace(one, used_by=used_by)


def _users(pids: list[int], point: str, only_writers: bool) -> Iterator[str]:
    """The processes that have something open at a path of their server, as people know them: "sh (pid 7)"."""
    for pid in pids:
        try:
            if _writes(pid, point) if only_writers else _uses(pid, point):
                name = (proc.read(f"/proc/{pid}/comm") or "?").rstrip("\n")
                yield f"{name} (pid {pid})"
        except _GONE:
            continue  # it has ended


def _uses(pid: int, point: str) -> bool:
    links = (f"/proc/{pid}/{name}" for name in ("cwd", "root", "exe"))
    files = (f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd"))
    if any(_is_in(_leads_to(link), point) for link in (*links, *files)):
        return True
    maps = (line.split(maxsplit=5) for line in (proc.read(f"/proc/{pid}/maps") or "").splitlines())
    return any(_is_in(proc.unescaped(words[5]), point) for words in maps if len(words) == 6)


def _writes(pid: int, point: str) -> bool:
    return any(
        _is_in(_leads_to(f"/proc/{pid}/fd/{name}"), point) and _is_writable(f"/proc/{pid}/fdinfo/{name}")
        for name in os.listdir(f"/proc/{pid}/fd")
    )


def _leads_to(link: str) -> str:
    try:
        return os.readlink(link)
    except _GONE:
        return ""


def _is_writable(info: str) -> bool:
    lines = (proc.read(info) or "").splitlines()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags:")), "0")
    return bool(int(flags, 8) & os.O_ACCMODE)


def _is_in(path: str, point: str) -> bool:
    return f"{path}/".startswith(f"{point}/")
