"""Steps for images and for directories of servers."""

from __future__ import annotations

from vsprov.engine.apply.register import carries_out
from vsprov.engine.images import imports
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.schedule import Work
from vsprov.plan import applied
from vsprov.plan.steps import (
    DiscardUpper,
    ImportImage,
    MakeDirectory,
    RemoveDirectory,
    RemoveImage,
    ShareImage,
    WriteApplied,
)
from vsprov.store import images, servers
from vsprov.store.disk.marks import Owner


@carries_out(ImportImage)
def import_image(context: ApplyContext, step: ImportImage) -> Work:
    yield from imports.import_image(context, step, _owner(context.owner))


@carries_out(ShareImage)
def share_image(context: ApplyContext, step: ShareImage) -> None:
    images.write_owners(context.instance, step.image, tuple(map(_owner, step.owners)))
    context.forget_images()


@carries_out(RemoveImage)
def remove_image(context: ApplyContext, step: RemoveImage) -> None:
    images.remove(context.instance, step.image)


@carries_out(MakeDirectory)
def make_directory(context: ApplyContext, step: MakeDirectory) -> None:
    servers.make(
        context.instance,
        step.server,
        _owner(step.owner),
        context.next_range(),
        applied.from_text(step.applied),
    )


@carries_out(WriteApplied)
def write_applied(context: ApplyContext, step: WriteApplied) -> None:
    servers.write_applied(context.instance, step.server, applied.from_text(step.applied), flush=False)


@carries_out(DiscardUpper)
def discard_upper(context: ApplyContext, step: DiscardUpper) -> None:
    servers.discard_upper(context.instance, step.server)


@carries_out(RemoveDirectory)
def remove_directory(context: ApplyContext, step: RemoveDirectory) -> None:
    servers.remove(context.instance, step.server)


def _owner(text: str) -> Owner:
    instance, _, name = text.partition("/")
    return Owner(instance, name)
