"""The instance's nft tables. A placeholder without rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vsprov.plan.network.state import FirewallNetwork, Member, Tables

Commands = list[Mapping[str, Any]]


def tables(instance: str, networks: Sequence[FirewallNetwork], members: Sequence[Member]) -> Tables:
    return {}


def changes(wanted: Tables, seen: Tables) -> tuple[Commands, Commands, Commands, list[str]]:
    return [], [], [], []
