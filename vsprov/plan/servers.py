"""One server: what is wanted against what is there, as a change with its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vsprov.model import fields, objects
from vsprov.model.cost import highest
from vsprov.model.defaults import init_of
from vsprov.model.encodings import Group
from vsprov.model.objects import Object, Server
from vsprov.model.resources import read_resources
from vsprov.plan import applied, groups, limits
from vsprov.plan.admission import DEFAULT_WEIGHT
from vsprov.plan.differences import Comparison
from vsprov.plan.observed import Machine, ObservedServer
from vsprov.plan.plan import Change
from vsprov.plan.steps import (
    DiscardUpper,
    MakeDirectory,
    MakeGroup,
    MakePayload,
    MarkInit,
    MoveProcesses,
    Release,
    RemoveDirectory,
    RemoveGroup,
    SetHostname,
    Spawn,
    Step,
    Stop,
    WriteApplied,
    WriteMark,
)

DEFAULT_STOP = ("TERM", 10_000_000)
NOTHING = ObservedServer("")


@dataclass(frozen=True, slots=True)
class Context:
    """What a server's plan needs besides the server.

    `image` is the digest of its image, `weight` the CPU weight that keeps all reservations, `pool` the
    resources of its pool, `defaults` what images bring, by digest.
    """

    instance: str
    owner: str
    machine: Machine
    image: str
    weight: int
    pool: Group
    defaults: Mapping[str, Mapping[str, Any]]


def reconcile(
    want: Object, found: ObservedServer | None, context: Context, notes: tuple[str, ...]
) -> tuple[Change | None, frozenset[str]]:
    """(the change, None if nothing differs; the controllers, by v2 name, the server's group needs)."""
    spec = want.spec
    assert isinstance(spec, Server)
    seen = found or NOTHING
    group = "/".join(part for part in (context.instance, spec.quota, want.name) if part)
    here = seen.group if seen.group and seen.group.path == group else None
    machine = within(context.machine, context.pool)
    resources = with_weight(spec.resources, context.weight)
    also = groups.needed(context.pool, context.machine)
    delta = groups.compare(resources, here, machine, ignore=ignored(want), also=also)
    recorded = resources_of(seen.applied) if seen.applied else {}
    limit_differences = (
        limits.compare(spec.resources, recorded, seen, machine, ignored(want)) if seen.init else ()
    )
    record = applied.record(want, context.image)
    comparison = Comparison(
        spec, record, applied.to_text(record), seen, here, delta, limit_differences, machine
    )
    paths = comparison.paths() if found else ()
    cost = highest([path.cost for path in paths])
    steps = tuple(
        _steps(
            want.name,
            group,
            comparison,
            context,
            again=cost in ("restart", "recreate"),
            anew=cost == "recreate",
        )
    )
    if not steps:
        return None, delta.needed
    wish = fields.write(spec)
    if found is None:
        change = Change("Server", want.name, "create", "none", "missing", (), None, wish, steps, notes=notes)
    else:
        reason = "drift" if seen.applied == record else "changed"
        change = Change(
            "Server",
            want.name,
            "replace" if cost == "recreate" else "update",
            cost,
            reason,
            paths,
            observed_spec(seen),
            wish,
            steps,
            notes=notes,
        )
    return change, delta.needed


def _steps(name: str, group: str, it: Comparison, context: Context, *, again: bool, anew: bool) -> list[Step]:
    """What makes the server as wanted, whatever of it there is: each piece only where it is not right yet.

    `again`: a running server has to be started anew; `anew`: with a new directory too.
    """
    seen, spec = it.seen, it.spec
    start = spec.state == "Running" and (seen.init is None or again)
    fresh = not seen.directory or anew
    steps: list[Step] = []
    write = [] if fresh or seen.disk == it.text else [WriteApplied(name, it.text, seen.disk or "")]
    # It may find the disk full, so it comes before the stop where the mark tells by itself what still runs.
    early = bool(it.here and seen.mark and applied.is_whole(seen.mark))
    steps += write if early else ()
    if (seen.init or seen.populated) and (start or spec.state == "Stopped"):
        steps.append(stop_step(seen, context.defaults))
        if is_ephemeral(seen) and not (start or anew):
            steps.append(DiscardUpper(name))
    if seen.group and not it.here:
        steps.append(RemoveGroup(seen.group.path))
    if anew and seen.directory:
        steps.append(RemoveDirectory(name))
    if fresh:
        steps.append(MakeDirectory(name, context.owner, it.text))
    steps += [MakeGroup(hierarchy, group, "server", context.owner) for hierarchy in it.delta.make]
    if start or not it.here:
        # An apply that died may have left the group without it; a new directory has another id range.
        steps.append(MakePayload(group, name))
    steps += groups.file_writes(group, it.delta, it.machine)
    if seen.init and not start and spec.state == "Running":
        steps += _live(name, group, it)
    if not it.here or seen.mark != it.text:
        steps.append(applied_mark(group, it.text))
    steps += () if early else write
    if start:
        if spec.ephemeral and not fresh:
            steps.append(DiscardUpper(name))
        steps += [Spawn(name), MarkInit(name), Release(name)]
    return steps


def _live(name: str, group: str, it: Comparison) -> list[Step]:
    """What is changed in a running server besides the files of its group."""
    outside = {*it.delta.make, *it.seen.strays}
    steps: list[Step] = [MoveProcesses(hierarchy, group) for hierarchy in sorted(outside)]
    steps += [limit.step(name) for limit in it.limits]
    if it.seen.hostname is not None and it.seen.hostname != it.spec.hostname:
        steps.append(SetHostname(name, it.spec.hostname, it.seen.hostname))
    return steps


def within(machine: Machine, pool: Group) -> Machine:
    """The machine as a pool's servers see it: their default CPUs are the pool's, v1 refuses others."""
    if "cpu.cpus" not in pool and "cpu.mems" not in pool:
        return machine
    host = machine.host
    cpus, mems = pool.get("cpu.cpus", host.cpus), pool.get("cpu.mems", host.mems)
    return replace(machine, host=replace(host, cpus=cpus, mems=mems))


def with_weight(resources: Group, weight: int) -> dict[str, Any]:
    """The resources with the CPU weight that is to be written; a default weight stays absent."""
    out = {path: value for path, value in resources.items() if path != "cpu.weight"}
    absent = weight == DEFAULT_WEIGHT and "cpu.weight" not in resources
    return out if absent else {**out, "cpu.weight": weight}


def ignored(want: Object) -> frozenset[str]:
    """The knobs that the annotation `vsprov/ignore` leaves to others."""
    names = (part.strip() for part in want.annotations.get(objects.IGNORE, "").split(","))
    return frozenset(name for name in names if name)


def resources_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """{knob path: value} of a record."""
    return read_resources(record["spec"].get("resources", {}))


def stop_step(seen: ObservedServer, defaults: Mapping[str, Mapping[str, Any]]) -> Stop:
    """Stop it in the way it was told to when it was started, by itself or by its image."""
    if seen.applied is None:
        return Stop(seen.name, *DEFAULT_STOP)
    spec = applied.to_object(seen.name, seen.applied).spec
    assert isinstance(spec, Server)
    init = init_of(spec.init, defaults.get(seen.applied["image"], {}))
    return Stop(seen.name, init.stop_signal or "TERM", init.stop_timeout)


def is_ephemeral(seen: ObservedServer) -> bool:
    """Whether what it writes goes when it stops; and before it starts, for it may have ended by itself."""
    return bool(seen.directory and seen.applied and seen.applied["spec"].get("ephemeral"))


def observed_spec(seen: ObservedServer) -> dict[str, Any]:
    """The recorded spec with the state the kernel shows."""
    return {**(seen.applied["spec"] if seen.applied else {}), "state": seen.state}


def applied_mark(group: str, text: str) -> WriteMark:
    return WriteMark(group, "applied", applied.seal(text))
