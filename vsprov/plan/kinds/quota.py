"""Pools: quotas that several servers share through a common parent cgroup. Also admission for the host.

A quota of scope server is merged into the servers that refer to it and has no cgroup of its own. A pool is
recorded on disk, so that it can be made again after a reboot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from vsprov.model import fields, objects
from vsprov.model.kinds.quota import Quota
from vsprov.model.kinds.server import Server
from vsprov.model.limits.resources import write_resources
from vsprov.model.objects import DELETION, PREVENT, Object, prevents_deletion
from vsprov.model.values.units import MAX
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.compare import applied
from vsprov.plan.kinds.planner import KindPlanner, Shown, register
from vsprov.plan.limits import admission, groups, resources
from vsprov.plan.limits.admission import Claim
from vsprov.plan.limits.groups import GroupDelta
from vsprov.plan.observed import PROTECTION_MARK, Machine, Observed, ObservedGroup, ObservedServer
from vsprov.plan.plan import Change, PathChange, change, removal
from vsprov.plan.steps import MakeGroup, RemoveGroup, RemoveRecord, Step, WriteMark, WriteRecord


def plan(builder: PlanBuilder) -> None:
    """Check the claims on the host, then add the changes of the wanted pools."""
    _revive(builder)
    builder.weights = admit(builder)
    for want in builder.pools.values():
        _plan(builder, want)


def _revive(builder: PlanBuilder) -> None:
    """Make recorded pools that are not whole, as after a reboot, wanted if a wanted server is in them.

    The mark with the spec is set last, so a pool without it was not finished.
    """
    for want in builder.servers.values():
        name = want.spec.quota if isinstance(want.spec, Server) else None
        seen = builder.observed.all_pools.get(name or "")
        whole = seen is None or (seen.applied is not None and name not in builder.observed.lost_pools)
        if name and seen and seen.disk and not whole and name not in builder.pools:
            record = applied.from_text(seen.disk)
            spec = objects.read_spec("Quota", record["spec"])
            assert isinstance(spec, Quota)
            builder.pools[name] = Object(
                kind="Quota",
                name=name,
                spec=spec,
                labels=record["labels"],
                annotations=record["annotations"],
            )


def admit(builder: PlanBuilder) -> dict[str, int]:
    """{address: CPU weight to write}; adds a problem if the host or a pool cannot honour all claims.

    The claims of servers and pools in other sets count too, but their weights are not changed.
    """
    claims = [*_wanted_claims(builder), *_other_claims(builder)]
    for refusal in admission.host_refusals(claims, builder.machine):
        builder.problem("Host", refusal, "lower the reservations or move servers to another host")
    affected = _affected_pools(builder)
    for address, key, refusal in admission.pool_refusals(claims):
        if address in affected:
            hint = "lower the reservations or raise the pool's limit"
            builder.problem(address, refusal, hint, f"spec.{key}")
    return admission.weights(claims, builder.machine)


def _affected_pools(builder: PlanBuilder) -> set[str]:
    """The addresses of the pools that this apply defines or adds servers to."""
    specs = (want.spec for want in builder.servers.values())
    used = {spec.quota for spec in specs if isinstance(spec, Server) and spec.quota}
    return {f"Quota/{name}" for name in {*builder.pools, *used}}


def _wanted_claims(builder: PlanBuilder) -> Iterable[Claim]:
    for want in (*builder.pools.values(), *builder.servers.values()):
        assert isinstance(want.spec, Quota | Server)
        parent = want.spec.quota or "" if isinstance(want.spec, Server) else ""
        yield Claim.of(want.address, parent, want.spec.resources)


def _other_claims(builder: PlanBuilder) -> Iterable[Claim]:
    for name, pool in builder.observed.pools.items():
        if name not in builder.pools and not builder.removes("Quota", name, pool.owner):
            yield claim_of_pool(name, pool)
    for name, seen in builder.observed.servers.items():
        if (
            name not in builder.servers
            and seen.applied
            and not builder.removes("Server", name, seen.set_owner)
        ):
            yield claim_of_server(name, seen.applied)


def claim_of_pool(name: str, pool: ObservedGroup) -> Claim:
    """The claim of an observed pool, from its record."""
    return Claim.of(f"Quota/{name}", "", resources.of_pool(pool))


def claim_of_server(name: str, record: Mapping[str, Any]) -> Claim:
    """The claim of an observed server, from its record."""
    return Claim.of(f"Server/{name}", record["spec"].get("quota", ""), resources.of_record(record))


def _plan(builder: PlanBuilder, want: Object) -> None:
    """Add the change of a pool, and a second one if lowering its limits has to wait for its servers."""
    assert isinstance(want.spec, Quota)
    seen = builder.observed.pools.get(want.name)
    known = seen or builder.observed.lost_pools.get(want.name)
    if _refuse_taken_name(builder, want, seen, known):
        return
    builder.note_lacking(want)
    builder.refuse(want, groups.refusals(want.spec.resources, {}, builder.machine))
    paths, steps = _disk(builder, want, want.spec, known)
    delta = _compare(builder, want, want.spec, seen)
    builder.needed |= delta.needed
    builder.populated = True
    for name in _exceeding_servers(builder, want, delta) if seen else ():
        builder.problem(
            want.address,
            f"server {name}, which is in this pool but not in the manifest, exceeds the new limits",
        )
    group = f"{builder.wanted.instance}/{want.name}"
    wide = replace(delta, wanted=groups.widened(delta, builder.machine)) if seen else delta
    narrow = groups.file_writes(group, replace(delta, observed=wide.wanted), builder.machine, parent=True)
    paths = (*_paths(delta, _protection(group, want, seen)), *paths)
    found = _change(builder, want, seen, known, wide, paths, steps)
    builder.add(want.address, found if found.steps or narrow else None)
    if narrow:
        builder.add(want.address, _lowering(builder, want, group, narrow))


def _refuse_taken_name(
    builder: PlanBuilder, want: Object, seen: ObservedGroup | None, known: ObservedGroup | None
) -> bool:
    """Whether a server or somebody else has the name of the pool, which is then a problem."""
    if want.name in builder.observed.servers and f"Server/{want.name}" not in builder.wanted.remove:
        builder.problem(
            want.address, f"a server named {want.name} exists; pools and servers share one parent cgroup"
        )
        return True
    what = f"cgroup {seen.path}" if seen else f"the record of pool {want.name}"
    if want.name not in builder.of("Quota") or known is None:
        return False
    return builder.refuse_foreign(want.address, known.owner, what)


def _change(
    builder: PlanBuilder,
    want: Object,
    seen: ObservedGroup | None,
    known: ObservedGroup | None,
    delta: GroupDelta,
    paths: tuple[PathChange, ...],
    disk: tuple[Step, ...],
) -> Change:
    """Make a pool, or change what does not have to wait: its limits as in `delta`, its marks, its record, and
    its `disk`, which nobody would know of without the record.
    """
    group, owner = f"{builder.wanted.instance}/{want.name}", (known and known.owner) or builder.wanted.owner
    steps: list[Step] = [MakeGroup(name, group, "pool", owner) for name in delta.make]
    steps += builder.enable(group, delta.needed, seen.subtree if seen else frozenset())
    steps += groups.file_writes(group, delta, builder.machine, parent=True)
    spec = fields.write(want.spec)
    mark: list[Step] = (
        [] if seen and seen.applied == spec else [applied.mark_step(group, applied.to_text(spec))]
    )
    protection = _protection(group, want, seen)
    mark += [] if protection is None else [protection[0]]
    record, before = _record(want), (known.disk if known else None) or ""
    write = [] if record == before else [WriteRecord("Quota", want.name, owner, record, before)]
    if seen and write and not paths:
        how = "outdated" if before else "missing"
        paths = (change("status.record", how, "as in the manifest", "live"),)
    return Change(
        "Quota",
        want.name,
        "update" if seen else "create",
        "live" if seen else "none",
        "missing" if seen is None else "changed" if mark else "drift",
        paths if seen else (),
        seen.applied if seen else None,
        spec,
        (*steps, *mark, *write, *disk),
        notes=builder.notes.get(want.address, ()),
    )


def _lowering(builder: PlanBuilder, want: Object, group: str, narrow: tuple[Step, ...]) -> Change:
    """Lower limits. cgroup v1 refuses a parent limit below that of a child: change or remove the servers
    first.
    """
    inside = (child for child in builder.observed.servers.values() if _is_in(child, group))
    after = (want.address, *(f"Server/{child.name}" for child in inside))
    return Change(
        "Quota", want.name, "update", "live", "changed", steps=narrow, after=after, phase="lower-limits"
    )


def _record(want: Object) -> str:
    record = {
        "spec": fields.write(want.spec),
        "labels": dict(want.labels),
        "annotations": dict(want.annotations),
    }
    return applied.to_text(record)


def _paths(delta: GroupDelta, protection: tuple[Step, PathChange] | None) -> tuple[PathChange, ...]:
    return (*groups.changed_paths(delta, "spec"), *(() if protection is None else protection[1:]))


def _protection(group: str, want: Object, seen: ObservedGroup | None) -> tuple[WriteMark, PathChange] | None:
    """The step and the change that protect a pool from removal, or no longer; None if nothing differs."""
    before, after = (
        PREVENT if it else "" for it in (seen and seen.protected, prevents_deletion(want.annotations))
    )
    if before == after:
        return None
    path = change(f"metadata.annotations.{DELETION}", before or None, after or None, "live")
    return WriteMark(group, PROTECTION_MARK, after, before), path


def _compare(builder: PlanBuilder, want: Object, spec: Quota, seen: ObservedGroup | None) -> GroupDelta:
    """Compare the pool's group with its spec. The group needs every controller that its servers need."""
    also: frozenset[str] = frozenset()
    for child in builder.servers.values():
        if isinstance(child.spec, Server) and child.spec.quota == want.name:
            also |= groups.needed(child.spec.resources, builder.machine)
    given = resources.with_weight(spec.resources, builder.weights[want.address])
    return groups.compare(given, seen, builder.machine, ignore=resources.ignored(want), also=also)


