"""Images in `get`."""

from __future__ import annotations

from typing import Any

from vsprov.engine.kinds.view import KindView, View, register
from vsprov.model.values import digests
from vsprov.plan.observed import set_of


def status(name: str, view: View) -> dict[str, Any]:
    """The status of an image: its digest, null if it is broken, and its set."""
    image = view.shown.observed.images[name]
    return {"digest": digests.full(image.digest) or None, "set": set_of(image.owner)}


register(KindView("Image", status))
