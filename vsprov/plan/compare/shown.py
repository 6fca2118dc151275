"""The spec of a server as people are shown it: with live values, in the notation of manifests, rounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vsprov.model.kinds.server import Mount
from vsprov.model.limits.resources import write_resources
from vsprov.model.traits import applicable_keys
from vsprov.model.values.units import format_bytes
from vsprov.plan.aspects.aspect import ASPECTS
from vsprov.plan.kinds.planner import Shown
from vsprov.plan.limits import resources
from vsprov.plan.observed import Machine


def show(name: str, from_: Shown, ignore: frozenset[str]) -> dict[str, Any]:
    """The recorded spec with live values; without a record, only what can be read from the kernel."""
    seen = from_.observed.servers[name]
    spec: Mapping[str, Any] = dict(seen.applied["spec"]) if seen.applied else {}
    if seen.applied and seen.group:
        pool = resources.of_pool(from_.observed.pools.get(spec.get("quota", "")))
        machine, weight = resources.within(from_.machine, pool), from_.weights.get(f"Server/{name}")
        recorded = resources.of_record(seen.applied)
        found = resources.of_group(recorded, seen.group, machine, weight=weight, ignore=ignore)
        spec = _with_resources(spec, write_resources(found))
    for aspect in ASPECTS.values():
        if aspect.name in seen.live:
            spec = aspect.show(spec, seen.live[aspect.name], ignore)
    return {**spec, "state": seen.wanted_state}


def _with_resources(spec: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in spec.items() if key != "resources"}
    return {**rest, "resources": tree} if tree else rest


def rounded(spec: Mapping[str, Any], machine: Machine) -> dict[str, Any]:
    """The spec with the values that this kernel would keep; see `resources.rounded_tree`."""
    tree = spec.get("resources", {})
    return _with_resources(spec, resources.rounded_tree(tree, machine)) if tree else dict(spec)


def readable(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec with sizes in the notation of manifests (64Mi), and mounts without keys that do not apply."""
    out = dict(spec)
    if spec.get("mounts"):
        out["mounts"] = [_readable_mount(mount) for mount in spec["mounts"]]
    if spec.get("resources"):
        out["resources"] = resources.readable_tree(spec["resources"])
    return out


def _readable_mount(mount: Mapping[str, Any]) -> dict[str, Any]:
    keys = applicable_keys(Mount, mount)
    return {**keys, "size": format_bytes(keys["size"])} if keys.get("size") else keys
