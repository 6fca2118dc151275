"""The cost of a change to a running server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Cost = Literal["none", "live", "restart", "recreate"]
COSTS: tuple[Cost, ...] = ("none", "live", "restart", "recreate")


def highest(costs: Iterable[Cost]) -> Cost:
    """The highest of `costs`, or "none"."""
    return max(costs, key=COSTS.index, default="none")
