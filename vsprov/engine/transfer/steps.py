"""Carrying out the steps that make servers and volumes of the files of an export."""

from __future__ import annotations

import os
from typing import Protocol

from vsprov.engine.apply.register import carries_out
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.schedule import Work
from vsprov.plan.compare import applied
from vsprov.plan.servers.imports import ImportDirectory, ImportedSnapshot, ImportVolume
from vsprov.store import machine_id, servers
from vsprov.store.disk.marks import Owner
from vsprov.store.space import filled
from vsprov.store.transfer.header import SNAPSHOTS, UPPER, VOLUMES
from vsprov.store.volumes import changes
from vsprov.store.written import replica, snapshots
from vsprov.store.written.snapshots import Snapshot


class Move(Protocol):
    """Moves a tree of the export to its place, `shifted` to the ids of the server."""

    def __call__(self, source: str, target: str, *, shifted: bool) -> None: ...


@carries_out(ImportDirectory)
def import_directory(context: ApplyContext, step: ImportDirectory) -> Work:
    """In a thread, because there may be many files."""
    base = context.bases[step.server] = context.next_range()
    record = applied.from_text(step.applied)
    report = context.threads.progress(f"Server/{step.server}")

    def progress(done: int) -> None:
        report("copied", done, 0)

    def move(source: str, target: str, *, shifted: bool) -> None:
        shift = (0, base) if shifted else None
        replica.move(f"{step.staged}/{source}", target, f"Server/{step.server}", progress, shift)

    def upper(into: str) -> None:
        move(UPPER, f"{into}/{UPPER}", shifted=True)

    def fill(making: str) -> None:
        for one in step.snapshots:  # first, as they belong to no project
            volumes = {new: 0.0 for _, new in one.volumes}
            made = Snapshot(
                step.server,
                one.name,
                one.created,
                one.image,
                base,
                volumes=volumes,
                scheduled=one.scheduled,
            )
            _add_snapshot(making, made, one, move)
        filled.make(making, base, upper, filled.Limit.of(context.instance, step.disk))
        if step.machine_id:
            machine_id.write(making, step.machine_id)

    def make() -> None:
        owner = Owner.parse(step.owner)
        servers.make(context.instance, step.server, owner, base, record, fill)
        servers.flush(context.instance)

    yield from context.threads.run(make)


def _add_snapshot(making: str, made: Snapshot, one: ImportedSnapshot, move: Move) -> None:
    """A snapshot, with the names that its volumes have here."""

    def fill(path: str) -> replica.Size:
        before = f"{SNAPSHOTS}/{one.name}"
        move(f"{before}/{UPPER}", f"{path}/{UPPER}", shifted=True)
        if one.volumes:
            os.mkdir(f"{path}/{VOLUMES}", 0o700)
        for old, new in one.volumes:
            move(
                f"{before}/{snapshots.volume_tree(old)}",
                f"{path}/{snapshots.volume_tree(new)}",
                shifted=False,
            )
        return replica.measure(path, f"Server/{made.server}: snapshot {made.name}")

    snapshots.add(making, made, fill)


@carries_out(ImportVolume)
def import_volume(context: ApplyContext, step: ImportVolume) -> Work:
    report = context.threads.progress(f"Volume/{step.volume}")

    def fill(top: str) -> None:
        source = f"{step.staged}/{VOLUMES}/{step.part}"
        replica.move(source, top, f"Volume/{step.volume}", lambda done: report("copied", done, 0))

    def make() -> None:
        changes.make(
            context.instance,
            step.volume,
            Owner.parse(step.owner),
            applied.from_text(step.applied),
            fill,
            space=step.space,
            made_for=step.server,
        )

    yield from context.threads.run(make)
