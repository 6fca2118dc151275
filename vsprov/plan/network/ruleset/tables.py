"""The tables of an instance."""

from __future__ import annotations

from collections.abc import Sequence

from vsprov.plan.network.ruleset import bridge, inet
from vsprov.plan.network.ruleset.text import table_name
from vsprov.plan.network.state import FirewallNetwork, Member, Tables


def tables(instance: str, networks: Sequence[FirewallNetwork], members: Sequence[Member]) -> Tables:
    """The tables for these networks and the interfaces of running servers; none without networks."""
    if not networks:
        return {}
    name = table_name(instance)
    out = {"inet": inet.table(name, networks, members)}
    bridged = {network.name for network in networks if not network.routed}
    if bridged:
        out["bridge"] = bridge.table(name, [each for each in members if each.network in bridged])
    return out
