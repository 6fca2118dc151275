"""The order in which servers start and stop with the host: by priority, besides that of their dependencies.

A server that fails holds up no other one, except that none starts without a server that it depends on.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.observed import Observed
from vsprov.plan.servers import references
from vsprov.plan.servers.conditions import holds


def arrange(builder: PlanBuilder) -> None:
    """Let the changes of servers follow those of other priorities: higher ones start first and stop last."""
    request = builder.wanted.request
    assert request is not None
    stops = request.action == "stop"
    priorities = effective(builder.servers)
    levels: dict[int, list[str]] = {}
    for address, change in builder.changes.items():
        if change.kind == "Server" and not change.phase:
            levels.setdefault(priorities.get(address, 0), []).append(address)
    earlier: list[str] = []
    for priority in sorted(levels, reverse=not stops):
        for address in levels[priority]:
            change = builder.changes[address]
            servers = [key for key in change.after if key.startswith("Server/")] if stops else []
            after = tuple(key for key in change.after if key not in servers)
            follows = (*change.follows, *servers, *earlier)
            builder.changes[address] = replace(change, after=after, follows=follows)
        earlier = levels[priority]


def effective(servers: Mapping[str, Object]) -> dict[str, int]:
    """{address: priority} of servers, by name: its own, or that of a server that depends on it."""
    found = {
        want.address: want.spec.boot.priority for want in servers.values() if isinstance(want.spec, Server)
    }
    left = sorted(found, key=lambda address: found[address])
    while left:  # the highest first: hardly any is visited twice; a cycle ends when all have its highest
        address = left.pop()
        for other in references.dependencies(servers[address.partition("/")[2]]):
            if other in found and found[other] < found[address]:
                found[other] = found[address]
                left.append(other)
    return found


def postponed(servers: Mapping[str, Object], observed: Observed) -> frozenset[str]:
    """The names of the servers, of those to be started, that cannot start yet.

    One that they depend on has not been started yet, or is not in the condition that they wait for, or is
    postponed itself. Servers of lower priority than such a server come after it.
    """
    waiting = {want.address for want in servers.values() if _has_to_wait(want, servers, observed)}
    if not waiting:
        return frozenset()
    dependants: dict[str, list[str]] = {}
    for want in servers.values():
        for other in references.dependencies(want):
            dependants.setdefault(other, []).append(want.address)
    left = list(waiting)
    while left:
        new = [address for address in dependants.get(left.pop(), ()) if address not in waiting]
        waiting.update(new)
        left += new
    priorities = effective(servers)
    highest = max(priorities[address] for address in waiting)
    return frozenset(
        want.name
        for want in servers.values()
        if want.address in waiting or priorities[want.address] < highest
    )


def _has_to_wait(want: Object, servers: Mapping[str, Object], observed: Observed) -> bool:
    assert isinstance(want.spec, Server)
    return any(
        each.name in servers or not holds(observed.servers.get(each.name), each.condition)
        for each in want.spec.depends_on
        if each.condition != "started"
    )
