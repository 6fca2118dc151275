"""Servers: compare each wanted server with the observed one; the difference is a change with steps."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import islice
from types import ModuleType
from typing import TYPE_CHECKING

from msgspec.structs import replace

from vsprov.model.kinds.quota import Quota
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object, prevents_deletion
from vsprov.plan import ranges
from vsprov.plan.aspects.aspect import ASPECTS
from vsprov.plan.builder import PROTECTED, PlanBuilder, Wanted
from vsprov.plan.compare import shown
from vsprov.plan.compare.differences import Context
from vsprov.plan.kinds.planner import KindPlanner, register
from vsprov.plan.limits import groups, resources
from vsprov.plan.observed import ObservedServer
from vsprov.plan.plan import Change, removal
from vsprov.plan.servers import renames
from vsprov.plan.servers.change import NOTHING, change_of, hooks_of, observed_spec, stop_step
from vsprov.plan.servers.references import dependencies, follows, holds, needs
from vsprov.plan.steps import (
    MakeDirectory,
    RemoveDirectory,
    RemoveGroup,
    Spawn,
    Step,
    Stop,
)

if TYPE_CHECKING:
    from vsprov.plan.limits.pool_disk import Share
    from vsprov.plan.network.changes.servers import ServerNetwork


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
    if request and request.host:
        from vsprov.plan.servers import host_order  # loaded only if it is needed

        host_order.arrange(builder)
    waits = {name: want for name, want in builder.servers.items() if _waits(want)}
    if waits:
        from vsprov.plan.servers import conditions

        conditions.plan(builder, waits)
    rolls = {name: want for name, want in builder.servers.items() if _rolls(want)}
    if rolls and not builder.wanted.automatic:
        from vsprov.plan.servers import rolling

        rolling.plan(builder, rolls)


def _rolls(want: Object) -> bool:
    assert isinstance(want.spec, Server)
    return want.spec.update_strategy is not None


def _waits(want: Object) -> bool:
    """Whether a server waits for more than the start of those that it depends on."""
    assert isinstance(want.spec, Server)
    return any(dependency.condition != "started" for dependency in want.spec.depends_on)


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
    limited, share = _disk(spec, seen, pool), _share(builder, want.address, spec, pool)
    if limited:
        builder.problems += limited.problems(
            want.address, spec, seen or NOTHING, builder.machine, resources.ignored(want), share
        )
    builder.refuse(want, groups.refusals(spec.resources, pool, builder.machine))
    request = builder.wanted.request
    context = Context(
        builder.wanted.instance,
        (seen and seen.set_owner) or builder.wanted.owner,
        builder.machine,
        _image_digest(builder, want),
        builder.weights[want.address],
        pool,
        partial(_stop, seen or NOTHING, builder),
        restart=request is not None and request.action == "restart",
        again=request is not None and request.action == "start" and not request.checks,
        network=_network(builder, want.name),
        stopped=_stopped(builder.wanted, spec, seen.stopped if seen else ""),
        rescue=request is not None and request.rescue,
        share=share,
    )
    change, needed = change_of(want, seen, context, builder.notes.get(want.address, ()))
    builder.needed |= needed
    builder.populated = True
    if change:
        for aspect in ASPECTS.values():
            change = replace(change, notes=(*change.notes, *aspect.notes(change.paths)))
        if limited:
            change = replace(change, notes=(*change.notes, *limited.notes(change.paths, builder.machine)))
        if old := builder.renamed.get(want.name):
            change = renames.adapt(builder, want, change, _stop(old, builder), spec.state == "Running")
        if request:
            change = replace(change, reason=request.action)
        _refuse_loss(builder, want, change)
    builder.add(want.address, change)


def _refuse_loss(builder: PlanBuilder, want: Object, change: Change) -> None:
    """A problem if the change would remove the files of a protected server."""
    if change.action == "replace" and prevents_deletion(want.annotations):
        keys = ", ".join(path.path for path in change.paths if path.cost == "recreate")
        message = f"a change of {keys} would remove its files: it has the annotation {PROTECTED}"
        builder.problem(want.address, message, "remove the annotation as well, if its files may be lost")


def _share(builder: PlanBuilder, address: str, spec: Server, pool: Mapping[str, object]) -> Share | None:
    """What a server shares of a limited disk with others; None if the disk of no pool is limited."""
    pools = builder.observed.all_pools
    if not resources.has_disk_limit(pool, seen=None) and not any(seen.space for seen in pools.values()):
        return None
    from vsprov.plan.limits import pool_disk

    share = pool_disk.share_of(spec.quota, pool, pools, builder.machine)
    if share.pool not in builder.pools and pool_disk.is_lost(share, pool):
        message = f"the disk limit of pool {share.pool} is lost"
        builder.problem(address, message, "apply the manifest of the pool", "spec.quota")
    return share


def _disk(spec: Server, seen: ObservedServer | None, pool: Mapping[str, object]) -> ModuleType | None:
    """The module that plans disk limits; it is loaded only if a server has one, or is to have one."""
    if not resources.has_disk_limit(spec.resources, pool, seen=seen.space if seen else None):
        return None
    from vsprov.plan.servers import disk

    return disk


def _stopped(wanted: Wanted, spec: Server, before: str) -> str:
    """Who will want a server to stay stopped when the host starts, see `ObservedServer.stopped`."""
    request = wanted.request
    if request is None:
        return (before if wanted.of_every_set else "manifest") if spec.state == "Stopped" else ""
    if request.host or before == "manifest":
        return before
    return "command" if spec.state == "Stopped" else ""


def _is_name_taken(builder: PlanBuilder, want: Object, seen: ObservedServer | None) -> bool:
    """Whether a pool, or a group or directory of another owner, has the server's name; adds a problem."""
    if want.name in builder.observed.all_pools and f"Quota/{want.name}" not in builder.wanted.remove:
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
    if server.name in builder.wanted.pinned:
        return builder.wanted.pinned[server.name]
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
        for dependency in dependencies(want):
            dependants.setdefault(dependency, []).append(want.address)
    out = {}
    for want in builder.servers.values():
        if want.address in stops:
            servers = [other for other in dependants.get(want.address, ()) if other in stops]
            out[want.address] = (*needs(want), *servers)  # it may move to another pool as it stops
        elif want.address in builder.changes:
            out[want.address] = (*needs(want), *dependencies(want))
    return out


