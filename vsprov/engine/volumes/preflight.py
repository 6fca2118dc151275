"""Checks on the host whether volumes can be created and mounted, before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vsprov.errors import FailedError, Problem, reason
from vsprov.kernel import idmap, overlay, paths
from vsprov.model.kinds.volume import Volume
from vsprov.model.objects import Object
from vsprov.model.values.units import format_bytes, format_rough
from vsprov.plan.plan import Plan
from vsprov.plan.volumes.steps import MakeVolume, MoveVolume, RenameVolume
from vsprov.store.instance import Instance
from vsprov.store.volumes import directory


def problems(root: str, plan: Plan, objects: Iterable[Object]) -> Iterator[Problem]:
    """The reasons why volumes that the plan creates or mounts cannot be; `root` is the state root."""
    makes = {step.volume for change in plan.changes for step in change.steps if isinstance(step, MakeVolume)}
    place = paths.existing(root)
    try:
        idmap.refuse_unmappable(place)
    except OSError as error:
        kind = overlay.file_system(place)
        message = f"state root {root}: volumes need idmapped mounts, which {kind} refuses: {reason(error)}"
        yield Problem(message, None, "", "Host", "choose another --root; see vsprov doctor", lack=True)
    yield from _too_small(root, plan)
    for want in objects:
        if isinstance(want.spec, Volume) and want.name in makes:
            yield from _of_source(want, want.spec)


def _too_small(root: str, plan: Plan) -> Iterator[Problem]:
    """The limits that volumes are to get, and that are below what they contain. Measures these volumes."""
    instance = Instance(root=root)
    for change in plan.changes:
        moves = (step for step in change.steps if isinstance(step, MoveVolume))
        for step in moves if change.kind == "Volume" else ():
            names = (each.volume for each in change.steps if isinstance(each, RenameVolume))
            used = directory.data_size(instance, next(names, step.volume))
            if 0 < step.after.space < used:
                contains = f"what the volume contains, {format_rough(used)}"
                message = f"{format_bytes(step.after.space)} is less than {contains}"
                yield Problem(message, None, "spec.size", change.address, "choose a higher limit")


def _of_source(want: Object, spec: Volume) -> Iterator[Problem]:
    if spec.source is None or spec.source.tar is None:
        return
    from vsprov.store.sources.files import opened_file, plain

    try:
        with opened_file(plain(spec.source.tar.path)):
            pass
    except FailedError as error:
        yield Problem(str(error), None, "spec.source.tar.path", want.address, error.hint)
