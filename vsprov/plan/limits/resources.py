"""The resources of servers and pools: from records, from observed groups, and rounded by this machine.

Resources are {knob path: value}. A *tree* is the nested form that specs have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from vsprov.model import objects
from vsprov.model.limits.encodings import Group
from vsprov.model.limits.knobs import BY_PATH, KNOBS
from vsprov.model.limits.resources import read_resources, write_resources
from vsprov.model.objects import Object
from vsprov.model.values.units import MAX, format_bytes
from vsprov.model.values.value_kinds import BYTES, LIMIT_BYTES, RLIMIT_BYTES
from vsprov.plan.limits.admission import DEFAULT_WEIGHT
from vsprov.plan.observed import Machine, ObservedGroup
from vsprov.plan.seen_disk import SeenDisk

DISK_BLOCK = 4096  # bytes


def of_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The resources in the record of a server."""
    return read_resources(record["spec"].get("resources", {}))


def has_disk_limit(*wanted: Mapping[str, Any], seen: SeenDisk | None) -> bool:
    """Whether a server or a pool has a limit of what is written, or any of these resources wants one."""
    return seen is not None or any(path.startswith("disk.") for each in wanted for path in each)


def whole_blocks(space: Any) -> Any:
    """The limit of a disk as file systems have it: in blocks of 4 KiB."""
    return space if space == MAX else space // DISK_BLOCK * DISK_BLOCK


def with_disk(recorded: Mapping[str, Any], disk: SeenDisk | None) -> dict[str, Any]:
    """The resources with the limit of a disk that there is, if one is recorded. It is as written if it is the
    same in blocks.
    """
    space = recorded.get("disk.space", MAX)
    if disk is None or disk.problem or space == MAX or whole_blocks(space) == disk.space:
        return dict(recorded)
    return {**recorded, "disk.space": disk.space}


def of_pool(pool: ObservedGroup | None) -> dict[str, Any]:
    """The recorded resources of an observed pool; {} if there is no pool or no record."""
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
    """The current resources of a group.

    A recorded value is returned as written if the kernel has the same, or if its knob is in `ignore`.
    `weight` is the CPU weight that results from the recorded reservations.
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
    """The machine for servers in a pool: their default CPUs are those of the pool; v1 refuses others."""
    if "cpu.cpus" not in pool and "cpu.mems" not in pool:
        return machine
    host = machine.host
    cpus, mems = pool.get("cpu.cpus", host.cpus), pool.get("cpu.mems", host.mems)
    return replace(machine, host=replace(host, cpus=cpus, mems=mems))


def with_weight(resources: Group, weight: int) -> dict[str, Any]:
    """The resources with this CPU weight; the default weight is omitted unless it was set explicitly."""
    out = {path: value for path, value in resources.items() if path != "cpu.weight"}
    absent = weight == DEFAULT_WEIGHT and "cpu.weight" not in resources
    return out if absent else {**out, "cpu.weight": weight}


def ignored(want: Object) -> frozenset[str]:
    """The knobs in the annotation `vsprov/ignore`, which vsprov leaves to other programs."""
    names = (part.strip() for part in want.annotations.get(objects.IGNORE, "").split(","))
    return frozenset(name for name in names if name)


def rounded_tree(tree: Mapping[str, Any], machine: Machine) -> dict[str, Any]:
    """The tree with the values that this kernel would keep, without defaults.

    Two rounded trees differ exactly where the files of their groups would.
    """
    resources = read_resources(tree)
    texts: dict[str, str] = {}
    rows = [row for row in machine.rows if _has_devices(row[0].path, resources, machine)]
    for knob, side in rows:
        texts.update(side.encode(resources.get(knob.path), resources, machine.host))
    out = dict(resources)
    if "disk.space" in out:
        out["disk.space"] = whole_blocks(out["disk.space"])
    for knob, side in rows:
        if knob.path in out:
            value = side.decode(texts, machine.host)
            if value is None:
                del out[knob.path]
            else:
                out[knob.path] = value
    return write_resources(out)


def readable_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with sizes in the notation of manifests: 64Mi."""
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
    """Whether every configured device has a number; a device that was removed from the host has none."""
    rows = resources.get(path) or () if path == "io.devices" else ()
    return all(dict(row)["device"] in machine.host.devices for row in rows)
