"""The manifests of an apply, read together with the names of the images that the store has."""

from __future__ import annotations

import os

from msgspec import Struct

from vsprov.manifest import load as manifests
from vsprov.manifest.load import Manifest
from vsprov.store.instance import Instance


class Inputs(Struct, frozen=True):
    """Where a manifest comes from; see `vsprov.manifest.load.load`."""

    paths: tuple[str, ...]
    recursive: bool = False
    template: bool = False
    values: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()


def read(inputs: Inputs, instance: Instance | None = None, *, references: bool = True) -> Manifest:
    """The manifest. Servers may use images that are in the instance's store; without an instance, images of
    any store. Without `references`, objects it refers to may be missing. Raises ManifestError.
    """
    return read_with_images(inputs, stored_images(instance) if instance else None, references=references)


def read_with_images(
    inputs: Inputs, known_images: frozenset[str] | None, *, references: bool = True
) -> Manifest:
    """The manifest, where servers may also use the images `known_images`; None: any. Raises ManifestError."""
    return manifests.load(
        inputs.paths,
        recursive=inputs.recursive,
        template=inputs.template,
        values=inputs.values,
        sets=inputs.sets,
        known_images=known_images,
        references=references,
    )


def stored_images(instance: Instance) -> frozenset[str] | None:
    """Names of the images in the store; None where only root may read them."""
    try:
        names = os.listdir(instance.images)
    except PermissionError:
        return None
    except OSError:
        return frozenset()
    return frozenset(
        name.removesuffix(".json") for name in names if name.endswith(".json") and not name.startswith(".")
    )
