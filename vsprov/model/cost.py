"""The cost of a change to a running server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from vsprov.model.fields import keys

Cost = Literal["none", "live", "restart", "recreate"]
COSTS: tuple[Cost, ...] = ("none", "live", "restart", "recreate")


def highest(costs: Iterable[Cost]) -> Cost:
    """The highest of `costs`, or "none"."""
    return max(costs, key=COSTS.index, default="none")


def cost_of(kind: type, path: str) -> Cost:
    """The cost of changing the key at `path` ("init.env.A"). Raises KeyError for a key that `kind` lacks."""
    cost: Cost | None = None
    inside: type | None = kind
    for name in path.split("."):
        key = keys(inside).get(name) if inside else None
        if key is None:
            break
        cost = key.cost or cost
        inside = key.one or key.many
    if cost is None:
        raise KeyError(path)
    return cost
