"""Networks: their records, bridges, and what the servers connected to them share."""

from __future__ import annotations

from typing import Any

from vsprov.model.kinds.server import Server
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.kinds.planner import KindPlanner, Shown, register
from vsprov.plan.plan import Change, removal


def plan(builder: PlanBuilder) -> None:
    """Refuse the wanted networks and interfaces: this version cannot create them yet."""
    for want in builder.of("Network").values():
        builder.problem(want.address, "networks are not supported by this version of vsprov")
    for want in builder.servers.values():
        if isinstance(want.spec, Server) and want.spec.interfaces:
            builder.problem(want.address, "interfaces are not supported by this version of vsprov")


def remove(builder: PlanBuilder, name: str) -> Change:
    """The change that removes a network."""
    return removal("Network", name, (), {})


def show(name: str, from_: Shown, ignore: frozenset[str]) -> dict[str, Any]:
    """The recorded spec of a network."""
    return {}


register(
    KindPlanner(
        "Network",
        observed=lambda observed: observed.more.get("Network", {}),
        owners=lambda seen: (seen.owner,),
        plan=plan,
        remove=remove,
        show=show,
    )
)
