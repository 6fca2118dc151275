"""What a change costs a running server, key by key. The longest matching prefix of a path decides."""

from __future__ import annotations

from typing import Literal

Cost = Literal["none", "live", "restart", "recreate"]
ORDER: tuple[Cost, ...] = ("none", "live", "restart", "recreate")

SERVER: dict[str, Cost] = {
    "image": "restart",
    "quota": "restart",  # another parent group: the root of the guest's cgroup namespace cannot be moved
    "resources": "live",
    "state": "none",
    "hostname": "live",
    "init": "restart",
    "init.stopSignal": "live",
    "init.stopTimeout": "live",
    "mounts": "restart",
    "security": "restart",
    "dependsOn": "live",
    "ephemeral": "recreate",
    "labels": "live",
    "annotations": "live",
}


def cost_of(path: str) -> Cost:
    """The cost of changing the server's key at `path` ("init.env.A"); KeyError for a key no row covers."""
    while path not in SERVER:
        path, dot, _ = path.rpartition(".")
        if not dot:
            raise KeyError(path)
    return SERVER[path]


def highest(costs: list[Cost]) -> Cost:
    """The highest of `costs`; "none" of none."""
    return max(costs, key=ORDER.index, default="none")