def _disk(
    builder: PlanBuilder, want: Object, spec: Quota, known: ObservedGroup | None
) -> tuple[tuple[PathChange, ...], tuple[Step, ...]]:
    """What differs of the limit of what the servers of a pool write together, and the steps."""
    space = known.space if known else None
    if not resources.has_disk_limit(spec.resources, seen=space):
        return (), ()
    from vsprov.plan.limits import pool_disk

    builder.problems += pool_disk.problems(want.address, spec.resources, space, builder.machine)
    owner, given = (known and known.owner) or builder.wanted.owner, spec.resources
    if space and "disk.space" in given and "disk.space" in resources.ignored(want):
        given = {**given, "disk.space": space.space or MAX}
    return pool_disk.compare(want.name, owner, given, space, builder.machine)


def _exceeding_servers(builder: PlanBuilder, want: Object, delta: GroupDelta) -> Iterable[str]:
    """Servers that stay in the pool unchanged and whose limits the kernel would not let the pool go below."""
    group = f"{builder.wanted.instance}/{want.name}"
    for child in builder.observed.servers.values():
        stays = child.name not in builder.servers and not builder.removes(
            "Server", child.name, child.set_owner
        )
        if stays and child.group and _is_in(child, group):
            if groups.exceeds(child.group.texts, delta.wanted, builder.machine):
                yield child.name


