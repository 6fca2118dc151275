"""The spec of a server as people are shown it: with live values, in the notation of manifests, rounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vsprov.model.kinds.sections.mounts import Mount
from vsprov.model.limits.resources import write_resources
from vsprov.model.traits import applicable_keys
from vsprov.model.values.units import format_bytes
from vsprov.plan.aspects.aspect import ASPECTS
from vsprov.plan.kinds.planner import Shown
from vsprov.plan.limits import resources
from vsprov.plan.observed import Machine

if TYPE_CHECKING:
    from vsprov.plan.network.state import Interface


def show(name: str, from_: Shown, ignore: frozenset[str]) -> dict[str, Any]:
    """The recorded spec with live values; without a record, only what can be read from the kernel."""
    seen = from_.observed.servers[name]
    spec: Mapping[str, Any] = dict(seen.applied["spec"]) if seen.applied else {}
    if seen.applied and seen.group:
        pool = resources.of_pool(from_.observed.pools.get(spec.get("quota", "")))
        machine, weight = resources.within(from_.machine, pool), from_.weights.get(f"Server/{name}")
        recorded = resources.of_record(seen.applied)
        found = resources.of_group(recorded, seen.group, machine, weight=weight, ignore=ignore)
        found = resources.with_disk(found, seen.space)
        spec = _with_resources(spec, write_resources(found))
    for aspect in ASPECTS.values():
        if aspect.name in seen.live:
            spec = aspect.show(spec, seen.live[aspect.name], ignore)
    if seen.init and spec.get("interfaces") and from_.observed.networks and seen.applied:
        has = from_.observed.networks.interfaces.get(name, {})
        given = seen.applied.get("addresses", {})
        spec = {**spec, "interfaces": list(_interfaces(spec["interfaces"], given, has))}
    return {**spec, "state": seen.wanted_state}


def _interfaces(
    recorded: Iterable[Mapping[str, Any]],
    given: Mapping[str, Iterable[str]],
    has: Mapping[str, Interface],
) -> Iterator[Mapping[str, Any]]:
    """The recorded interfaces that a running server has, with the addresses of now if they are not those
    that it was `given`. An interface without any gets its addresses from the network it is connected to.
    """
    by_name = {one.altname or one.name: one for one in has.values()}
    for spec in recorded:
        found, expected = by_name.get(spec["name"]), set(given.get(spec["name"], ()))
        if spec["name"] not in given:
            yield spec  # of the host
        elif found and (found.addresses == expected or not expected):
            yield spec
        elif found:
            yield {**spec, "addresses": sorted(found.addresses)}


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
    if console := spec.get("console"):
        out["console"] = {**console, "maxSize": format_bytes(console["maxSize"])}
    return out


def _readable_mount(mount: Mapping[str, Any]) -> dict[str, Any]:
    keys = applicable_keys(Mount, mount)
    return {**keys, "size": format_bytes(keys["size"])} if keys.get("size") else keys
