"""Importing images: resolve their sources to digests, then import each in a thread of its own."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, Any

from vsprov.engine.run.context import ApplyContext
from vsprov.errors import FailedError, HostError, Problem
from vsprov.model.kinds.image import Image
from vsprov.model.objects import Object
from vsprov.plan.steps import ImportImage
from vsprov.store import images, sources
from vsprov.store.disk.marks import Owner
from vsprov.store.images import ImageRecord
from vsprov.store.instance import Instance
from vsprov.store.sources import Resolved

if TYPE_CHECKING:
    from vsprov.engine.run.schedule import Wait


def resolve(
    instance: Instance, objects: Iterable[Object], known: Mapping[str, Resolved], *, refresh: bool = False
) -> tuple[dict[str, Resolved], list[Problem]]:
    """({image name: the current state of its source}, problems of the images that cannot be resolved).

    An image that is built on another one is resolved after it, in any order of the manifest. Those that are
    `known` are not resolved again, unless only the import has shown their defaults for servers.
    """
    records = images.observe(instance)
    wanted = {one.name: one for one in objects if isinstance(one.spec, Image)}
    found = {name: one for name, one in known.items() if name in wanted and one.config is not None}
    problems: list[Problem] = []
    for one in _in_order({name: one for name, one in wanted.items() if name not in found}):
        assert isinstance(one.spec, Image)
        try:
            found[one.name] = _resolve(instance, one.name, one.spec, records, found, refresh)
        except HostError as error:
            problems.append(Problem(str(error), None, "spec.source", one.address, error.hint, lack=True))
        except FailedError as error:
            problems.append(Problem(str(error), None, "spec.source", one.address, error.hint))
    return found, problems


def _in_order(wanted: Mapping[str, Object]) -> Iterator[Object]:
    """The images, each after the one it is built on. The manifest has been checked for cycles."""
    bases = {}
    for name, one in wanted.items():
        build = one.spec.source.build if isinstance(one.spec, Image) else None
        bases[name] = [build.from_] if build and build.from_ in wanted else []
    return (wanted[name] for name in TopologicalSorter(bases).static_order())


def _resolve(
    instance: Instance,
    name: str,
    image: Image,
    records: Mapping[str, ImageRecord],
    found: Mapping[str, Resolved],
    refresh: bool,
) -> Resolved:
    if image.source.build is not None:
        from vsprov.engine.images import building  # imports tarfile, which few manifests need

        return building.resolve(image.source.build, records, found)
    return sources.resolve(instance, image, records.get(name), refresh=refresh)


def import_image(context: ApplyContext, step: ImportImage, owner: Owner) -> Generator[Wait, Any, None]:
    """Import one image into the store."""
    want = context.wanted[f"Image/{step.image}"]
    assert isinstance(want.spec, Image)
    image, resolved, progress = (
        want.spec,
        context.resolved[step.image],
        context.threads.progress(want.address),
    )
    if image.source.build is not None:
        from vsprov.engine.images import building

        yield from building.import_image(context, step, owner)
    else:
        notes = yield from context.threads.run(
            lambda: sources.import_image(context.instance, step.image, image, resolved, owner, progress)
        )
        for note in notes:
            context.notice(f"{want.address}: {note}")
    context.forget_images()
