"""Make an image of a server: that of the server, and what it has written as a layer on top."""

from __future__ import annotations

import os
import re

from msgspec import Struct
from msgspec.structs import replace

from vsprov.engine.apply import recover
from vsprov.engine.apply.report import Report
from vsprov.engine.servers.files.snapshots import exclusive_server
from vsprov.engine.servers.freezer import frozen
from vsprov.engine.work import WorkOptions
from vsprov.errors import ConflictError, FailedError, ImageError, UsageError
from vsprov.model import fields
from vsprov.model.defaults import with_image_defaults
from vsprov.model.kinds.image import Image, ImageLimits
from vsprov.model.sources import CommitSource, Defaults, Source
from vsprov.model.values import digests
from vsprov.model.values.patterns import NAME_PATTERN
from vsprov.plan.kinds.image import COMMITTED
from vsprov.plan.observed import ObservedServer
from vsprov.store import images, servers
from vsprov.store.disk.marks import Owner
from vsprov.store.images import Contents
from vsprov.store.instance import TREE, Instance
from vsprov.store.layers import layers, shift
from vsprov.store.layers.layers import Batch
from vsprov.store.sources import commit as source
from vsprov.store.space import disks
from vsprov.store.trees.limits import MOST_LAYERS, Limits
from vsprov.store.written import replica
from vsprov.store.written.replica import Size


class Options(Struct, frozen=True, kw_only=True):
    """What an image gets besides the files: defaults for its servers, and who made it and why. `limits` are
    those of its new layer. `replace`: it may take the name of an image that was made by a commit.
    """

    defaults: Defaults = Defaults()
    limits: ImageLimits = ImageLimits()
    message: str | None = None
    author: str | None = None
    replace: bool = False


class Committed(Struct, frozen=True):
    """An image that was made: its digest, its number of layers, and the size of the new one. `replaced` is
    the digest that the name had before, "" for a new name.
    """

    digest: str
    layers: int
    size: Size
    replaced: str = ""


def commit(
    instance: Instance, name: str, image: str, options: Options, report: Report, work: WorkOptions
) -> Committed:
    """Make an image of a server's image and what the server has written; a running one is frozen meanwhile.

    When this returns, the image is safe from power failure. UsageError for an invalid name of the image,
    ConflictError for one that is taken. Whatever fails, or is interrupted, leaves nothing and thaws the
    server.
    """
    if not re.fullmatch(NAME_PATTERN, image):
        raise UsageError(
            f"commit {name} {image}: not a name that an image can have",
            hint="up to 63 of a-z, 0-9 and -, a letter or digit at both ends",
        )
    with exclusive_server(instance, name, report, work) as (looked, seen):
        assert seen.applied is not None
        before = _refuse_taken(instance, image, options)
        below = images.contents(instance, str(seen.applied["image"]))
        if len(below.layers) >= MOST_LAYERS:
            raise ImageError(f"Server/{name}: commit: its image has {MOST_LAYERS} layers, the maximum")

        def progress(what: str, done: int, total: int) -> None:
            report.progressed(f"Image/{image}", what, done, total)

        with layers.batch(instance, progress) as batch, frozen(looked.hierarchies, [seen]) as thaw:
            most = _most(options)
            folder, size = _copy(batch, seen, most)
            thaw()
            key = _keep(batch, seen, folder, below, most)
            for note in batch.notes:
                report.notice(f"Image/{image}: {note}")
        config = with_image_defaults(below.config, options.defaults)
        made_of = Contents((*below.layers, key), below.binds, config)
        digest = source.digest(made_of)
        try:
            images.write(
                instance,
                image,
                digest,
                made_of,
                Owner(instance.name, COMMITTED),
                spec=fields.write(_spec(name, digest, options)),
                fingerprint=source.fingerprint(digest),
            )
        except BaseException:
            recover.collect(instance, looked.observed)
            raise
    return Committed(digest, len(made_of.layers), size, before)


def _refuse_taken(instance: Instance, image: str, options: Options) -> str:
    """The digest of the image that is replaced, "" if there is none. ConflictError if it has to stay."""
    record = images.observe(instance).get(image)
    if record is None:
        return ""
    if record.owners != (Owner(instance.name, COMMITTED),):
        whose = ", ".join(f"set {owner.set}" for owner in record.owners if owner.set != COMMITTED)
        message = f"Image/{image}: exists, and belongs to {whose or 'nobody that is known'}"
        raise ConflictError(message, hint="choose another name")
    if not options.replace:
        raise ConflictError(f"Image/{image}: exists", hint="--replace replaces it")
    return record.digest


def _most(options: Options) -> Limits:
    """What the layer may contain. Files are not counted, as in archives, because they exist already; but a
    sparse one, of any size, would be read with its holes.
    """
    return replace(replica.LIMITS, bytes=options.limits.size)


def _copy(batch: Batch, seen: ObservedServer, most: Limits) -> tuple[str, Size]:
    """Copy what a server has written to the tree of a new layer; the layer's directory, and the size."""
    found = Size()

    def progress(done: int) -> None:
        batch.progress("copied", done, 0)

    def fill(into: str) -> None:
        nonlocal found
        os.rmdir(into)
        with disks.upper(servers.path_of(batch.instance, seen.name), seen.id_base or 0) as upper:
            found = replica.copy(upper, into, f"Server/{seen.name}: commit", progress, most=most)

    try:
        return batch.begin(fill), found
    except ImageError as error:
        raise ImageError(str(error), hint=error.hint or "--max-size sets another limit") from error


def _keep(batch: Batch, seen: ObservedServer, folder: str, below: Contents, most: Limits) -> str:
    """Complete the layer: with the ids inside the server, and listed. Its key."""
    lower = [batch.tree(key) for key in reversed(below.layers)]
    try:
        batch.note(shift.to_layer(f"{folder}/{TREE}", seen.id_base or 0, most, lower))
        return batch.keep_by_content(folder)
    except FailedError as error:
        raise ImageError(f"Server/{seen.name}: commit: {error}", hint=error.hint) from error


def _spec(server: str, digest: str, options: Options) -> Image:
    made = CommitSource(
        server=server, digest=digests.full(digest), message=options.message, author=options.author
    )
    return Image(source=Source(commit=made), limits=options.limits)
