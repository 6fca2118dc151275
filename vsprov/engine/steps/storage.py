"""Steps for images, for directories of servers, and for records."""

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
    KeepStopped,
    MakeDirectory,
    ProtectImage,
    RemoveDirectory,
    RemoveImage,
    RemoveRecord,
    RenameDirectory,
    RepairDirectory,
    ShareImage,
    WriteApplied,
    WriteRecord,
)
from vsprov.store import claims, images, recorded, servers
from vsprov.store.disk import durable
from vsprov.store.disk.marks import Owner
from vsprov.store.space.disks import has_image


@carries_out(ImportImage)
def import_image(context: ApplyContext, step: ImportImage) -> Work:
    yield from imports.import_image(context, step, Owner.parse(context.owner))


@carries_out(ShareImage)
def share_image(context: ApplyContext, step: ShareImage) -> None:
    images.write_owners(context.instance, step.image, tuple(map(Owner.parse, step.owners)))
    context.forget_images()


@carries_out(ProtectImage)
def protect_image(context: ApplyContext, step: ProtectImage) -> None:
    images.write_protection(context.instance, step.image, step.sets)
    context.forget_images()


@carries_out(RemoveImage)
def remove_image(context: ApplyContext, step: RemoveImage) -> None:
    images.remove(context.instance, step.image)


@carries_out(MakeDirectory)
def make_directory(context: ApplyContext, step: MakeDirectory) -> None:
    base = context.bases[step.server] = context.next_range()
    record = applied.from_text(step.applied)
    servers.make(context.instance, step.server, Owner.parse(step.owner), base, record)


@carries_out(RenameDirectory)
def rename_directory(context: ApplyContext, step: RenameDirectory) -> None:
    servers.rename(context.instance, step.server, step.new)
    if step.server in context.bases:
        context.bases[step.new] = context.bases.pop(step.server)


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


@carries_out(KeepStopped)
def keep_stopped(context: ApplyContext, step: KeepStopped) -> None:
    servers.keep_stopped(context.instance, step.server, step.by)


@carries_out(DiscardUpper)
def discard_upper(context: ApplyContext, step: DiscardUpper) -> Work:
    """In a thread if it is in an image: the kernel may still write to that."""
    if has_image(f"{context.instance.servers}/{step.server}"):
        yield from context.threads.queue(lambda: servers.discard_upper(context.instance, step.server))
    else:
        servers.discard_upper(context.instance, step.server)


@carries_out(RemoveDirectory)
def remove_directory(context: ApplyContext, step: RemoveDirectory) -> Work:
    """In a thread, because the disk may be busy: other servers are stopped meanwhile."""
    aside = servers.set_aside(context.instance, step.server)
    if aside is not None:
        yield from context.threads.queue(lambda: _remove(context.instance.servers, aside))


def _remove(folder: str, aside: str) -> None:
    from vsprov.store.space import project

    quota = project.find(aside)
    if has_image(aside):
        from vsprov.store.space import image

        image.wait_until_detached(aside)
    durable.remove_unmounted(aside)
    project.release_own(folder, quota)


@carries_out(WriteRecord)
def write_record(context: ApplyContext, step: WriteRecord) -> None:
    record = applied.from_text(step.applied)
    recorded.write(context.instance, step.kind, step.name, Owner.parse(step.owner), record)


@carries_out(RemoveRecord)
def remove_record(context: ApplyContext, step: RemoveRecord) -> None:
    recorded.remove(context.instance, step.kind, step.name)
