"""The specs of what was observed: the record of what was applied, with every value that the kernel shows in
place of the recorded one. A plan for them is empty, so they can be handed out as a manifest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vsprov.model.kinds import BYTES, LIMIT_BYTES, RLIMIT_BYTES
from vsprov.model.knobs import BY_PATH, KNOBS, RLIMITS
from vsprov.model.objects import Mount
from vsprov.model.resources import read_resources, write_resources
from vsprov.model.traits import applicable_keys
from vsprov.model.units import format_bytes
from vsprov.plan import admission, pools, servers
from vsprov.plan.admission import Claim
from vsprov.plan.observed import Machine, Observed, ObservedGroup, ObservedServer


def weights(observed: Observed, machine: Machine) -> dict[str, int]:
    """{address: the CPU weight that the recorded weights and reservations lead to}."""
    return admission.weights(_claims(observed), machine)


def _claims(observed: Observed) -> Iterator[Claim]:
    for name, pool in observed.pools.items():
        yield pools.claim_of_pool(name, pool)
    for name, seen in observed.servers.items():
        if seen.applied:
            yield pools.claim_of_server(name, seen.applied)


def server_spec(
    seen: ObservedServer,
    observed: Observed,
    machine: Machine,
    by_address: Mapping[str, int],
    ignore: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """A server's spec; of one without record only what the kernel tells. `by_address`: from `weights`;
    knobs in `ignore` as they were applied.
    """
    spec: dict[str, Any] = dict(seen.applied["spec"]) if seen.applied else {}
    if seen.applied and seen.group:
        around = pools.resources_of(observed.pools.get(spec.get("quota", "")))
        recorded, weight = servers.resources_of(seen.applied), by_address.get(f"Server/{seen.name}")
        inside = servers.within(machine, around)
        resources = group_resources(recorded, seen.group, inside, weight=weight, ignore=ignore)
        spec.pop("resources", None)
        if resources := with_limits(resources, seen, ignore):
            spec["resources"] = write_resources(resources)
    if seen.hostname is not None:
        spec["hostname"] = seen.hostname
    return {**spec, "state": seen.state}


def pool_spec(
    name: str,
    pool: ObservedGroup,
    machine: Machine,
    by_address: Mapping[str, int],
    ignore: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """A pool's spec; knobs in `ignore` as they were applied."""
    weight = by_address.get(f"Quota/{name}")
    found = group_resources(pools.resources_of(pool), pool, machine, weight=weight, ignore=ignore)
    return {"scope": "pool", **write_resources(found)}


def group_resources(
    recorded: Mapping[str, Any],
    group: ObservedGroup,
    machine: Machine,
    *,
    weight: int | None = None,
    ignore: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """{knob path: value} of a group. A recorded value stays as it was written while the kernel shows just
    that, and if it is in `ignore`; `weight` is the CPU weight that the recorded reservations lead to.
    """
    out = dict(recorded)
    expected = recorded if weight is None else servers.with_weight(recorded, weight)
    for knob, side in machine.rows:
        if knob.path in ignore or any(file not in group.texts for file in side.files):
            continue
        if _has_devices(knob.path, expected, machine):
            texts = side.encode(expected.get(knob.path), expected, machine.host)
            if all(group.texts[file] == texts[file] for file in side.files):
                continue
        value = side.decode(group.texts, machine.host)
        if value is None:
            out.pop(knob.path, None)
        else:
            out[knob.path] = value
    return {knob.path: out[knob.path] for knob in KNOBS if knob.path in out}


def with_limits(
    resources: Mapping[str, Any], seen: ObservedServer, ignore: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """The resources with the resource limits its init really has, of those that were set."""
    out = dict(resources)
    for knob in RLIMITS:
        left_alone = knob.path in ignore or knob.path not in out
        if not left_alone and seen.limits and knob.rlimit in seen.limits:
            out[knob.path] = seen.limits[knob.rlimit]
    return out


def settled(kind: str, spec: Mapping[str, Any], machine: Machine) -> dict[str, Any]:
    """The spec with its resources as this kernel keeps them, and without those that are its defaults.

    Two specs that are settled differ only where groups would.
    """
    pool = kind == "Quota"
    tree = (
        {key: value for key, value in spec.items() if key != "scope"} if pool else spec.get("resources", {})
    )
    if kind == "Image" or not tree:
        return dict(spec)
    resources = _settle(read_resources(tree), machine)
    written = write_resources(resources)
    if pool:
        return {"scope": spec["scope"], **written}
    rest = {key: value for key, value in spec.items() if key != "resources"}
    return {**rest, "resources": written} if written else rest


def readable(kind: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The same spec with sizes as people write them, 64Mi, and of each mount what its type has."""
    if spec.get("mounts"):
        spec = {**spec, "mounts": [_mount(mount) for mount in spec["mounts"]]}
    tree = spec if kind == "Quota" else spec.get("resources", {})
    shown = {
        group: {key: _sized(f"{group}.{key}", value) for key, value in keys.items()}
        if isinstance(keys, Mapping)
        else keys
        for group, keys in tree.items()
    }
    if kind == "Image" or not shown:
        return dict(spec)
    return shown if kind == "Quota" else {**spec, "resources": shown}


def _mount(mount: Mapping[str, Any]) -> dict[str, Any]:
    shown = applicable_keys(Mount, mount)
    return {**shown, "size": format_bytes(shown["size"])} if shown.get("size") else shown


def _sized(path: str, value: Any) -> Any:
    knob = BY_PATH.get(path)
    if knob and knob.kind is RLIMIT_BYTES:
        return {key: format_bytes(limit) for key, limit in value.items()}
    return format_bytes(value) if knob and knob.kind in (BYTES, LIMIT_BYTES) else value


def _settle(resources: Mapping[str, Any], machine: Machine) -> dict[str, Any]:
    texts: dict[str, str] = {}
    rows = [row for row in machine.rows if _has_devices(row[0].path, resources, machine)]
    for knob, side in rows:
        texts.update(side.encode(resources.get(knob.path), resources, machine.host))
    out = dict(resources)
    for knob, side in rows:
        if knob.path in out:
            value = side.decode(texts, machine.host)
            if value is None:
                del out[knob.path]
            else:
                out[knob.path] = value
    return out


def _has_devices(path: str, resources: Mapping[str, Any], machine: Machine) -> bool:
    """Whether every device that is named has a number; one that was taken out of the machine has none."""
    rows = resources.get(path) or () if path == "io.devices" else ()
    return all(dict(row)["device"] in machine.host.devices for row in rows)
