"""Which changes of a plan are left for later, because they have to wait long for conditions of servers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vsprov.engine.run.waits import Aim, Waits
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.plan.compare import applied
from vsprov.plan.observed import Observed
from vsprov.plan.plan import Change, Plan
from vsprov.plan.servers.conditions import Await, holds, starts


def later(plan: Plan, wanted: Iterable[Object], observed: Observed, waits: Waits) -> frozenset[str]:
    """The keys of the changes that have to wait, and of these waits."""
    found: set[str] = set()
    changes = {change.key: change for change in plan.changes}
    objects = {want.address: want for want in wanted}
    for change in plan.changes:
        comes_after = not found.isdisjoint((*change.after, *change.follows))
        pending = (aim for aim in aims(change) if aim not in waits.over)
        if comes_after or any(_may_take_long(changes, objects, observed, aim) for aim in pending):
            found.add(change.key)
    return frozenset(found)


def aims(change: Change) -> tuple[Aim, ...]:
    """What a wait waits for; nothing for other changes."""
    steps = [step for step in change.steps if isinstance(step, Await)]
    return tuple((step.server, step.condition) for step in steps) if change.action == "no-op" else ()


def _may_take_long(
    changes: Mapping[str, Change], wanted: Mapping[str, Object], observed: Observed, aim: Aim
) -> bool:
    name, condition = aim
    if condition == "started":
        return False
    seen, want = observed.servers.get(name), wanted.get(f"Server/{name}")
    if want is None and seen is not None and seen.applied is not None:
        want = applied.to_object(name, seen.applied)
    if condition == "ready" and want is not None and isinstance(want.spec, Server):
        if not (want.spec.readiness or want.spec.init.oneshot):
            return False  # it is as soon as it has been started
    return starts(changes.get(f"Server/{name}")) or not holds(seen, condition)
