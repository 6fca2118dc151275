"""What the sources of images hold now, and bringing that into the store: a module for each kind of source.

`build` is not among them: its steps run in servers, so it is the engine's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, cast

from vsprov.errors import ImageError
from vsprov.model import fields
from vsprov.model.objects import Image
from vsprov.model.sources import Source
from vsprov.store import images
from vsprov.store.disk import folders
from vsprov.store.disk.limits import Limits
from vsprov.store.disk.marks import Owner
from vsprov.store.disk.progress import Progress
from vsprov.store.images import Contents, ImageRecord
from vsprov.store.instance import Instance
from vsprov.store.layers import layers
from vsprov.store.layers.layers import Batch


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a source is now.

    `digest` is a sha256 over what it holds, or of what was asked for where only the making would tell;
    `fingerprint` a cheap text that shows a possible change. `config` is what it brings for its servers, None
    where only the import tells; `found` whatever of the look the import can use.
    """

    digest: str
    fingerprint: str
    config: Mapping[str, Any] | None = field(default_factory=dict)
    found: Any = None


def resolve(
    instance: Instance, image: Image, record: ImageRecord | None = None, *, refresh: bool = False
) -> Resolved:
    """What the source is now; only reads, from a registry too.

    While the record is of the same source, whatever can be told by its fingerprint is not read again, and a
    registry not asked at all; unless `refresh`: then tags are looked up anew, and packages are to be installed
    anew. Raises ImageError for a source that is not there, changes meanwhile, holds what no image may hold,
    or is not what its sha256 or digest says.
    """
    known = record if record is not None and record.contents is not None and not record.problem else None
    return _module(image.source).resolve(instance, image, known, refresh)


def import_image(
    instance: Instance, name: str, image: Image, resolved: Resolved, owner: Owner, progress: Progress
) -> None:
    """Make the layers that `resolve` has seen, unless they are there, then the record; all of it survives a
    power cut.

    Raises ImageError when the source cannot be an image or is no longer what `resolved` says, ConflictError
    when the record is someone else's. Nothing is left of what could not be finished, but a download.
    """
    images.refuse_foreign(instance, name, owner)
    folders.prepare(instance)
    try:
        made_of = _contents(instance, image, resolved, progress)
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


def _contents(instance: Instance, image: Image, resolved: Resolved, progress: Progress) -> Contents:
    if images.is_whole(instance, resolved.digest):
        return images.contents(instance, resolved.digest)
    with layers.batch(instance, progress) as batch:
        return _module(image.source).fetch(batch, image, resolved)


def limits_of(image: Image) -> Limits:
    return Limits(entries=image.limits.files, bytes=image.limits.size)


class Kind(Protocol):
    """What the module of a kind of source has: `resolve` says what it is now, `fetch` makes its layers."""

    def resolve(
        self, instance: Instance, image: Image, known: ImageRecord | None, refresh: bool
    ) -> Resolved: ...
    def fetch(self, batch: Batch, image: Image, resolved: Resolved) -> Contents: ...


def _module(source: Source) -> Kind:
    """The module of a source's kind; some load much, which most commands do not need."""
    if source.kind in ("", "build"):
        raise ImageError("an image needs one source: host, directory, tar, oci or bootstrap")
    return cast(Kind, import_module(f"{__name__}.{source.kind}"))
