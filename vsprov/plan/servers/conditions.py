"""Waits between the changes of a plan: a server starts when those that it depends on are in a condition.

Each wait is a change of its own, with the condition as its phase, after the change of the server that is
waited for. What waits comes after it. This module is loaded with the first such wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.model.values.units import format_duration
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.observed import ObservedServer
from vsprov.plan.plan import Change
from vsprov.plan.steps import Spawn, Step

# What is said of a server that is not in the condition in time.
FAILED: Mapping[str, str] = {
    "started": "did not keep running",
    "ready": "did not become ready",
    "healthy": "did not become healthy",
    "completed": "did not complete",
}

GRACE = 5.0  # seconds within which the keeper records how a server has ended, and whether it starts it again


class Await(Step, frozen=True):
    """Wait until a server is in a condition. `puts_back`: if that fails, the server is started again as it
    was before its change.
    """

    server: str
    condition: str
    puts_back: bool = False

    def describe(self) -> str:
        return f"wait until {self.server} is {self.condition}"


def holds(seen: ObservedServer | None, condition: str) -> bool:
    """Whether a server is in a condition."""
    if seen is None:
        return False
    if condition == "ready":
        return seen.is_ready
    if condition == "healthy":
        return seen.init is not None and seen.health is not None and seen.health.ok is True
    if condition == "completed":
        return seen.init is None and seen.completed
    return seen.init is not None


def is_unknown(seen: ObservedServer | None) -> bool:
    """Whether a server has ended, and nobody has recorded how, or whether it is started again; the keeper may
    just be about to.
    """
    if seen is None or seen.init or not seen.ended or seen.applied is None:
        return False
    policy = seen.applied["spec"].get("restart", {}).get("policy", "no")
    return seen.last_exit is None or (policy != "no" and seen.restarts is None)


def hopeless(seen: ObservedServer | None, condition: str) -> str:
    """Why a server will not get into a condition; "" if it may."""
    if seen is None:
        return "it does not exist"
    if seen.init is None:
        return seen.state if seen.ended else "it is stopped"
    if condition == "healthy" and seen.health is not None and seen.health.ok is False:
        return seen.health.message
    return ""


def too_late(seen: ObservedServer | None, condition: str, seconds: float) -> str:
    """The message for a server that was not in a condition in time."""
    probe = seen and (seen.health if condition == "healthy" else seen.readiness)
    message = f": {probe.message}" if probe and probe.message else ""
    within = f" within {format_duration(round(seconds * 1_000_000))}" if seconds else " yet"
    return f"{FAILED[condition]}{within}{message}"


def plan(builder: PlanBuilder, servers: Mapping[str, Object]) -> None:
    """Add the waits of the servers that start, by name, and make these follow them."""
    for want in servers.values():
        change = builder.changes.get(want.address)
        if starts(change):
            assert change is not None
            waits = tuple(_waits(builder, want))
            builder.changes[want.address] = replace(change, after=(*change.after, *waits))


def _waits(builder: PlanBuilder, want: Object) -> Iterator[str]:
    """The keys of the waits that a server comes after."""
    assert isinstance(want.spec, Server)
    for dependency in want.spec.depends_on:
        if dependency.condition == "started":
            continue  # the order of the changes is enough
        before = builder.changes.get(f"Server/{dependency.name}")
        seen = builder.observed.servers.get(dependency.name)
        if starts(before) or not holds(seen, dependency.condition):
            yield add(builder, dependency.name, dependency.condition)


def add(builder: PlanBuilder, name: str, condition: str) -> str:
    """Add the wait for a server, after its change if it has one; the key of the wait."""
    address = f"Server/{name}"
    after = (address,) if address in builder.changes else ()
    wait = Change("Server", name, "no-op", "none", condition, (), steps=(Await(name, condition),))
    wait = replace(wait, after=after, phase=condition)
    builder.changes.setdefault(wait.key, wait)
    return wait.key


def starts(change: Change | None) -> bool:
    """Whether a change starts its server."""
    return change is not None and any(isinstance(step, Spawn) for step in change.steps)
