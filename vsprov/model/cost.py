"""What a change costs a running server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Cost = Literal["none", "live", "restart", "recreate"]
COSTS: tuple[Cost, ...] = ("none", "live", "restart", "recreate")


def highest(costs: Iterable[Cost]) -> Cost:
    """The highest of `costs`; "none" if there are none."""
    return max(costs, key=COSTS.index, default="none")
