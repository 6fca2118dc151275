"""Compare wanted and observed objects and make the plan. Pure: no input or output."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from vsprov.plan import removals
from vsprov.plan.builder import PlanBuilder, Wanted
from vsprov.plan.kinds.planner import ordered
from vsprov.plan.limits import groups
from vsprov.plan.observed import Machine, Observed
from vsprov.plan.plan import Action, Change, Plan
from vsprov.plan.servers import renames
from vsprov.plan.steps import MakeGroup, RemoveGroup, Step, WriteFile


def reconcile(wanted: Wanted, observed: Observed, machine: Machine) -> Plan:
    """The plan that brings the observed state to the wanted one.

    Its `problems` are all the reasons why it cannot be applied.
    """
    renamed = renames.carry_over(wanted, observed)
    observed, problems = renamed.observed, [*renamed.problems]
    if moved := [want for want in wanted.objects if want.renamed_from and want.kind == "Volume"]:
        from vsprov.plan.volumes.renames import carry_over

        observed, more = carry_over(wanted, observed, moved)
        problems += more
    builder = PlanBuilder(wanted, observed, machine, renamed=renamed.servers)
    builder.problems += problems
    for planner in ordered():
        planner.plan(builder)
    removals.plan(builder)
    if builder.networks:
        from vsprov.plan.network.changes import host

        host.plan(builder, builder.networks)
    _parent(builder)
    return Plan(
        _serialize_restarts(in_order(builder.changes)),
        tuple(builder.problems),
        builder.notes,
        tuple(builder.unchanged),
        tuple(builder.unlisted),
    )


def _parent(builder: PlanBuilder) -> None:
    """Create the parent group of all servers in the hierarchies they need; remove it with the last one."""
    parent, instance = builder.observed.parent, builder.wanted.instance
    if not builder.populated and not _groups_remain(builder):
        if parent and parent.owner is not None:
            after = tuple(builder.changes)
            steps = (RemoveGroup(instance),)
            change = Change("Host", instance, "delete", "none", "empty", steps=steps, after=after)
            builder.add(change.address, change)
        return
    if parent and parent.owner is None:
        hint = "choose another --instance, or remove the cgroup"
        builder.problem("Host", f"cgroup {instance} exists but has no owner mark", hint)
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


def _groups_remain(builder: PlanBuilder) -> bool:
    """Whether the group of a server or pool remains that the plan neither defines nor removes."""
    groups_of = [f"Server/{name}" for name, seen in builder.observed.servers.items() if seen.group]
    groups_of += [f"Quota/{name}" for name in builder.observed.pools]
    removed = {change.address for change in builder.changes.values() if change.action == "delete"}
    return any(address not in removed for address in groups_of)


def _parent_steps(builder: PlanBuilder) -> list[Step]:
    """The parent group has no limits, but cgroup v1 requires its CPUs to be set before it has children."""
    parent, instance, machine = builder.observed.parent, builder.wanted.instance, builder.machine
    delta = groups.compare({}, parent, machine, also=frozenset(builder.needed))
    steps: list[Step] = [*builder.enable("", delta.needed, builder.observed.subtree)]
    steps += [MakeGroup(name, instance, "host", f"{instance}/") for name in delta.make]
    steps += groups.file_writes(instance, delta, machine, parent=True)
    steps += builder.enable(instance, delta.needed, parent.subtree if parent else frozenset())
    return steps


def _serialize_restarts(changes: tuple[Change, ...]) -> tuple[Change, ...]:
    """Make servers that a new digest of the same image restarts wait for each other.

    If one of them fails to start, the servers after it are not restarted and keep running. Those with an
    update strategy wait for each other anyway.
    """
    last: dict[str, str] = {}
    out = []
    for change in changes:
        restarts = any(path.path == "spec.image" and path.cost == "restart" for path in change.paths)
        if restarts and change.desired is not None and not change.desired.get("updateStrategy"):
            image = change.desired["image"]
            if image in last and last[image] not in change.after:
                change = replace(change, after=(*change.after, last[image]))
            last[image] = change.key
        out.append(change)
    return tuple(out)


def in_order(changes: Mapping[str, Change]) -> tuple[Change, ...]:
    """The changes in topological order, without predecessors that have no change or close a cycle.

    Servers that were applied separately may depend on each other and must still be removable. graphlib
    cannot be used because it raises an error for cycles.
    """
    waits = {
        key: dict.fromkeys(name for name in (*change.after, *change.follows) if name in changes)
        for key, change in changes.items()
    }
    out: dict[str, Change] = {}
    for start in changes:
        # Not recursive: a chain of dependencies may be longer than Python's recursion limit.
        stack = {start: None} if start not in out else {}
        while stack:
            key = next(reversed(stack))
            unmet = next((name for name in waits[key] if name not in out), None)
            if unmet is None:
                del stack[key]
                after = tuple(name for name in waits[key] if name in changes[key].after)
                follows = tuple(name for name in waits[key] if name not in after)
                out[key] = replace(changes[key], after=after, follows=follows)
            elif unmet in stack:
                del waits[key][unmet]
            else:
                stack[unmet] = None
    return tuple(out.values())
