"""Networks: their bridges, and what the host needs for all of them. Loaded only if there are any."""

from __future__ import annotations

from typing import Any

from vsprov.plan.builder import PlanBuilder
from vsprov.plan.kinds.planner import KindPlanner, Shown, register
from vsprov.plan.plan import Change


def plan(builder: PlanBuilder) -> None:
    """Compute the wanted state of all networks for the servers, and add the changes of the networks."""
    if not _concerned(builder):
        return
    from vsprov.plan.network import clashes
    from vsprov.plan.network.changes import networks
    from vsprov.plan.network.desired.compute import compute

    builder.networks = compute(builder)
    clashes.check(builder, builder.networks)
    networks.plan(builder, builder.networks)


def _concerned(builder: PlanBuilder) -> bool:
    """Whether the manifest or the instance has any network or interface."""
    if builder.observed.networks is not None or builder.of("Network"):
        return True
    return any(want.spec.interfaces for want in builder.servers.values())  # type: ignore[union-attr]


def remove(builder: PlanBuilder, name: str) -> Change:
    """The change that removes a network; `removals` has checked that no server uses it."""
    from vsprov.plan.network.changes import networks

    return networks.remove(builder, name)


def show(name: str, from_: Shown, ignore: frozenset[str]) -> dict[str, Any]:
    """The spec that was last applied."""
    seen = from_.observed.networks
    recorded = seen.networks[name].applied if seen else None
    return dict(recorded["spec"]) if recorded else {}


register(
    KindPlanner(
        "Network",
        observed=lambda observed: observed.networks.networks if observed.networks else {},
        owners=lambda seen: (seen.owner,),
        plan=plan,
        remove=remove,
        show=show,
    )
)
