"""Images: import them when they are missing or their source has changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from vsprov.model import fields, objects
from vsprov.model.kinds.image import Image
from vsprov.model.objects import DELETION, PREVENT, Object, Spec, prevents_deletion
from vsprov.model.traits import replaced
from vsprov.model.values import digests
from vsprov.model.values.units import format_bytes
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.compare import diff
from vsprov.plan.kinds.planner import KindPlanner, Shown, register
from vsprov.plan.observed import ObservedImage, is_of, set_of
from vsprov.plan.plan import Change, PathChange, change, removal, show
from vsprov.plan.steps import ImportImage, ProtectImage, RemoveImage, ShareImage, Step

SIZE = "limits.size"
COMMITTED = "(commit)"  # instead of the name of a set: that of images made by `vsprov commit`


def plan(builder: PlanBuilder) -> None:
    """Add a change for every wanted image that is missing or has changed."""
    for want in builder.of("Image").values():
        seen = builder.observed.images.get(want.name)
        if seen is None or _is_ours_or_equal(builder, want, seen):
            found = _change(builder, want, seen)
            if found:
                _refuse_unknown_networks(builder, want)
            builder.add(want.address, found)


def _refuse_unknown_networks(builder: PlanBuilder, want: Object) -> None:
    seen = builder.observed.networks
    for name in networks(want.spec):
        if name not in builder.of("Network") and not (seen and name in seen.networks):
            message = f"network {name} not found in the manifest or on this host"
            builder.problem(want.address, message, path="spec.source.build.steps")


def _is_ours_or_equal(builder: PlanBuilder, want: Object, seen: ObservedImage) -> bool:
    """Whether an image in the store may become what is wanted; adds a problem if not.

    Sets of one instance share an image whose spec is the same in all of them.
    """
    others = _other_owners(builder, seen)
    if seen.owners and not others:
        return True
    if not seen.owners or not all(is_of(owner, builder.wanted.instance) for owner in others):
        foreign = next((owner for owner in others if not is_of(owner, builder.wanted.instance)), None)
        return not builder.refuse_foreign(want.address, foreign, f"image {want.name}")
    if not seen.spec or _is_same(want, seen, builder.wanted.digests[want.name]):
        return True
    builder.problem(
        want.address,
        f"image {want.name} is another one in set {_sets(others)}: "
        + "; ".join(
            f"{path} is {show(old)} there and {show(new)} here"
            for path, old, new in diff.differences(dict(seen.spec), fields.write(want.spec))
        ),
        "rename the image here or there; sets share an image if its spec is the same in all of them",
    )
    return False


def _other_owners(builder: PlanBuilder, seen: ObservedImage) -> tuple[str, ...]:
    return tuple(owner for owner in seen.owners if not builder.wanted.owns(owner))


def _sets(owners: Iterable[str]) -> str:
    return ", ".join(sorted(set_of(owner) or "" for owner in owners))


def _change_of_sets(seen: ObservedImage, owners: tuple[str, ...]) -> PathChange:
    before, after = (sorted(set_of(owner) or "" for owner in each) for each in (seen.owners, owners))
    return PathChange("sets", before, after, "none", (", ".join(before) or "—", ", ".join(after)))


def _change(builder: PlanBuilder, want: Object, seen: ObservedImage | None) -> Change | None:
    spec, after = fields.write(want.spec), tuple(needs(want))
    steps: tuple[Step, ...] = (ImportImage(want.name),)
    digest, protection = builder.wanted.digests[want.name], _protection(builder, want, seen)
    if seen is None:
        steps += protection[:1]
        return Change("Image", want.name, "create", "none", "missing", desired=spec, steps=steps, after=after)
    before = dict(seen.spec)
    joins = not any(map(builder.wanted.owns, seen.owners))
    owners = (*seen.owners, builder.wanted.owner)
    if seen.digest == digest and _is_same(want, seen, digest):
        if not joins and not protection:
            return None
        steps = (ShareImage(want.name, owners, seen.owners),) if joins else ()
        shares = (_change_of_sets(seen, owners),) if joins else ()
        return Change(
            "Image", want.name, "update", "none", "changed", (*shares, *protection[1:]), before, spec,
            (*steps, *protection[:1]), after,
        )  # fmt: skip
    paths = [_change_of(path, old, new) for path, old, new in diff.differences(before, spec)]
    paths += protection[1:]
    steps += protection[:1]
    if joins:
        paths.append(_change_of_sets(seen, owners))
    if seen.digest != digest:
        texts = (digests.short(seen.digest) or "broken", digests.short(digest))
        old, new = digests.full(seen.digest), digests.full(digest)
        paths.append(PathChange("spec.source", old, new, "none", texts))
    return Change("Image", want.name, "update", "none", "changed", tuple(paths), before, spec, steps, after)


def _protection(
    builder: PlanBuilder, want: Object, seen: ObservedImage | None
) -> tuple[()] | tuple[ProtectImage, PathChange]:
    """The step and the change by which this set protects an image from removal, or no longer does."""
    own, before = set_of(builder.wanted.owner) or "", seen.protected if seen else ()
    others, protects = [name for name in before if name != own], prevents_deletion(want.annotations)
    after = tuple(sorted([*others, *([own] if protects else [])]))
    if after == before:
        return ()
    texts = (PREVENT if own in before else None, PREVENT if protects else None)
    return ProtectImage(want.name, after, before), change(f"metadata.annotations.{DELETION}", *texts, "none")


def _change_of(path: str, before: Any, after: Any) -> PathChange:
    found = change(f"spec.{path}", before, after, "none")
    if path != SIZE or not all(isinstance(size, int) for size in (before, after)):
        return found
    return replace(found, shown=(format_bytes(before), format_bytes(after)))


def _is_same(want: Object, seen: ObservedImage, digest: str) -> bool:
    """Whether the specs are the same, or the same content is wanted from another directory."""
    if seen.spec == fields.write(want.spec):
        return True
    return seen.digest == digest and seen.spec == comparable(want, seen.spec)


def comparable(want: Object, seen: Mapping[str, Any]) -> dict[str, Any]:
    """The wanted spec, or `seen` if they differ only in paths that are relative in manifests.

    Two checkouts of a repository have the same files in two places.
    """
    recorded = objects.read_spec("Image", seen, lambda path, error: None)
    same = recorded is not None and _without_places(recorded) == _without_places(want.spec)
    return dict(seen) if same else fields.write(want.spec)


def _without_places(spec: Spec) -> Spec:
    return replaced(spec, "relative", lambda path: "")


def needs(want: Object) -> Iterable[str]:
    """The image that a built image is based on, and the networks of its steps."""
    build = want.spec.source.build if isinstance(want.spec, Image) else None
    if build is None:
        return ()
    return (f"Image/{build.from_}", *(f"Network/{name}" for name in networks(want.spec)))


def networks(spec: Spec) -> list[str]:
    """The networks of the steps of a built image."""
    build = spec.source.build if isinstance(spec, Image) else None
    used = [step.run.network for step in build.steps if step.run is not None] if build else []
    return [name for name in dict.fromkeys(used) if name not in ("none", "host")]


def remove(builder: PlanBuilder, name: str) -> Change:
    """The change that removes an image, or this set from its owners if there are others.

    `removals` has checked that nothing uses an image that is removed.
    """
    seen = builder.observed.images[name]
    spec = dict(seen.spec)
    if others := _other_owners(builder, seen):
        share = (ShareImage(name, others, seen.owners),)
        paths = (_change_of_sets(seen, others),)
        return Change("Image", name, "update", "none", "not in the manifest", paths, spec, spec, share)
    return removal("Image", name, (RemoveImage(name),), spec)


def shown(name: str, from_: Shown, ignore: frozenset[str]) -> dict[str, Any]:
    """The spec that the image was imported with."""
    return dict(from_.observed.images[name].spec)


def readable(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec with sizes in the notation of manifests (64Gi)."""
    limits = spec.get("limits")
    if not limits or not isinstance(limits.get("size"), int):
        return dict(spec)
    return {**spec, "limits": {**limits, "size": format_bytes(limits["size"])}}


register(
    KindPlanner(
        "Image",
        observed=lambda observed: observed.images,
        owners=lambda image: image.owners or (None,),
        shared=True,
        plan=plan,
        remove=remove,
        show=shown,
        needs=needs,
        comparable=comparable,
        readable=readable,
        protected=lambda image: bool(image.protected),
    )
)
