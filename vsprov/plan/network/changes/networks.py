"""Networks: the record and the bridge of each wanted network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vsprov.model import fields
from vsprov.model.objects import Object
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.compare import applied, diff
from vsprov.plan.network import naming
from vsprov.plan.network.changes import compare
from vsprov.plan.network.desired.result import Desired
from vsprov.plan.network.state import HostLink, ObservedNetwork
from vsprov.plan.network.steps import ChangeLink, MakeBridge, RemoveLink
from vsprov.plan.plan import Change, PathChange, change, removal
from vsprov.plan.steps import RemoveRecord, Step, WriteRecord


def plan(builder: PlanBuilder, desired: Desired) -> None:
    """Add the changes of the wanted networks."""
    for want in builder.of("Network").values():
        seen = desired.seen.networks.get(want.name)
        recorded = seen is not None and (seen.applied is not None or seen.owner is not None)
        if seen and recorded and builder.refuse_foreign(want.address, seen.owner, f"network {want.name}"):
            continue
        builder.add(want.address, _change(builder, desired, want, seen if recorded else None))


def _change(
    builder: PlanBuilder, desired: Desired, want: Object, seen: ObservedNetwork | None
) -> Change | None:
    recorded = seen.applied if seen else None
    now = record(want, desired.befores)
    text, before = applied.to_text(now), applied.to_text(recorded) if recorded else ""
    steps: list[Step] = []
    if text != before:
        owner = (seen and seen.owner) or builder.wanted.owner
        steps.append(WriteRecord("Network", want.name, owner, text, before))
    link = desired.wanted.bridges.get(want.name)
    found = desired.seen.links.get(link.name) if link else None
    drift: list[PathChange] = []
    if link:
        made, drift = _bridge(want.name, link, found)
        steps += made
    if not steps:
        return None
    notes = builder.notes.get(want.address, ())
    desired_spec = fields.write(want.spec)
    if seen is None:
        return Change(
            "Network",
            want.name,
            "create",
            "none",
            "missing",
            (),
            None,
            desired_spec,
            tuple(steps),
            notes=notes,
        )
    paths = {path.path: path for path in (*_recorded(recorded, now), *drift)}
    if not paths:
        paths["status.record"] = change("status.record", "outdated", "as in the manifest", "live")
    respecified = recorded is not None and recorded["spec"] != now["spec"]
    reason = "drift" if not respecified and (drift or recorded is None) else "changed"
    before_spec = recorded["spec"] if recorded else {}
    return Change(
        "Network", want.name, "update", "live", reason, tuple(paths.values()), before_spec, desired_spec,
        tuple(steps), notes=notes,
    )  # fmt: skip


def record(want: Object, befores: Mapping[str, str]) -> dict[str, Any]:
    """The record of a network: its spec, and the sysctls of the host from before the first network."""
    return {
        "spec": fields.write(want.spec),
        "labels": dict(want.labels),
        "annotations": dict(want.annotations),
        **({"sysctls": dict(befores)} if befores else {}),
    }


def _recorded(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[PathChange]:
    if before is None:
        return [change("spec", "unknown: its record is lost or was edited", "as in the manifest", "live")]
    out = [
        PathChange(f"spec.{path}", old, new, "live", diff.texts(path, old, new))
        for path, old, new in diff.differences(before["spec"], now["spec"])
    ]
    for key in ("labels", "annotations"):
        for path, old, new in diff.differences({key: before.get(key, {})}, {key: now[key]}):
            out.append(change(f"metadata.{path}", old, new, "live"))
    return out


def _bridge(network: str, link: HostLink, found: HostLink | None) -> tuple[list[Step], list[PathChange]]:
    """The steps that make a bridge what it should be, and what differs. `clashes` refuses those of others."""
    if found is None:
        return [MakeBridge(network, link)], [change("status.link", "missing", "present", "live")]
    if found.alias != link.alias:
        return [], []
    if found.kind != link.kind:
        steps: list[Step] = [RemoveLink(found.name, found.alias), MakeBridge(network, link)]
        return steps, [change("status.link", found.kind, link.kind, "live")]
    different = compare.bridge(link, found)
    return ([ChangeLink(link, compare.visible(found))] if different else []), different


def remove(builder: PlanBuilder, name: str) -> Change:
    """The change that removes a network and its bridge; `removals` has checked that no server uses it."""
    assert builder.observed.networks is not None
    seen = builder.observed.networks.networks[name]
    alias = naming.network_alias(builder.wanted.instance, name)
    links = [link for link in builder.observed.networks.links.values() if link.alias == alias]
    steps: list[Step] = [RemoveLink(link.name, alias) for link in links]
    spec = dict(seen.applied["spec"]) if seen.applied else {}
    return removal("Network", name, (*steps, RemoveRecord("Network", name)), spec)


def with_sysctls(seen: ObservedNetwork, befores: Mapping[str, str]) -> WriteRecord | None:
    """The step that records sysctls in a network that is not in the manifest; None if they are recorded."""
    if seen.applied is None or seen.owner is None or seen.applied.get("sysctls", {}) == befores:
        return None
    now = {key: value for key, value in seen.applied.items() if key != "sysctls"}
    now |= {"sysctls": dict(befores)} if befores else {}
    return WriteRecord("Network", seen.name, seen.owner, applied.to_text(now), applied.to_text(seen.applied))
