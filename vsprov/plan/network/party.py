"""The servers that have to do with networks, as planning sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vsprov.model.kinds.server import Server


@dataclass(frozen=True, slots=True)
class Party:
    """A server that networks have to do with; `listed`: it is among the wanted objects, not only recorded.

    `recorded` are the addresses that its interfaces were given.
    """

    name: str
    spec: Server
    running: bool
    listed: bool
    recorded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
