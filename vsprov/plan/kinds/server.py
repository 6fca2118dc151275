"""Servers: compare each wanted server with the observed one; the difference is a change with steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from vsprov.model import fields
from vsprov.model.cost import highest
from vsprov.model.defaults import init_of
from vsprov.model.kinds.quota import Quota
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.plan import ranges
from vsprov.plan.aspects.aspect import ASPECTS
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.compare import applied, shown
from vsprov.plan.compare.differences import Comparison, Context
from vsprov.plan.kinds.planner import KindPlanner, register
from vsprov.plan.limits import groups, resources
from vsprov.plan.observed import ObservedServer
from vsprov.plan.plan import Action, Change, removal
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
    RepairDirectory,
    Spawn,
    Step,
    Stop,
    WriteApplied,
)

if TYPE_CHECKING:
    from vsprov.plan.network.changes.servers import ServerNetwork

DEFAULT_STOP = ("TERM", 10_000_000)  # signal, timeout in microseconds; for servers without a record
NOTHING = ObservedServer("")  # stands for a server that does not exist


def plan(builder: PlanBuilder) -> None:
    """Add the changes of the wanted servers, and of servers without a record that are to be stopped."""
    for want in builder.servers.values():
        _plan(builder, want)
    request = builder.wanted.request
    for name in sorted(request.servers) if request and request.action == "stop" else ():
        seen = builder.observed.servers[name]
        # A server without a record can still be stopped.
        if name not in builder.servers and (seen.init or seen.populated):
            stop = _stop(seen, builder)
            builder.add(f"Server/{name}", Change("Server", name, "update", "none", "stop", steps=(stop,)))
    _refuse_without_range(builder)
    for address, after in _predecessors(builder).items():
        builder.changes[address] = replace(builder.changes[address], after=after)


def _refuse_without_range(builder: PlanBuilder) -> None:
    """Add a problem for each server to be created for which the host has no id range left."""
    made = [
        address
        for address, change in builder.changes.items()
        if any(isinstance(step, MakeDirectory) for step in change.steps)
    ]
    free = ranges.free(builder.machine.ranges, builder.observed.id_bases()) if made else iter(())
    for address in made[len(list(islice(free, len(made)))) :]:
        none = ranges.exhausted(builder.machine.ranges)
        builder.problem(address, none.message, none.hint)


def _plan(builder: PlanBuilder, want: Object) -> None:
    spec = want.spec
    assert isinstance(spec, Server)
    seen = builder.observed.servers.get(want.name)
    if _is_name_taken(builder, want, seen):
        return
    builder.note_lacking(want)
    for aspect in ASPECTS.values():
        builder.refuse(want, aspect.refuse(spec, builder.machine), aspect.hint)
    if spec.state == "Running" and (problem := builder.range_problems.get(want.name)):
        builder.problem(want.address, problem.message, problem.hint)
    pool = _pool_resources(builder, want)
    builder.refuse(want, groups.refusals(spec.resources, pool, builder.machine))
    request = builder.wanted.request
    context = Context(
        builder.wanted.instance,
        (seen and seen.set_owner) or builder.wanted.owner,
        builder.machine,
        _image_digest(builder, want),
        builder.weights[want.address],
        pool,
        _stop(seen or NOTHING, builder),
        restart=request is not None and request.action == "restart",
        again=request is not None and request.action == "start" and not request.checks,
        network=_network(builder, want.name),
    )
    change, needed = change_of(want, seen, context, builder.notes.get(want.address, ()))
    builder.needed |= needed
    builder.populated = True
    if change:
        for aspect in ASPECTS.values():
            change = replace(change, notes=(*change.notes, *aspect.notes(change.paths)))
        if request:
            change = replace(change, reason=request.action)
    builder.add(want.address, change)


def _is_name_taken(builder: PlanBuilder, want: Object, seen: ObservedServer | None) -> bool:
    """Whether a pool, or a group or directory of another owner, has the server's name; adds a problem."""
    if want.name in builder.observed.pools and f"Quota/{want.name}" not in builder.wanted.remove:
        message = f"a pool named {want.name} exists; pools and servers share one parent cgroup"
        builder.problem(want.address, message)
        return True
    if seen is None:
        return False
    if seen.group and builder.refuse_foreign(want.address, seen.group.owner, f"cgroup {seen.group.path}"):
        return True
    return seen.directory and builder.refuse_foreign(
        want.address, seen.owner, f"the directory of {want.name}"
    )


def _image_digest(builder: PlanBuilder, server: Object) -> str:
    assert isinstance(server.spec, Server)
    name = server.spec.image
    if name in builder.wanted.digests:
        return builder.wanted.digests[name]
    if name in builder.observed.images:
        return builder.observed.images[name].digest
    builder.problem(server.address, f"image {name} not found in the manifest or the store", path="spec.image")
    return ""


