"""The change of each wanted volume."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vsprov.model import fields
from vsprov.model.cost import Cost, highest
from vsprov.model.kinds.volume import Volume
from vsprov.model.objects import Object
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.compare import applied, diff
from vsprov.plan.plan import Change, PathChange, change, removal
from vsprov.plan.step import Step
from vsprov.plan.volumes import space
from vsprov.plan.volumes.state import ObservedVolume, volumes
from vsprov.plan.volumes.steps import MakeVolume, RemoveVolume, RenameVolume, SetVolumeRoot, WriteVolume

SOURCE_NOTE = "the source has no effect on the files of a volume that exists"


def plan(builder: PlanBuilder) -> None:
    """Add the changes of the wanted volumes."""
    for want in builder.of("Volume").values():
        seen = volumes(builder.observed).get(want.name)
        if seen and builder.refuse_foreign(want.address, seen.owner, f"volume {want.name}"):
            continue
        if seen and seen.problem:
            hint = f"restore its files, or remove it: vsprov delete volume {want.name}"
            builder.problem(want.address, seen.problem, hint)
            continue
        if seen is None:
            _refuse_unknown_image(builder, want)
        builder.add(want.address, _create(builder, want) if seen is None else _update(builder, want, seen))


def needs(want: Object) -> Iterator[str]:
    """The image that the files of a volume come from."""
    spec = want.spec
    assert isinstance(spec, Volume)
    if spec.source and spec.source.image:
        yield f"Image/{spec.source.image.name}"


def _refuse_unknown_image(builder: PlanBuilder, want: Object) -> None:
    for address in needs(want):
        name = address.partition("/")[2]
        if name not in builder.of("Image") and name not in builder.observed.images:
            message = f"image {name} not found in the manifest or the store"
            builder.problem(want.address, message, path="spec.source.image.name")


def record(want: Object) -> dict[str, Any]:
    """The record of a volume."""
    return {
        "spec": fields.write(want.spec),
        "labels": dict(want.labels),
        "annotations": dict(want.annotations),
    }


def _create(builder: PlanBuilder, want: Object) -> Change:
    assert isinstance(want.spec, Volume)
    limit, problems = space.create(want.address, want.spec, builder.machine)
    builder.problems += problems
    step = MakeVolume(want.name, builder.wanted.owner, applied.to_text(record(want)), limit)
    desired = fields.write(want.spec)
    return Change(
        "Volume", want.name, "create", "none", "missing", (), None, desired, (step,), tuple(needs(want))
    )


def _update(builder: PlanBuilder, want: Object, seen: ObservedVolume) -> Change | None:
    assert isinstance(want.spec, Volume)
    now = record(want)
    used_by = space.users(builder, want.name)
    limits = space.compare(want.address, want.spec, seen, builder.machine, used_by)
    builder.problems += limits.problems
    text, before = applied.to_text(now), applied.to_text(seen.applied) if seen.applied else ""
    paths = [*_paths(seen, now), *limits.paths]
    steps: list[Step] = [RenameVolume(seen.formerly, want.name)] if seen.formerly else []
    steps += [limits.step] if limits.step else []
    if seen.applied is not None:
        steps += _root(want, seen)
    if text != before:
        steps.append(WriteVolume(want.name, text, before))
    if not steps:
        return None
    if not paths:
        paths.append(change("status.record", "outdated", "as in the manifest", "live"))
    notes = (SOURCE_NOTE,) if any(path.path.startswith("spec.source") for path in paths) else ()
    same = text == before and not seen.formerly
    reason = "drift" if seen.applied is None or same else "changed"
    cost = highest(("live", *(path.cost for path in paths)))
    return Change(
        "Volume", want.name, "update", cost, reason, tuple(paths), space.shown(seen.spec, seen.space),
        now["spec"], tuple(steps), notes=notes,
    )  # fmt: skip


def _root(want: Object, seen: ObservedVolume) -> Iterator[Step]:
    """The step that sets what the manifest now says of the root directory, which servers may change."""
    spec = want.spec
    assert isinstance(spec, Volume)
    owner = spec.owner if spec.owner and spec.owner != seen.spec.get("owner") else ""
    mode = spec.mode if spec.mode and spec.mode != seen.spec.get("mode") else ""
    if owner or mode:
        # In an image that is not mounted, only the record says what they are.
        before = seen.root if seen.root[0] else (seen.spec.get("owner", ""), seen.spec.get("mode", ""))
        yield SetVolumeRoot(want.name, owner, mode, before)


def _paths(seen: ObservedVolume, now: Mapping[str, Any]) -> Iterator[PathChange]:
    if seen.formerly:
        yield change("metadata.name", seen.formerly, seen.name, "live")
    if seen.applied is None:
        yield change("spec", "unknown: its record is lost or was edited", "as in the manifest", "live")
        return
    recorded, spec = space.without(seen.spec), space.without(now["spec"])
    for path, old, new in diff.differences(recorded, spec):
        cost: Cost = "none" if path.startswith("source") else "live"
        yield PathChange(f"spec.{path}", old, new, cost, diff.texts(path, old, new))
    for key in ("labels", "annotations"):
        for path, old, new in diff.differences({key: seen.applied.get(key, {})}, {key: now[key]}):
            yield change(f"metadata.{path}", old, new, "live")


def remove(builder: PlanBuilder, name: str) -> Change | None:
    """The change that removes a volume; None, with a problem, if it has data and was not named for that."""
    seen = volumes(builder.observed)[name]
    if not seen.empty and name not in builder.wanted.delete_data:
        message = "cannot be removed: it has data, and was not named for that"
        builder.problem(f"Volume/{name}", message, f"to delete its data, add --delete-data {name}")
        return None
    cost: Cost = "none" if seen.empty else "recreate"
    step = RemoveVolume(name, name in builder.wanted.delete_data)
    return removal("Volume", name, (step,), dict(seen.spec), cost)