def _is_in(seen: ObservedServer, group: str) -> bool:
    return seen.group is not None and seen.group.path.startswith(f"{group}/")


def weights(observed: Observed, machine: Machine) -> dict[str, int]:
    """{address: CPU weight that results from the recorded weights and reservations}."""
    claims = [claim_of_pool(name, pool) for name, pool in observed.pools.items()]
    claims += [claim_of_server(name, seen.applied) for name, seen in observed.servers.items() if seen.applied]
    return admission.weights(claims, machine)


def remove(builder: PlanBuilder, name: str) -> Change:
    """The change that removes a pool; `removals` has checked that no server is left in it."""
    pool = builder.observed.all_pools[name]
    steps: list[Step] = [RemoveGroup(pool.path)] if name in builder.observed.pools else []
    if pool.space:
        from vsprov.plan.limits.pool_disk import ReleasePool

        steps.append(ReleasePool(name))
    return removal("Quota", name, (*steps, RemoveRecord("Quota", name)), pool.applied or {})


def show(name: str, from_: Shown, ignore: frozenset[str]) -> dict[str, Any]:
    """The pool's spec with the limits that its group has."""
    pool = from_.observed.all_pools[name]
    weight = from_.weights.get(f"Quota/{name}")
    found = resources.of_group(resources.of_pool(pool), pool, from_.machine, weight=weight, ignore=ignore)
    found = resources.with_disk(found, pool.space)
    return {"scope": "pool", **write_resources(found)}


def _tree(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != "scope"}


def rounded(spec: Mapping[str, Any], machine: Machine) -> dict[str, Any]:
    """The spec with the values that this kernel would keep; see `resources.rounded_tree`."""
    return (
        {"scope": spec["scope"], **resources.rounded_tree(_tree(spec), machine)}
        if _tree(spec)
        else dict(spec)
    )


def readable(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec with sizes in the notation of manifests (64Mi)."""
    return {**spec, **resources.readable_tree(_tree(spec))}


register(
    KindPlanner(
        "Quota",
        observed=lambda observed: observed.all_pools,
        owners=lambda pool: (pool.owner,),
        plan=plan,
        remove=remove,
        show=show,
        protected=lambda pool: pool.protected,
        rounded=rounded,
        readable=readable,
    )
)
