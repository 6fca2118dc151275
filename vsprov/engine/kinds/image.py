"""Images in `get`."""

from __future__ import annotations

from typing import Any

from vsprov.engine.kinds.view import KindView, View, register
from vsprov.model.objects import DELETION, PREVENT
from vsprov.model.values import digests
from vsprov.plan.observed import ObservedImage, set_of


def status(name: str, view: View) -> dict[str, Any]:
    """The status of an image: its digest, null if it is broken, and the sets that have it."""
    image = view.shown.observed.images[name]
    return {"digest": digests.full(image.digest) or None, "sets": sorted(map(str, map(set_of, image.owners)))}


def metadata(image: ObservedImage) -> dict[str, Any]:
    """Its protection from removal, the only annotation of images that is recorded."""
    return {"annotations": {DELETION: PREVENT}} if image.protected else {}


register(KindView("Image", status, metadata))
