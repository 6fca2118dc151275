"""Steps that create, change and remove volumes."""

from __future__ import annotations

from vsprov.engine.apply.register import carries_out
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.schedule import Work
from vsprov.engine.volumes import contents
from vsprov.errors import ImageError
from vsprov.model.kinds.volume import Volume
from vsprov.plan.compare import applied
from vsprov.plan.volumes.steps import (
    MakeVolume,
    MoveVolume,
    RemoveVolume,
    RenameVolume,
    ResizeVolume,
    SetVolumeRoot,
    WriteVolume,
)
from vsprov.store.disk.marks import Owner
from vsprov.store.volumes import changes


@carries_out(MakeVolume)
def make_volume(context: ApplyContext, step: MakeVolume) -> Work:
    """In a thread of its own, because of its source; the thread of the scheduler does not wait for disks."""
    address = f"Volume/{step.volume}"
    spec = context.wanted[address].spec
    assert isinstance(spec, Volume)
    notes: list[str] = []
    progress = context.threads.progress(address)

    def fill(into: str) -> None:
        contents.fill(context, spec.source, into, progress, notes.append)

    def make() -> None:
        changes.make(
            context.instance,
            step.volume,
            Owner.parse(step.owner),
            applied.from_text(step.applied),
            fill if spec.source else None,
            apart=bool(spec.source and spec.source.tar),
            root_owner=spec.owner or "",
            root_mode=spec.mode or "",
            space=step.space,
        )

    try:
        yield from context.threads.run(make)
    except ImageError as error:
        raise ImageError(f"{address}: {error}", hint=error.hint) from error
    for note in notes:
        context.notice(f"{address}: {note}")


@carries_out(ResizeVolume)
def resize_volume(context: ApplyContext, step: ResizeVolume) -> Work:
    """In a thread, as it waits for the disk of the host."""

    def resize() -> None:
        changes.resize(context.instance, step.volume, step.after, live=step.live)

    yield from context.threads.run(resize)


@carries_out(MoveVolume)
def move_volume(context: ApplyContext, step: MoveVolume) -> Work:
    progress = context.threads.progress(f"Volume/{step.volume}")

    def move() -> None:
        changes.move(context.instance, step.volume, step.after, lambda size: progress("copied", size, 0))

    yield from context.threads.run(move)


@carries_out(WriteVolume)
def write_volume(context: ApplyContext, step: WriteVolume) -> Work:
    record = applied.from_text(step.applied)
    yield from context.threads.queue(lambda: changes.write(context.instance, step.volume, record))


@carries_out(SetVolumeRoot)
def set_volume_root(context: ApplyContext, step: SetVolumeRoot) -> Work:
    """In a thread: it may have to be mounted for that."""

    def set_root() -> None:
        changes.set_root(context.instance, step.volume, step.owner, step.mode)

    yield from context.threads.queue(set_root)


@carries_out(RenameVolume)
def rename_volume(context: ApplyContext, step: RenameVolume) -> None:
    changes.rename(context.instance, step.volume, step.new)


@carries_out(RemoveVolume)
def remove_volume(context: ApplyContext, step: RemoveVolume) -> Work:
    """In a thread, because there may be many files."""
    instance = context.instance
    if not step.data:
        # A server that has just stopped may have written to it since the plan.
        yield from context.threads.run(lambda: changes.refuse_data(instance, step.volume))
    aside = changes.set_aside(instance, step.volume)
    if aside is not None:
        yield from context.threads.run(lambda: changes.remove(instance, aside))