def _pool_resources(builder: PlanBuilder, server: Object) -> Mapping[str, object]:
    assert isinstance(server.spec, Server)
    name = server.spec.quota
    if name is None:
        return {}
    if name in builder.pools:
        spec = builder.pools[name].spec
        assert isinstance(spec, Quota)
        return spec.resources
    if name in builder.observed.pools:
        return resources.of_pool(builder.observed.pools[name])
    builder.problem(
        server.address, f"pool {name} not found in the manifest or on this host", path="spec.quota"
    )
    return {}


def _predecessors(builder: PlanBuilder) -> dict[str, tuple[str, ...]]:
    """{address: addresses whose changes come first}, for the servers that change.

    A server starts after its dependencies and stops before them.
    """
    stops = {address for address in builder.changes if _only_stops(builder, address)}
    dependants: dict[str, list[str]] = {}
    for want in builder.servers.values():
        for dependency in _dependencies(want):
            dependants.setdefault(dependency, []).append(want.address)
    out = {}
    for want in builder.servers.values():
        if want.address in stops:
            servers = [other for other in dependants.get(want.address, ()) if other in stops]
            out[want.address] = (*needs(want), *servers)  # it may move to another pool as it stops
        elif want.address in builder.changes:
            out[want.address] = (*needs(want), *_dependencies(want))
    return out


def _only_stops(builder: PlanBuilder, address: str) -> bool:
    steps = builder.changes[address].steps
    return any(isinstance(step, Stop) for step in steps) and not any(
        isinstance(step, Spawn) for step in steps
    )


def _dependencies(want: Object) -> list[str]:
    assert isinstance(want.spec, Server)
    return [f"Server/{dependency.name}" for dependency in want.spec.depends_on]


def needs(want: Object) -> Iterable[str]:
    """The server's image, pool and networks. Quotas of scope server are merged in and no objects."""
    assert isinstance(want.spec, Server)
    yield f"Image/{want.spec.image}"
    if want.spec.quota:
        yield f"Quota/{want.spec.quota}"
    for interface in want.spec.interfaces:
        yield f"Network/{interface.network}"


def holds(seen: ObservedServer) -> Iterable[str]:
    """The image that the server runs on, the pool that it is in, and the networks that it is connected to."""
    if seen.group and seen.group.path.count("/") == 2:
        yield f"Quota/{seen.group.path.split('/')[1]}"
    if seen.applied:
        yield f"Image/{seen.applied['spec']['image']}"
        for interface in seen.applied["spec"].get("interfaces", ()):
            yield f"Network/{interface['network']}"


def follows(seen: ObservedServer) -> Iterable[str]:
    """The servers that it depends on, from its record."""
    recorded = seen.applied["spec"].get("dependsOn", ()) if seen.applied else ()
    return [f"Server/{dependency['name']}" for dependency in recorded]


def change_of(
    want: Object, found: ObservedServer | None, context: Context, notes: tuple[str, ...]
) -> tuple[Change | None, frozenset[str]]:
    """(change, or None if nothing differs; controllers that the server's group needs, by v2 name)."""
    spec = want.spec
    assert isinstance(spec, Server)
    seen = found or NOTHING
    it = Comparison.of(want, spec, seen, context)
    paths = it.paths() if found else ()
    cost = highest([path.cost for path in paths])
    if context.restart and cost in ("none", "live"):
        cost = "restart"
    steps = tuple(
        _steps(want.name, it, context, restart=cost in ("restart", "recreate"), recreate=cost == "recreate")
    )
    if not steps:
        return None, it.delta.needed
    desired = fields.write(spec)
    if found is None:
        change = Change(
            "Server", want.name, "create", "none", "missing", (), None, desired, steps, notes=notes
        )
        return change, it.delta.needed
    action: Action = "replace" if cost == "recreate" else "update"
    reason = "drift" if seen.applied == it.record else "changed"
    before = observed_spec(seen)
    change = Change("Server", want.name, action, cost, reason, paths, before, desired, steps, notes=notes)
    return change, it.delta.needed


