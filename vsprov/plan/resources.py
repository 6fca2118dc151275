"""The resources of servers and pools: as they were recorded, as a group has them, as this machine keeps them.

{knob path: value}; a *tree* is the same as it is written in a spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vsprov.model import objects
from vsprov.model.encodings import Group
from vsprov.model.knobs import BY_PATH, KNOBS
from vsprov.model.objects import Object
from vsprov.model.resources import read_resources, write_resources
from vsprov.model.values.units import format_bytes
from vsprov.model.values.value_kinds import BYTES, LIMIT_BYTES, RLIMIT_BYTES
from vsprov.plan.admission import DEFAULT_WEIGHT
from vsprov.plan.observed import Machine, ObservedGroup


def of_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The resources in a server's record."""
    return read_resources(record["spec"].get("resources", {}))


def of_pool(pool: ObservedGroup | None) -> dict[str, Any]:
    """The resources that an observed pool was made with."""
    recorded = pool.applied if pool and pool.applied else {}
    return read_resources({key: keys for key, keys in recorded.items() if key != "scope"})


def of_group(
    recorded: Mapping[str, Any],
    group: ObservedGroup,
    machine: Machine,
    *,
    weight: int | None = None,
    ignore: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """The resources of a group. A recorded value stays as it was written while the kernel shows just that,
    and if it is in `ignore`; `weight` is the CPU weight that the recorded reservations lead to.
    """
    out = dict(recorded)
    expected = recorded if weight is None else with_weight(recorded, weight)
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


def rounded_tree(tree: Mapping[str, Any], machine: Machine) -> dict[str, Any]:
    """The tree as this kernel keeps it, without its defaults: two of them differ where groups would."""
    resources = read_resources(tree)
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
    return write_resources(out)


def readable_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with sizes as people write them: 64Mi."""
    return {
        group: {key: _sized(f"{group}.{key}", value) for key, value in keys.items()}
        if isinstance(keys, Mapping)
        else keys
        for group, keys in tree.items()
    }


def _sized(path: str, value: Any) -> Any:
    knob = BY_PATH.get(path)
    if knob and knob.kind is RLIMIT_BYTES:
        return {key: format_bytes(limit) for key, limit in value.items()}
    return format_bytes(value) if knob and knob.kind in (BYTES, LIMIT_BYTES) else value


def _has_devices(path: str, resources: Mapping[str, Any], machine: Machine) -> bool:
    """Whether every device that is named has a number; one that was taken out of the machine has none."""
    rows = resources.get(path) or () if path == "io.devices" else ()
    return all(dict(row)["device"] in machine.host.devices for row in rows)