def _only_stops(builder: PlanBuilder, address: str) -> bool:
    steps = builder.changes[address].steps
    return any(isinstance(step, Stop) for step in steps) and not any(
        isinstance(step, Spawn) for step in steps
    )


def _stop(seen: ObservedServer, builder: PlanBuilder) -> Stop:
    """`stop_step` with the timeout of the request, if it has one."""
    step, request = stop_step(seen, builder.observed.defaults), builder.wanted.request
    return replace(step, timeout=request.timeout) if request and request.timeout is not None else step


def _network(builder: PlanBuilder, name: str) -> ServerNetwork | None:
    """What to know of the networks of a server, which are loaded only if there are any."""
    if builder.networks is None:
        return None
    from vsprov.plan.network.changes import servers

    return servers.of_server(builder, builder.networks, name)


def remove(builder: PlanBuilder, name: str) -> Change | None:
    """The change that stops and removes a server; None, with a problem, if its group has another owner."""
    seen = builder.observed.servers[name]
    if seen.group and builder.refuse_foreign(f"Server/{name}", seen.group.owner, f"cgroup {seen.group.path}"):
        return None
    steps: list[Step] = []
    hooks = hooks_of(seen)
    if seen.init or seen.populated:
        steps += hooks.before_stop(seen) if hooks else ()
        steps.append(stop_step(seen, builder.observed.defaults))
        network = _network(builder, name)
        steps += network.after_stop(name) if network else ()
    steps += hooks.after_stop(seen) if hooks else ()
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
