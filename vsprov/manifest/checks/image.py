"""Checks of single images. Each is a function in `IMAGE_CHECKS` that yields the problems it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vsprov.errors import Problem
from vsprov.manifest.checks.paths import KERNEL_DIRECTORIES, is_below, wrong_path
from vsprov.manifest.resolve import Item
from vsprov.model.fields import Path
from vsprov.model.kinds.image import Image
from vsprov.model.values import digests
from vsprov.model.values.image_reference import parse_reference
from vsprov.model.values.units import UnitError

SOURCE: Path = ("spec", "source")
STEPS: Path = (*SOURCE, "build", "steps")


def host_paths(item: Item, image: Image) -> Iterator[Problem]:
    """Paths of the host that are not normalized."""
    host = image.source.host
    for i, path in enumerate(host.paths if host else ()):
        wrong = wrong_path(path)
        if wrong:
            yield item.problem((*SOURCE, "host", "paths", i), wrong)


def oci(item: Item, image: Image) -> Iterator[Problem]:
    """Keys that do not apply to the source, and references that are invalid or contradict `digest`."""
    found = image.source.oci
    if found is None:
        return
    if found.ref is None:
        if found.insecure:
            message = "applies only to registries"
            yield item.problem((*SOURCE, "oci", "insecure"), message, "omit it")
        return
    if found.name is not None:
        yield item.problem((*SOURCE, "oci", "name"), "the reference already contains the name", "omit it")
    try:
        reference = parse_reference(found.ref)
    except UnitError as error:
        yield item.problem((*SOURCE, "oci", "ref"), str(error), error.hint)
        return
    if found.digest and reference.digest and found.digest != digests.full(reference.digest):
        message = f"the reference contains a different digest: {digests.full(reference.digest)}"
        yield item.problem((*SOURCE, "oci", "digest"), message)


def build_paths(item: Item, image: Image) -> Iterator[Problem]:
    """Paths of steps that lead out of the image or to places hidden by file systems of the kernel."""
    build = image.source.build
    for i, step in enumerate(build.steps if build else ()):
        places = []
        if step.copy is not None:
            places.append((("copy", "target"), step.copy.target.rstrip("/") or "/", ""))
        if step.write is not None:
            places.append((("write", "path"), step.write.path, "the root directory is not a file"))
        for keys, path, root in places:
            wrong = wrong_path(path, root=root)
            inside = next((each for each in KERNEL_DIRECTORIES if is_below(path, each)), None)
            if wrong:
                yield item.problem((*STEPS, i, *keys), wrong)
            elif inside:
                message = f"each server mounts its own {inside}, which would hide it"
                yield item.problem((*STEPS, i, *keys), message)


IMAGE_CHECKS: tuple[Callable[[Item, Image], Iterator[Problem]], ...] = (
    host_paths,
    oci,
    build_paths,
)
