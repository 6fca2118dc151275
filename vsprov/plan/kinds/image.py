"""Images: import them when they are missing or their source has changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vsprov.model import fields
from vsprov.model.objects import Image, Object
from vsprov.model.values import digests
from vsprov.plan import diff
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.kinds.planner import KindPlanner, Shown, register
from vsprov.plan.observed import ObservedImage
from vsprov.plan.plan import Change, PathChange, change, removal
from vsprov.plan.steps import ImportImage, RemoveImage


def plan(builder: PlanBuilder) -> None:
    """Add a change for every wanted image that is missing or has changed."""
    for want in builder.of("Image").values():
        seen = builder.observed.images.get(want.name)
        if seen is None or not builder.refuse_foreign(want.address, seen.owner, f"image {want.name}"):
            builder.add(want.address, _change(want, seen, builder.wanted.digests[want.name]))


def _change(want: Object, seen: ObservedImage | None, digest: str) -> Change | None:
    spec, steps, after = fields.write(want.spec), (ImportImage(want.name),), tuple(needs(want))
    if seen is None:
        return Change("Image", want.name, "create", "none", "missing", desired=spec, steps=steps, after=after)
    if seen.digest == digest and seen.spec == spec:
        return None
    before = dict(seen.spec)
    paths = [change(f"spec.{path}", old, new, "none") for path, old, new in diff.differences(before, spec)]
    if seen.digest != digest:
        texts = (digests.short(seen.digest) or "broken", digests.short(digest))
        old, new = digests.full(seen.digest), digests.full(digest)
        paths.append(PathChange("spec.source", old, new, "none", texts))
    return Change("Image", want.name, "update", "none", "changed", tuple(paths), before, spec, steps, after)


def needs(want: Object) -> Iterable[str]:
    """The image that a built image is based on."""
    build = want.spec.source.build if isinstance(want.spec, Image) else None
    return () if build is None else (f"Image/{build.from_}",)


def remove(builder: PlanBuilder, name: str) -> Change:
    """The change that removes an image; `removals` has checked that nothing uses it."""
    return removal("Image", name, (RemoveImage(name),), dict(builder.observed.images[name].spec))


def show(name: str, from_: Shown, ignore: frozenset[str]) -> dict[str, Any]:
    """The spec that the image was imported with."""
    return dict(from_.observed.images[name].spec)


register(
    KindPlanner(
        "Image",
        observed=lambda observed: observed.images,
        owners=lambda image: (image.owner,),
        plan=plan,
        remove=remove,
        show=show,
        needs=needs,
    )
)
