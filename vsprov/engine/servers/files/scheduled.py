"""Make the snapshots that are due by schedule, and remove those that are not kept any more."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from vsprov.engine.apply.report import Report
from vsprov.engine.servers.files import snapshots
from vsprov.engine.work import WorkOptions
from vsprov.errors import LockedError, VsprovError
from vsprov.model.kinds.sections.snapshots import Keep, Snapshots
from vsprov.model.kinds.server import Server
from vsprov.plan.compare import applied
from vsprov.plan.observed import ObservedServer, is_of
from vsprov.plan.scheduled import surplus
from vsprov.store.instance import Instance
from vsprov.store.written import scheduled
from vsprov.store.written import snapshots as stored

SLACK = 0.5  # seconds: what is due so soon is done now, rather than by another command
LONGEST = 6 * 3600.0  # seconds that copies may take; freezing has a limit of its own


def act(
    instance: Instance,
    servers: Iterable[ObservedServer],
    report: Report,
    work: WorkOptions,
    announce: Callable[[float], None],
) -> None:
    """Make what is due of these servers, one after the other, and record how that went. The clock may have
    been set, so the times of all are computed again.

    `announce` is called with the seconds that this may take. LockedError if another command is at work.
    """
    due: list[tuple[ObservedServer, Snapshots]] = []
    for seen in servers:
        plan, folder = _plan(seen), f"{instance.servers}/{seen.name}"
        if plan is None or not all(is_of(owner, instance.name) for owner in seen.owners()):
            continue
        scheduled.review(folder, plan.schedule)
        if scheduled.is_due(folder, SLACK):
            due.append((seen, plan))
    if due:
        announce(LONGEST)
    for seen, plan in due:
        _make(instance, seen.name, plan, report, work)


def _plan(seen: ObservedServer) -> Snapshots | None:
    if seen.applied is None:
        return None
    spec = applied.to_object(seen.name, seen.applied).spec
    assert isinstance(spec, Server)
    return spec.snapshots


def _make(instance: Instance, name: str, plan: Snapshots, report: Report, work: WorkOptions) -> None:
    """Make a snapshot; a failure is recorded, and the next one is made at its time."""
    made, why = "", ""
    try:
        made = snapshots.create(instance, name, "", report, work, scheduled=True).name
        prune(instance, name, plan.keep, report, work)
    except LockedError:
        raise
    except VsprovError as error:
        why = str(error).removeprefix(f"Server/{name}: ")
        report.notice(f"Server/{name}: snapshot by schedule: {why}")
    folder = f"{instance.servers}/{name}"
    if os.path.isdir(folder):  # else it was removed meanwhile
        scheduled.done(folder, plan.schedule, made, why)


def prune(instance: Instance, name: str, keep: Keep, report: Report, work: WorkOptions) -> None:
    """Remove the snapshots of a server by its schedule that are not kept any more; no others."""
    made = [(one.created, one.name) for one in stored.observe(instance, name) if one.scheduled]
    if old := surplus(made, keep, scheduled.zone()):
        snapshots.remove(instance, name, old, report, work)
