"""What is wanted against what was observed: the plan. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vsprov.plan import groups, removals
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.builder import Wanted as Wanted
from vsprov.plan.kinds import ordered
from vsprov.plan.observed import Machine, Observed
from vsprov.plan.plan import Action, Change, Plan
from vsprov.plan.steps import MakeGroup, RemoveGroup, Step, WriteFile

__all__ = ["Wanted", "reconcile"]


def reconcile(wanted: Wanted, observed: Observed, machine: Machine) -> Plan:
    """The plan that turns what was observed into what is wanted.

    Whatever stands against it is in its `problems`, all of it.
    """
    builder = PlanBuilder(wanted, observed, machine)
    for planner in ordered():
        planner.plan(builder)
    removals.plan(builder)
    _parent(builder)
    return Plan(
        _one_by_one(_in_order(builder.changes)),
        tuple(builder.problems),
        builder.notes,
        tuple(builder.unchanged),
        tuple(builder.unlisted),
    )


def _parent(builder: PlanBuilder) -> None:
    """Make the group above all servers in every hierarchy that is needed; remove it with the last of them."""
    parent, instance = builder.observed.parent, builder.wanted.instance
    if not builder.populated and not _groups_stay(builder):
        if parent and parent.owner is not None:
            after = tuple(builder.changes)
            steps = (RemoveGroup(instance),)
            change = Change("Host", instance, "delete", "none", "empty", steps=steps, after=after)
            builder.add(change.address, change)
        return
    if parent and parent.owner is None:
        hint = "choose another --instance, or remove it"
        builder.problem("Host", f"cgroup {instance} exists and does not carry our mark", hint)
        return
    needed = _parent_steps(builder)
    if needed:
        missing = any(not isinstance(step, WriteFile) for step in needed)
        action: Action = "update" if parent else "create"
        reason = "missing" if missing else "drift"
        change = Change("Host", instance, action, "none", reason, steps=tuple(needed))
        others = builder.changes
        builder.changes = {change.key: change}
        for key, other in others.items():
            waits = other.action != "delete"
            builder.changes[key] = replace(other, after=(change.key, *other.after)) if waits else other


def _groups_stay(builder: PlanBuilder) -> bool:
    """Whether a group of some server or pool is neither wanted nor removed."""
    groups_of = [f"Server/{name}" for name, seen in builder.observed.servers.items() if seen.group]
    groups_of += [f"Quota/{name}" for name in builder.observed.pools]
    removed = {change.address for change in builder.changes.values() if change.action == "delete"}
    return any(address not in removed for address in groups_of)


def _parent_steps(builder: PlanBuilder) -> list[Step]:
    """The group above all limits nothing, and v1 wants its CPUs set before anything can be below it."""
    parent, instance, machine = builder.observed.parent, builder.wanted.instance, builder.machine
    delta = groups.compare({}, parent, machine, also=frozenset(builder.needed))
    steps: list[Step] = [*builder.enable("", delta.needed, builder.observed.subtree)]
    steps += [MakeGroup(name, instance, "host", f"{instance}/") for name in delta.make]
    steps += groups.file_writes(instance, delta, machine, parent=True)
    steps += builder.enable(instance, delta.needed, parent.subtree if parent else frozenset())
    return steps


def _one_by_one(changes: tuple[Change, ...]) -> tuple[Change, ...]:
    """The changes in their order, where running servers that another digest of their image restarts wait for
    each other: should one not come up again, the rest still run.
    """
    last: dict[str, str] = {}
    out = []
    for change in changes:
        moved = any(path.path == "spec.image" and path.cost == "restart" for path in change.paths)
        if moved and change.desired is not None:
            image = change.desired["image"]
            if image in last and last[image] not in change.after:
                change = replace(change, after=(*change.after, last[image]))
            last[image] = change.key
        out.append(change)
    return tuple(out)


def _in_order(changes: Mapping[str, Change]) -> tuple[Change, ...]:
    """The changes, each after those it waits for; what does not change is dropped from `after`.

    So is what closes a circle: servers that were applied one by one may each have been told to follow the
    other, and have to be removable all the same. So graphlib, which refuses circles, is not enough.
    """
    waits = {
        key: dict.fromkeys(name for name in change.after if name in changes)
        for key, change in changes.items()
    }
    out: dict[str, Change] = {}
    for start in changes:
        # No recursion: servers may depend on each other in a chain longer than Python's stack.
        way = {start: None} if start not in out else {}
        while way:
            key = next(reversed(way))
            ahead = next((name for name in waits[key] if name not in out), None)
            if ahead is None:
                del way[key]
                out[key] = replace(changes[key], after=tuple(waits[key]))
            elif ahead in way:
                del waits[key][ahead]
            else:
                way[ahead] = None
    return tuple(out.values())
