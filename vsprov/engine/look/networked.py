"""Which objects have to do with networks: only for these are networks observed."""

from __future__ import annotations

from vsprov.model.objects import Object
from vsprov.plan.observed import ObservedServer


def is_networked(want: Object) -> bool:
    """Whether a wanted object is a network, or has interfaces."""
    return want.kind == "Network" or bool(getattr(want.spec, "interfaces", ()))


def had_interfaces(seen: ObservedServer) -> bool:
    """Whether a server was applied with interfaces."""
    return seen.applied is not None and bool(seen.applied["spec"].get("interfaces"))
