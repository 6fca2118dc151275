"""The `tar` source: an archive of a root file system."""

from __future__ import annotations

import os
import re

from vsprov.errors import ImageError
from vsprov.model.kinds.image import Image
from vsprov.store.images import Contents, ImageRecord
from vsprov.store.instance import Instance
from vsprov.store.layers import unpacking
from vsprov.store.layers.layers import Batch
from vsprov.store.sources import Resolved, limits_of
from vsprov.store.sources.files import opened_file, plain, resolve_file

# What archives of docker save, podman save and skopeo copy have at their top.
_OF_IMAGE_ARCHIVES = re.compile(r"blobs|oci-layout|repositories|[^/]*\.json|[0-9a-f]{64}(\.tar)?")


def resolve(instance: Instance, image: Image, known: ImageRecord | None, refresh: bool) -> Resolved:
    assert image.source.tar is not None
    resolved = resolve_file(plain(image.source.tar.path), "tar", known)
    wanted = image.source.tar.sha256
    if wanted is not None and wanted.lower() != resolved.digest:
        raise ImageError(
            f"{image.source.tar.path}: expected sha256 {wanted.lower()}, got {resolved.digest}",
            hint="this is not the file that the manifest names; fetch it again, or correct sha256",
        )
    return resolved


def fetch(batch: Batch, image: Image, resolved: Resolved) -> Contents:
    assert image.source.tar is not None
    path = plain(image.source.tar.path)

    def fill(into: str) -> None:
        with opened_file(path) as archive:
            done = unpacking.unpack(
                archive, into, whole=True, limits=limits_of(image), progress=batch.progress, label=path
            )
        if done.sha256 != resolved.digest:
            raise ImageError(
                f"{path}: changed after it was checked", hint="try again when nothing writes to it"
            )
        if _is_image_archive(into):
            raise ImageError(
                f"{path}: an archive of an image, not of a root file system",
                hint="use source: {oci: {archive: …}}",
            )
        batch.note(done.note)

    batch.make(resolved.digest, fill)
    return Contents((resolved.digest,))


def _is_image_archive(folder: str) -> bool:
    """Whether what was unpacked is an image as `docker save` writes it, and nothing else."""
    names = os.listdir(folder)
    return not {"manifest.json", "oci-layout"}.isdisjoint(names) and all(
        map(_OF_IMAGE_ARCHIVES.fullmatch, names)
    )
