"""Carrying out the steps that copy what servers have written."""

from __future__ import annotations

from collections.abc import Callable

from vsprov.engine.apply.register import carries_out
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.schedule import Work
from vsprov.engine.servers.files import restore
from vsprov.plan.compare import applied
from vsprov.plan.servers.files import CloneDirectory, CloneVolume, ExchangeFiles
from vsprov.store import servers
from vsprov.store.disk.marks import Owner
from vsprov.store.space import filled
from vsprov.store.volumes import changes
from vsprov.store.written import replica, snapshots


@carries_out(ExchangeFiles)
def exchange_files(context: ApplyContext, step: ExchangeFiles) -> None:
    restore.carry_out(context.instance, step)


@carries_out(CloneDirectory)
def clone_directory(context: ApplyContext, step: CloneDirectory) -> Work:
    """In a thread, because of the copy. Whoever plans this has frozen the source."""
    base = context.bases[step.server] = context.next_range()
    source, record = context.observed.servers[step.source], applied.from_text(step.applied)
    shift = (source.id_base or 0, base)
    progress = _progress(context, f"Server/{step.server}")

    def copy(into: str) -> None:
        with snapshots.upper(context.instance, step.source, step.snapshot, shift[0]) as tree:
            replica.copy(tree, f"{into}/upper", f"Server/{step.source}", progress, shift)

    def fill(making: str) -> None:
        filled.make(making, base, copy, filled.Limit.of(context.instance, step.disk))

    def make() -> None:
        servers.make(context.instance, step.server, Owner.parse(step.owner), base, record, fill)
        servers.flush(context.instance)

    yield from context.threads.run(make)


@carries_out(CloneVolume)
def clone_volume(context: ApplyContext, step: CloneVolume) -> Work:
    """In a thread, because of the copy. Whoever plans this has frozen the servers that use the source."""
    record, progress = applied.from_text(step.applied), _progress(context, f"Volume/{step.volume}")

    def copy(path: str) -> None:
        with snapshots.volume(context.instance, step.server, step.snapshot, step.source) as source:
            replica.copy(source, path, f"Volume/{step.source}", progress)

    def make() -> None:
        owner = Owner.parse(step.owner)
        changes.make(
            context.instance, step.volume, owner, record, copy, space=step.space, made_for=step.clone
        )

    yield from context.threads.run(make)


def _progress(context: ApplyContext, address: str) -> Callable[[int], None]:
    report = context.threads.progress(address)
    return lambda done: report("copied", done, 0)
