"""Steps for images and for directories of servers."""

from __future__ import annotations

from vsprov.engine.apply.register import carries_out
from vsprov.engine.images import imports
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.schedule import Work
from vsprov.errors import StepError
from vsprov.plan import ranges
from vsprov.plan.compare import applied
from vsprov.plan.steps import (
    DiscardUpper,
    ImportImage,
    MakeDirectory,
    RemoveDirectory,
    RemoveImage,
    RepairDirectory,
    ShareImage,
    WriteApplied,
)
from vsprov.store import claims, images, servers
from vsprov.store.disk.marks import Owner


@carries_out(ImportImage)
def import_image(context: ApplyContext, step: ImportImage) -> Work:
    yield from imports.import_image(context, step, Owner.parse(context.owner))


@carries_out(ShareImage)
def share_image(context: ApplyContext, step: ShareImage) -> None:
    images.write_owners(context.instance, step.image, tuple(map(Owner.parse, step.owners)))
    context.forget_images()


@carries_out(RemoveImage)
def remove_image(context: ApplyContext, step: RemoveImage) -> None:
    images.remove(context.instance, step.image)


@carries_out(MakeDirectory)
def make_directory(context: ApplyContext, step: MakeDirectory) -> None:
    base = context.bases[step.server] = context.next_range()
    record = applied.from_text(step.applied)
    servers.make(context.instance, step.server, Owner.parse(step.owner), base, record)


@carries_out(RepairDirectory)
def repair_directory(context: ApplyContext, step: RepairDirectory) -> None:
    base = context.bases.get(step.server) or context.next_range()
    if not claims.claim(context.instance, base):
        raise StepError(f"{step.describe()}: claim ids {ranges.show(base)}: another instance has them")
    servers.repair(context.instance, step.server, base)
    context.bases[step.server] = base


@carries_out(WriteApplied)
def write_applied(context: ApplyContext, step: WriteApplied) -> None:
    servers.write_applied(context.instance, step.server, applied.from_text(step.applied), flush=False)


@carries_out(DiscardUpper)
def discard_upper(context: ApplyContext, step: DiscardUpper) -> None:
    servers.discard_upper(context.instance, step.server)


@carries_out(RemoveDirectory)
def remove_directory(context: ApplyContext, step: RemoveDirectory) -> None:
    servers.remove(context.instance, step.server)
