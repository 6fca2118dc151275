"""Resolving and importing the sources of images: a module for each kind of source.

`build` is not among them, since its steps run in servers: see `engine.images`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

from msgspec import Struct, field

from vsprov.errors import ImageError
from vsprov.model import fields
from vsprov.model.kinds.image import Image
from vsprov.model.sources import Source
from vsprov.store import images
from vsprov.store.disk import folders
from vsprov.store.disk.marks import Owner
from vsprov.store.disk.progress import Progress
from vsprov.store.images import Contents, ImageRecord
from vsprov.store.instance import Instance
from vsprov.store.layers import layers
from vsprov.store.layers.layers import Batch
from vsprov.store.trees.limits import Limits


class Resolved(Struct, frozen=True):
    """The current state of a source.

    `digest` is a SHA-256 over its contents, or over the request where only the import shows the contents.
    `fingerprint` is a text that is cheap to compute and differs after a change. `config` are its defaults for
    servers, None if only the import shows them. `found` is data for `fetch`.
    """

    digest: str
    fingerprint: str
    config: Mapping[str, Any] | None = field(default_factory=dict)
    found: Any = None


def resolve(
    instance: Instance, image: Image, record: ImageRecord | None = None, *, refresh: bool = False
) -> Resolved:
    """The current state of the source, without importing it.

    If the fingerprint matches that of `record`, the source is not read again, and no registry is contacted.
    With `refresh`, tags are resolved again and packages will be installed again. Raises ImageError if the
    source does not exist, changes meanwhile, contains what an image may not contain, or does not match its
    sha256 or digest.
    """
    known = record if record is not None and record.contents is not None and not record.problem else None
    return _module(image.source).resolve(instance, image, known, refresh)


def import_image(
    instance: Instance, name: str, image: Image, resolved: Resolved, owner: Owner, progress: Progress
) -> tuple[str, ...]:
    """Make the missing layers of a resolved image, then its record; all are safe from power failure.

    Returns notes for the user, for example about files that images do not keep.

    Raises ImageError if the source is not valid or no longer matches `resolved`, ConflictError if the record
    has another owner. Nothing remains of an import that fails, except downloads.
    """
    images.refuse_foreign(instance, name, owner, fields.write(image))
    folders.prepare(instance)
    try:
        made_of, notes = _contents(instance, image, resolved, progress)
    except ImageError as error:
        raise ImageError(f"Image/{name}: {error}", hint=error.hint) from error
    images.write(
        instance,
        name,
        resolved.digest,
        made_of,
        owner,
        spec=fields.write(image),
        fingerprint=resolved.fingerprint,
    )
    return notes


def _contents(
    instance: Instance, image: Image, resolved: Resolved, progress: Progress
) -> tuple[Contents, tuple[str, ...]]:
    if images.is_whole(instance, resolved.digest):
        return images.contents(instance, resolved.digest), ()
    with layers.batch(instance, progress) as batch:
        made_of = _module(image.source).fetch(batch, image, resolved)
        return made_of, tuple(batch.notes)


def limits_of(image: Image) -> Limits:
    """The limits in the spec of an image."""
    return Limits(entries=image.limits.files, bytes=image.limits.size)


class Kind(Protocol):
    """The functions of a module for a kind of source."""

    def resolve(self, instance: Instance, image: Image, known: ImageRecord | None, refresh: bool) -> Resolved:
        """The current state of the source; `known` is a complete record of the image, if there is one."""

    def fetch(self, batch: Batch, image: Image, resolved: Resolved) -> Contents:
        """Make the layers that are missing in the store."""


def _module(source: Source) -> Kind:
    """The module for a kind of source, imported on demand, since some are slow to import."""
    if source.kind in ("", "build"):
        raise ImageError("an image needs one source: host, directory, tar, oci, bootstrap or commit")
    return cast(Kind, import_module(f"{__name__}.{source.kind}"))
