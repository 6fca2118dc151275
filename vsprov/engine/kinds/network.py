"""Networks in `get`."""

from __future__ import annotations

from typing import Any

from vsprov.engine.kinds.view import KindView, View, register


def status(name: str, view: View) -> dict[str, Any]:
    """The status of a network."""
    return {}


register(KindView("Network", status))
