"""Snapshots of servers: make, restore and remove them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from vsprov.engine.apply.exclusive import exclusive
from vsprov.engine.apply.report import Report
from vsprov.engine.guests.commands import join
from vsprov.engine.look import situation
from vsprov.engine.look.observe import refuse_foreign
from vsprov.engine.look.situation import Situation
from vsprov.engine.servers.freezer import frozen
from vsprov.engine.servers.record import record_of
from vsprov.engine.work import WorkOptions
from vsprov.errors import FailedError, UsageError
from vsprov.kernel import process
from vsprov.model.suggest import not_found
from vsprov.model.values.patterns import NAME_PATTERN
from vsprov.plan.observed import ObservedServer
from vsprov.plan.volumes import mounts
from vsprov.plan.volumes.state import volumes
from vsprov.store.disk import folders
from vsprov.store.instance import Instance
from vsprov.store.written import snapshots as stored
from vsprov.store.written.snapshots import Snapshot

AUTO = "auto-"  # the names of snapshots that are made by a schedule begin with it


def listing(instance: Instance, names: Iterable[str] = ()) -> list[Snapshot]:
    """The snapshots of the named servers, or of all. FailedError for an unknown name."""
    process.require_root("snapshot ls: reading the directories of servers")
    known = folders.names(instance.servers)
    for name in names:
        if name not in known:
            raise not_found("Server", name, known)
    return [one for name in tuple(names) or known for one in stored.observe(instance, name)]


def create(
    instance: Instance,
    name: str,
    snapshot: str,
    report: Report,
    work: WorkOptions,
    *,
    scheduled: bool = False,
) -> Snapshot:
    """Make a snapshot of a server and of the volumes that it can write to; "" for a name made of the time. It
    and the other servers that can write to these volumes are frozen meanwhile, as far as they run.

    UsageError for an invalid name. Whatever fails, or is interrupted, leaves nothing and thaws the server.
    """
    now = time.time()
    if snapshot and not re.fullmatch(NAME_PATTERN, snapshot):
        raise UsageError(
            f"snapshot create {name} {snapshot}: not a name that a snapshot can have",
            hint="up to 63 of a-z, 0-9 and -, a letter or digit at both ends",
        )
    with exclusive_server(instance, name, report, work) as (looked, seen):
        assert seen.applied is not None and seen.id_base is not None
        snapshot = snapshot or _unused_name(instance, name, AUTO if scheduled else "", now)
        created = created_volumes(looked, seen)
        made = Snapshot(
            name,
            snapshot,
            now,
            seen.applied["image"],
            seen.id_base,
            volumes=created,
            scheduled=scheduled,
        )
        with frozen(looked.hierarchies, sharing(looked, seen, created)) as thaw:
            return stored.create(instance, made, copied_bytes(report, name), thaw)


def _unused_name(instance: Instance, name: str, prefix: str, now: float) -> str:
    """A name made of the time, with a number behind it if there is such a snapshot already."""
    known = {one.name for one in stored.observe(instance, name)}
    found = base = time.strftime(f"{prefix}%Y%m%d-%H%M%S", time.gmtime(now))
    number = 1
    while found in known:
        number += 1
        found = f"{base}-{number}"
    return found


def created_volumes(looked: Situation, seen: ObservedServer) -> dict[str, float]:
    """The volumes that a server can write to, with the times at which they were created. FailedError if the
    files of one are missing.
    """
    found = {name: volumes(looked.observed).get(name) for name in mounts.written_by(seen)}
    for name, volume in found.items():
        if volume is None or volume.problem:
            why = volume.problem if volume else "does not exist"
            raise FailedError(f"Server/{seen.name}: volume {name}: {why}")
    return {name: volume.created for name, volume in found.items() if volume}


def sharing(looked: Situation, seen: ObservedServer, names: Iterable[str]) -> list[ObservedServer]:
    """A server, and the others that can write to these volumes."""
    others = mounts.writers(looked.observed, names)
    return [seen, *(other for other in others if other.name != seen.name)]


def copied_bytes(report: Report, name: str) -> Callable[[int], None]:
    """The progress of a copy of the files of a server."""
    return lambda done: report.progressed(f"Server/{name}", "copied", done, 0)


def remove(instance: Instance, name: str, chosen: Iterable[str], report: Report, work: WorkOptions) -> None:
    """Remove snapshots of a server. FailedError, before any is removed, for an unknown name."""
    with exclusive_server(instance, name, report, work, damaged=True):
        for one in named(instance, name, chosen):
            stored.remove(instance, name, one.name)


def named(instance: Instance, name: str, chosen: Iterable[str]) -> list[Snapshot]:
    """The snapshots of a server that have these names. Read-only. FailedError for an unknown name."""
    known = {one.name: one for one in listing(instance, [name])}
    for one in chosen:
        if one not in known:
            raise stored.unknown(name, one, known)
    return [known[one] for one in chosen]


@contextmanager
def exclusive_server(
    instance: Instance, name: str, report: Report, work: WorkOptions, *, damaged: bool = False
) -> Iterator[tuple[Situation, ObservedServer]]:
    """Hold the lock, with a server as it is then, which has a record and a directory unless `damaged`."""
    process.require_root("reading the files of servers")
    join.find(instance, name)  # which makes nothing, not even a lock, for an unknown name
    with exclusive(instance, work, report):
        looked = situation.look(instance)
        seen = looked.observed.servers.get(name)
        if seen is None:
            raise not_found("Server", name, looked.observed.servers)
        refuse_foreign(seen, instance.name)
        if not damaged:
            record_of(seen)
            if seen.populated and seen.init is None:
                raise FailedError(f"Server/{name}: processes of it are left", hint=f"vsprov stop {name}")
        yield looked, seen
