"""Pools: quotas that servers share as a group above theirs; and what all servers may have together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from vsprov.model import fields
from vsprov.model.objects import Object, Quota, Server
from vsprov.model.resources import read_resources
from vsprov.plan import admission, applied, groups, removals, servers
from vsprov.plan.admission import Claim
from vsprov.plan.differences import resource_changes
from vsprov.plan.draft import Draft
from vsprov.plan.groups import GroupDelta
from vsprov.plan.observed import ObservedGroup, ObservedServer
from vsprov.plan.plan import Change
from vsprov.plan.steps import MakeGroup, Step


def admit(draft: Draft) -> dict[str, int]:
    """{address: CPU weight to write}, after checking that the host can honour all claims together.

    Servers and pools of other sets count too; their weights are theirs and stay.
    """
    claims = [*_wanted_claims(draft), *_other_claims(draft)]
    for refusal in admission.host_refusals(claims, draft.machine):
        draft.problem("Host", refusal, "lower the reservations or move servers to another host")
    concerned = _concerned(draft)
    for address, key, refusal in admission.pool_refusals(claims):
        if address in concerned:
            hint = "lower the reservations or raise the pool's limit"
            draft.problem(address, refusal, hint, f"spec.{key}")
    return admission.weights(claims, draft.machine)


def _concerned(draft: Draft) -> set[str]:
    """The pools that are wanted, or get servers that are: what others have in theirs is their affair."""
    specs = (want.spec for want in draft.servers.values())
    used = {spec.quota for spec in specs if isinstance(spec, Server) and spec.quota}
    return {f"Quota/{name}" for name in {*draft.pools, *used}}


def _wanted_claims(draft: Draft) -> Iterable[Claim]:
    for want in (*draft.pools.values(), *draft.servers.values()):
        assert isinstance(want.spec, Quota | Server)
        parent = want.spec.quota or "" if isinstance(want.spec, Server) else ""
        yield Claim.of(want.address, parent, want.spec.resources)


def _other_claims(draft: Draft) -> Iterable[Claim]:
    for name, pool in draft.observed.pools.items():
        if name not in draft.pools and not removals.would_go(draft, "Quota", name, pool.owner):
            yield claim_of_pool(name, pool)
    for name, seen in draft.observed.servers.items():
        if name not in draft.servers and seen.applied and not removals.server_would_go(draft, seen):
            yield claim_of_server(name, seen.applied)


def claim_of_pool(name: str, pool: ObservedGroup) -> Claim:
    """What an observed pool asks for, by its record."""
    return Claim.of(f"Quota/{name}", "", resources_of(pool))


def claim_of_server(name: str, record: Mapping[str, Any]) -> Claim:
    """What an observed server asks for, by its record."""
    return Claim.of(f"Server/{name}", record["spec"].get("quota", ""), servers.resources_of(record))


def resources_of(pool: ObservedGroup | None) -> dict[str, Any]:
    """{knob path: value} that an observed pool was made with."""
    recorded = pool.applied if pool and pool.applied else {}
    return read_resources({key: keys for key, keys in recorded.items() if key != "scope"})


def plan(draft: Draft, want: Object, weight: int) -> None:
    """What happens to a pool: one change, and a second one where narrowing has to wait for its servers."""
    assert isinstance(want.spec, Quota)
    seen = draft.observed.pools.get(want.name)
    if want.name in draft.observed.servers and f"Server/{want.name}" not in draft.wanted.remove:
        draft.problem(want.address, f"a server {want.name} exists; pools and servers share one parent group")
        return
    if seen and draft.foreign(want.address, seen.owner, f"cgroup {seen.path}"):
        return
    draft.note_lacking(want)
    draft.refuse(want, groups.refusals(want.spec.resources, {}, draft.machine))
    children = [o for o in draft.servers.values() if isinstance(o.spec, Server) and o.spec.quota == want.name]
    also = frozenset[str]().union(*(groups.needed(child.spec.resources, draft.machine) for child in children))  # type: ignore[union-attr]
    resources = servers.with_weight(want.spec.resources, weight)
    delta = groups.compare(resources, seen, draft.machine, ignore=servers.ignored(want), also=also)
    draft.needed |= delta.needed
    draft.populated = True
    for name in _too_large(draft, want, delta) if seen else ():
        draft.problem(want.address, f"server {name} is in it, is not in the manifest, and has more than that")

    group = f"{draft.wanted.instance}/{want.name}"
    make: list[Step] = [MakeGroup(name, group, "pool", draft.wanted.owner) for name in delta.make]
    make += draft.pass_down(group, delta.needed, seen.subtree if seen else frozenset())
    wide = groups.widened(delta, draft.machine) if seen else delta.wanted
    grow = groups.file_writes(group, replace(delta, wanted=wide), draft.machine, parent=True)
    settle = groups.file_writes(group, replace(delta, observed=wide), draft.machine, parent=True)
    spec = fields.write(want.spec)
    text = applied.to_text(spec)
    mark = [] if seen and seen.applied == spec else [servers.applied_mark(group, text)]
    steps = (*make, *grow, *mark)
    if not steps and not settle:
        draft.add(want.address, None)
        return
    draft.add(
        want.address,
        Change(
            "Quota",
            want.name,
            "update" if seen else "create",
            "live" if seen else "none",
            "missing" if seen is None else "changed" if mark else "drift",
            tuple(resource_changes(delta, "spec")) if seen else (),
            seen.applied if seen else None,
            spec,
            steps,
            notes=draft.notes.get(want.address, ()),
        ),
    )
    if settle:
        # v1 refuses a parent that is narrower than its child, so the servers are narrowed, or gone, first.
        inside = (child for child in draft.observed.servers.values() if _is_in(child, group))
        after = (want.address, *(f"Server/{child.name}" for child in inside))
        draft.add(
            want.address,
            Change(
                "Quota", want.name, "update", "live", "changed", steps=settle, after=after, phase="settle"
            ),
        )


def _too_large(draft: Draft, want: Object, delta: GroupDelta) -> Iterable[str]:
    """Servers that stay in the pool as they are, and that the kernel would not let it be narrower than."""
    group = f"{draft.wanted.instance}/{want.name}"
    for child in draft.observed.servers.values():
        stays = child.name not in draft.servers and not removals.server_would_go(draft, child)
        if stays and child.group and _is_in(child, group):
            if groups.exceeds(child.group.texts, delta.wanted, draft.machine):
                yield child.name


def _is_in(seen: ObservedServer, group: str) -> bool:
    return seen.group is not None and seen.group.path.startswith(f"{group}/")