def _steps(name: str, it: Comparison, context: Context, *, restart: bool, recreate: bool) -> list[Step]:
    """The steps for a server in any state, including partly created: only parts that differ get a step.

    `restart`: a running server has to be restarted; `recreate`: with a new directory as well.
    """
    seen, spec, group = it.seen, it.spec, it.group
    start = spec.state == "Running" and ((seen.init is None and not it.completed) or restart)
    make_directory = not seen.directory or recreate
    steps: list[Step] = []
    write = [] if make_directory or seen.disk == it.text else [WriteApplied(name, it.text, seen.disk or "")]
    # The disk may be full. Write before the stop if the mark alone still records what is running.
    write_first = bool(it.existing and seen.mark and applied.is_whole(seen.mark))
    steps += write if write_first else ()
    if (seen.init or seen.populated) and (start or spec.state == "Stopped"):
        steps.append(context.stop)
        steps += context.network.after_stop(name) if context.network else ()
        if is_ephemeral(seen) and not (start or recreate):
            steps.append(DiscardUpper(name))
    if seen.group and not it.existing:
        steps.append(RemoveGroup(seen.group.path))
    if recreate and seen.directory:
        steps.append(RemoveDirectory(name))
    if make_directory:
        steps.append(MakeDirectory(name, context.owner, it.text))
    elif ranges.needs_repair(seen, it.machine.ranges):
        steps.append(RepairDirectory(name))
    steps += [MakeGroup(hierarchy, group, "server", context.owner) for hierarchy in it.delta.make]
    if start or not it.existing:
        # An interrupted apply may have left the group without it; a new directory has another id range.
        steps.append(MakePayload(group, name))
    steps += groups.file_writes(group, it.delta, it.machine)
    if seen.init and not start and spec.state == "Running":
        outside = {*it.delta.make, *seen.strays}
        steps += [MoveProcesses(hierarchy, group) for hierarchy in sorted(outside)]
        steps += [difference.step for difference in it.live if difference.step]
        steps += it.rewired
    if not it.existing or seen.mark != it.text:
        steps.append(applied.mark_step(group, it.text, seen.mark if it.existing else None))
    steps += () if write_first else write
    if start:
        if spec.ephemeral and not make_directory:
            steps.append(DiscardUpper(name))
        network = context.network
        steps += network.before_start(name) if network else ()
        steps.append(Spawn(name, host_network=network is not None and network.on_host))
        steps += network.at_gate(name) if network else ()
        steps += [MarkInit(name), Release(name)]
    return steps


def stop_step(seen: ObservedServer, defaults: Mapping[str, Mapping[str, Any]]) -> Stop:
    """Stop a server with the signal and timeout it was started with, its own or those of its image.

    `defaults` are the defaults of images by digest (`Observed.defaults`).
    """
    if seen.applied is None:
        return Stop(seen.name, *DEFAULT_STOP)
    spec = applied.to_object(seen.name, seen.applied).spec
    assert isinstance(spec, Server)
    init = init_of(spec.init, defaults.get(seen.applied["image"], {}))
    return Stop(seen.name, init.stop_signal or "TERM", init.stop_timeout)


def _stop(seen: ObservedServer, builder: PlanBuilder) -> Stop:
    """`stop_step` with the timeout of the request, if it has one."""
    step, request = stop_step(seen, builder.observed.defaults), builder.wanted.request
    return replace(step, timeout=request.timeout) if request and request.timeout is not None else step


def is_ephemeral(seen: ObservedServer) -> bool:
    """Whether its upper layer is discarded when it stops, and before it starts if it exited by itself."""
    return bool(seen.directory and seen.applied and seen.applied["spec"].get("ephemeral"))


def _network(builder: PlanBuilder, name: str) -> ServerNetwork | None:
    """What to know of the networks of a server, which are loaded only if there are any."""
    if builder.networks is None:
        return None
    from vsprov.plan.network.changes import servers

    return servers.of_server(builder, builder.networks, name)


def observed_spec(seen: ObservedServer) -> dict[str, Any]:
    """The recorded spec with the current state."""
    return {**(seen.applied["spec"] if seen.applied else {}), "state": seen.wanted_state}


def remove(builder: PlanBuilder, name: str) -> Change | None:
    """The change that stops and removes a server; None, with a problem, if its group has another owner."""
    seen = builder.observed.servers[name]
    if seen.group and builder.refuse_foreign(f"Server/{name}", seen.group.owner, f"cgroup {seen.group.path}"):
        return None
    steps: list[Step] = []
    if seen.init or seen.populated:
        steps.append(stop_step(seen, builder.observed.defaults))
        network = _network(builder, name)
        steps += network.after_stop(name) if network else ()
    if seen.group:
        steps.append(RemoveGroup(seen.group.path))
    if seen.directory:
        steps.append(RemoveDirectory(name))
    # The data that the server has written is deleted with it.
    return removal("Server", name, tuple(steps), observed_spec(seen), cost="recreate")


register(
    KindPlanner(
        "Server",
        observed=lambda observed: observed.servers,
        owners=lambda seen: seen.owners(),
        plan=plan,
        remove=remove,
        show=shown.show,
        needs=needs,
        holds=holds,
        follows=follows,
        rounded=shown.rounded,
        readable=shown.readable,
    )
)
