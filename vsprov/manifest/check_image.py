"""What no schema can say of an image by itself. A check is one function in `IMAGE_CHECKS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vsprov.errors import Problem
from vsprov.manifest.check_object import KERNEL_FOLDERS, is_below, wrong_path
from vsprov.manifest.problems import Path
from vsprov.manifest.resolve import Item
from vsprov.model.image_reference import parse_reference
from vsprov.model.objects import Image
from vsprov.model.units import UnitError

SOURCE: Path = ("spec", "source")
STEPS: Path = (*SOURCE, "build", "steps")


def host_paths(item: Item, image: Image) -> Iterator[Problem]:
    host = image.source.host
    for i, path in enumerate(host.paths if host else ()):
        wrong = wrong_path(path)
        if wrong:
            yield item.problem((*SOURCE, "host", "paths", i), wrong)


def oci(item: Item, image: Image) -> Iterator[Problem]:
    found = image.source.oci
    if found is None:
        return
    if found.ref is None:
        if found.insecure:
            message = "only a registry can be insecure"
            yield item.problem((*SOURCE, "oci", "insecure"), message, "leave it away")
        return
    if found.name is not None:
        yield item.problem((*SOURCE, "oci", "name"), "a reference has its name in it", "leave it away")
    try:
        reference = parse_reference(found.ref)
    except UnitError as error:
        yield item.problem((*SOURCE, "oci", "ref"), str(error), error.hint)
        return
    if found.digest and reference.digest and found.digest != f"sha256:{reference.digest}":
        message = f"the reference has another digest in it: sha256:{reference.digest}"
        yield item.problem((*SOURCE, "oci", "digest"), message)


def build_paths(item: Item, image: Image) -> Iterator[Problem]:
    """A step reaches neither out of the image nor into what a server's own kernel file systems hide."""
    build = image.source.build
    for i, step in enumerate(build.steps if build else ()):
        places = []
        if step.copy is not None:
            places.append((("copy", "target"), step.copy.target.rstrip("/") or "/", ""))
        if step.write is not None:
            places.append((("write", "path"), step.write.path, "the root is no file"))
        for keys, path, root in places:
            wrong = wrong_path(path, root=root)
            inside = next((folder for folder in KERNEL_FOLDERS if is_below(path, folder)), None)
            if wrong:
                yield item.problem((*STEPS, i, *keys), wrong)
            elif inside:
                message = f"servers have a {inside} of their own, which would hide it"
                yield item.problem((*STEPS, i, *keys), message)


IMAGE_CHECKS: tuple[Callable[[Item, Image], Iterator[Problem]], ...] = (
    host_paths,
    oci,
    build_paths,
)
