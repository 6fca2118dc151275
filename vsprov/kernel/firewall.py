"""The instance's nft tables, through nft(8). A placeholder without tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vsprov.plan.network.state import Tables


def lacking() -> str:
    """Why the firewall cannot be used on this host; "" if it can."""
    return ""


def read(instance: str) -> Tables:
    """The tables of an instance."""
    return {}


def run(commands: Sequence[Mapping[str, Any]]) -> None:
    """Carry out commands in one transaction."""


def foreign_drops() -> tuple[str, ...]:
    """Descriptions of rulesets of others that drop forwarded packets."""
    return ()
