"""Which images a pull is asked for: those of manifests, those in the store, or one of a registry."""

from __future__ import annotations

import os
from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from vsprov.engine.desired.inputs import Inputs, read, stored_images
from vsprov.engine.desired.lockfile import locked
from vsprov.engine.desired.project import owner_set
from vsprov.engine.images import imagestore
from vsprov.errors import UsageError
from vsprov.kernel import process
from vsprov.manifest import load as manifests
from vsprov.manifest.load import Manifest
from vsprov.model.kinds.image import Image
from vsprov.model.objects import API_VERSION, DELETION, PREVENT, Object
from vsprov.plan.observed import set_of
from vsprov.store import images
from vsprov.store.instance import Instance


class ImagesToPull(Struct, frozen=True):
    """Images, their owner ("instance/set"), and the manifest they come from; empty if from elsewhere."""

    owner: str
    images: tuple[Object, ...]
    manifest: Manifest = Manifest()


def to_pull(
    instance: Instance,
    given: Inputs,
    *,
    name: str | None = None,
    insecure: bool = False,
    set_name: str | None = None,
) -> ImagesToPull:
    """The images that `given.paths` stand for: files and directories are manifests, names of images in the
    store are these, and anything else with "/", ":" or "@" in it is a reference, whose image gets `name`.

    Raises UsageError for a mixture of them, ManifestError and FailedError.
    """
    stored = stored_images(instance) or frozenset()
    names = [name for name in map(image_name, given.paths) if name in stored]
    others = [path for path in given.paths if image_name(path) not in stored]
    paths = [path for path in others if path == "-" or os.path.exists(path)]
    unknown = [path for path in others if path not in paths]
    references = [path for path in unknown if "/" in path or ":" in path or "@" in path]
    names += [path for path in unknown if path not in references]
    if references:
        if len(given.paths) > 1 or name is None:
            raise UsageError(
                f"image pull {references[0]}: an image from a registry needs --name, and is pulled alone",
                hint=f"vsprov image pull {references[0]} --name NAME; if it is a file: it does not exist",
            )
        owner = f"{instance.name}/{owner_set(set_name, ())}"
        image = _from_registry(references[0], name, insecure)
        return ImagesToPull(owner, _protected(instance, owner, (image,)))
    if name is not None or insecure:
        raise UsageError("--name and --insecure: only with the reference of an image")
    if paths and names:
        raise UsageError(
            f"image pull: {names[0]} is not a file, and {paths[0]} is one",
            hint="pull images of manifests and images in the store separately",
        )
    return _from_store(instance, names) if names else _from_manifest(instance, given, set_name)


def _from_registry(reference: str, name: str, insecure: bool) -> Object:
    spec = {"source": {"oci": {"ref": reference, "insecure": insecure}}}
    document = {"apiVersion": API_VERSION, "kind": "Image", "metadata": {"name": name}, "spec": spec}
    return manifests.load_documents([document]).objects[0]


def _from_store(instance: Instance, names: list[str]) -> ImagesToPull:
    process.require_root("image pull: reading the image store")
    objects = tuple(imagestore.recorded(instance, name) for name in names)
    records = images.observe(instance)
    owners = [frozenset(map(str, records[name].owners)) for name in names]
    if not (common := frozenset.intersection(*owners)):
        every = sorted(frozenset.union(*owners))
        raise UsageError(f"image pull: the images belong to different sets: {', '.join(every)}")
    return ImagesToPull(min(common), _protected(instance, min(common), objects))


def _protected(instance: Instance, owner: str, objects: Iterable[Object]) -> tuple[Object, ...]:
    """The images with the annotation by which the set protects them now: a pull leaves it as it is."""
    records = images.observe(instance)
    return tuple(
        replace(one, annotations={DELETION: PREVENT})
        if one.name in records and set_of(owner) in records[one.name].protected
        else one
        for one in objects
    )


def _from_manifest(instance: Instance, given: Inputs, set_name: str | None) -> ImagesToPull:
    manifest = read(given, instance, references=False)
    objects = tuple(one for one in locked(manifest, must=False) if isinstance(one.spec, Image))
    return ImagesToPull(f"{instance.name}/{owner_set(set_name, manifest.files)}", objects, manifest)


def image_name(word: str) -> str:
    """The name of an image in `NAME` or `image/NAME`."""
    kind, slash, rest = word.partition("/")
    return rest if slash and kind.lower() == "image" else word
