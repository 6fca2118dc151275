"""Rolling updates: servers with an update strategy and equal labels restart a few at a time.

Those of them that are not ready count as unavailable, whatever the reason is, such as an apply that was
interrupted. This module is loaded with the first update strategy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct
from msgspec.structs import replace

from vsprov.model.kinds.sections.updates import UpdateStrategy
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.compare import applied
from vsprov.plan.observed import ObservedServer
from vsprov.plan.plan import Change
from vsprov.plan.reconcile import in_order
from vsprov.plan.servers.conditions import Await, add, starts
from vsprov.plan.steps import Stop

Labels = tuple[tuple[str, str], ...]


class Member(Struct, frozen=True):
    """A server that is to run, of those that are updated together. `change` is what its change does to it:
    "restart", only "start", or neither ("").
    """

    name: str
    strategy: UpdateStrategy
    condition: str  # that it has to get into
    available: bool
    change: str

    @property
    def address(self) -> str:
        return f"Server/{self.name}"


def plan(builder: PlanBuilder, servers: Mapping[str, Object]) -> None:
    """Let servers, by name, that restart wait for each other.

    No server that is available stops before so many are ready that at most `maxUnavailable` of its group are
    not. Servers that are down come first; they do not wait for those that are down already. A server that
    depends on others is in their batch or in a later one.
    """
    groups = _groups(builder, servers)
    down = [member for group in groups.values() for member in group if member.change and not member.available]
    down.sort(key=lambda member: member.change == "restart")
    # All waits are in this one order, so they never close a cycle.
    order = in_order({each.address: builder.changes[each.address] for each in down} | builder.changes)
    places = {change.key: place for place, change in enumerate(order)}
    for group in groups.values():
        _roll(builder, group, places)


def _groups(builder: PlanBuilder, servers: Mapping[str, Object]) -> dict[Labels, list[Member]]:
    """The members of each group, also those that are applied separately, as long as they are to run."""
    groups: dict[Labels, list[Member]] = {}
    for want in servers.values():
        assert isinstance(want.spec, Server)
        if want.spec.state == "Running":
            seen = builder.renamed.get(want.name) or builder.observed.servers.get(want.name)
            groups.setdefault(_labels(want), []).append(_member(builder, want, seen))
    if builder.wanted.request is None:
        for want, seen in _others(builder):
            if (labels := _labels(want)) in groups:
                groups[labels].append(_member(builder, want, seen))
    return groups


def _labels(want: Object) -> Labels:
    return tuple(sorted(want.labels.items()))


def _others(builder: PlanBuilder) -> Iterator[tuple[Object, ObservedServer]]:
    """The servers of the same set with an update strategy that are not among the wanted ones, and stay."""
    for name, seen in builder.observed.servers.items():
        if (
            name not in builder.servers
            and seen.applied is not None
            and seen.applied["spec"].get("updateStrategy") is not None
            and not seen.stopped
            and builder.wanted.owns(seen.set_owner)
            and not builder.removes("Server", name, seen.set_owner)
        ):
            yield applied.to_object(name, seen.applied), seen


def _member(builder: PlanBuilder, want: Object, seen: ObservedServer | None) -> Member:
    spec = want.spec
    assert isinstance(spec, Server) and spec.update_strategy
    change = builder.changes.get(want.address)
    return Member(
        want.name,
        spec.update_strategy,
        "ready" if spec.readiness else "started",
        seen is not None and seen.is_ready,
        "restart" if _stops(change) and starts(change) else "start" if starts(change) else "",
    )


def _stops(change: Change | None) -> bool:
    return change is not None and any(isinstance(step, Stop) for step in change.steps)


def _roll(builder: PlanBuilder, group: list[Member], places: Mapping[str, int]) -> None:
    """Add the waits of one group: in batches, of which the first have the servers that are down."""
    most = min(member.strategy.most(len(group)) for member in group)
    queue = [member for member in group if member.change == "restart" or not member.available]
    queue.sort(key=lambda member: places[member.address] if member.change else -1)
    before: tuple[str, ...] = ()  # the waits for the restarts of the last batch
    down: list[Member] = []  # the others of all batches so far
    for first in range(0, len(queue), most):
        batch = queue[first : first + most]
        restarts = [member for member in batch if member.change == "restart"]
        for member in restarts:
            waits = [add(builder, each.name, each.condition) for each in down] if member.available else []
            change = builder.changes[member.address]
            builder.changes[member.address] = replace(change, after=(*change.after, *before, *waits))
        down += [member for member in batch if member not in restarts]
        if restarts:
            before = tuple(_add_last(builder, member) for member in restarts)


def _add_last(builder: PlanBuilder, member: Member) -> str:
    """Add the wait for a server that was restarted; the key of the wait."""
    key = add(builder, member.name, member.condition)
    step = Await(member.name, member.condition, puts_back=bool(builder.changes[member.address].paths))
    builder.changes[key] = replace(builder.changes[key], steps=(step,))
    return key
