"""Limits as files: which writes turn a group's files into what is wanted, and in an order the kernel takes.

Writes are planned over files, not over changed values: two knobs can share a file (v1's memsw is memory.max +
swapMax).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vsprov.model.encodings import Side, Texts, writes
from vsprov.model.knobs import BY_PATH, KNOBS, Knob
from vsprov.model.values.units import MAX, expand_ids, format_ids
from vsprov.model.values.value_kinds import CPU_OR_MAX, ID_LIST, LIMIT_BYTES, LIMIT_COUNT
from vsprov.plan.observed import Machine, ObservedGroup
from vsprov.plan.plan import PathChange
from vsprov.plan.steps import WriteFile


@dataclass(frozen=True, slots=True)
class Difference:
    """A knob whose files differ from what is wanted; values are None for the kernel's default."""

    knob: Knob
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class GroupDelta:
    """What makes one group right.

    `needed` are the controllers it needs, by v2 name; `make` the hierarchies its directory has yet to be made
    in; `differences` are for people and for the kernel; `wanted` and `observed` are texts by file.
    """

    needed: frozenset[str]
    make: tuple[str, ...]
    differences: tuple[Difference, ...]
    wanted: Texts
    observed: Texts


# Controllers every server is under, so that its usage can be read even when no limit is set.
ALWAYS = ("cpu", "memory", "pids")


def compare(
    resources: Mapping[str, Any],
    seen: ObservedGroup | None,
    machine: Machine,
    *,
    ignore: frozenset[str] = frozenset(),
    also: frozenset[str] = frozenset(),
) -> GroupDelta:
    """What it takes to give the group these resources; `seen` is None or its observation.

    `also` names controllers it needs besides those of its own knobs (its pool's). A knob in `ignore` is
    written when the group is made and left alone afterwards.
    """
    rows = [(knob, side) for knob, side in machine.rows if not (seen and knob.path in ignore)]
    wanted = {
        knob.path: side.encode(resources.get(knob.path), resources, machine.host) for knob, side in rows
    }
    needs = needed(resources, machine) | also
    texts: dict[str, str] = dict(seen.texts) if seen else {}
    for knob, side in rows:
        default = side.encode(None, {}, machine.host)
        if side.files[0] not in texts and knob.controller in needs:
            texts.update(default if side.new_group is None else dict.fromkeys(side.files, side.new_group))
        if side.blank and texts.get(side.files[0]) == "" and resources.get(knob.path) is None:
            texts.update(default)
    differences = tuple(
        Difference(knob, side.decode(texts, machine.host), resources.get(knob.path))
        for knob, side in rows
        if side.files[0] in texts and any(texts[file] != wanted[knob.path][file] for file in side.files)
    )
    there = seen.controllers if seen else frozenset()
    names = {hierarchy(name, machine) for name in needs} | {""}
    flat = {file: text for by_file in wanted.values() for file, text in by_file.items()}
    return GroupDelta(needs, tuple(sorted(names - there)), differences, flat, texts)


def changed_paths(delta: GroupDelta, prefix: str = "spec.resources") -> Iterator[PathChange]:
    """The knobs whose values differ; not those whose file only has to be written for the first time."""
    for difference in delta.differences:
        kind, values = difference.knob.kind, (difference.before, difference.after)
        before, after = ("default" if value is None else kind.format(value) for value in values)
        if before != after:
            raw = [None if value is None else kind.dump(value) for value in values]
            yield PathChange(f"{prefix}.{difference.knob.path}", raw[0], raw[1], "live", (before, after))


def needed(resources: Mapping[str, Any], machine: Machine) -> frozenset[str]:
    """The controllers, by v2 name, that a group with these resources needs on this machine.

    Those of the knobs whose files have to hold something else than their default.
    """
    found = {name for name in ALWAYS if name in machine.versions}
    host = machine.host
    for path, value in resources.items():
        knob = BY_PATH[path]
        side = machine.side(knob)
        if side and (side.blank or side.encode(value, resources, host) != side.encode(None, {}, host)):
            found.add(knob.controller)
    return frozenset(found)


def hierarchy(controller: str, machine: Machine) -> str:
    """The hierarchy where a controller (v2 name) is found: its v1 name, or "" for cgroup2."""
    if machine.versions[controller] == 2:
        return ""
    return "blkio" if controller == "io" else controller


def widened(delta: GroupDelta, machine: Machine) -> Texts:
    """The texts of a group that allow what both its old and its new limits allow; what is no limit stays old.

    A pool is widened before its servers change and brought to its final values after them: v1 refuses a
    child beyond its parent, and a server that starts needs the room that the pool is getting.
    """
    out = dict(delta.observed)
    for difference in delta.differences:
        side, kind = machine.side(difference.knob), difference.knob.kind
        assert side is not None
        before, after = ({file: by[file] for file in side.files} for by in (delta.observed, delta.wanted))
        if kind is CPU_OR_MAX:
            out.update(after if bandwidth(after) > bandwidth(before) else before)
        elif kind is ID_LIST:
            out.update({file: _all_ids(before[file], after[file], side) for file in side.files})
        elif kind in (LIMIT_BYTES, LIMIT_COUNT):
            out.update({file: max(before[file], after[file], key=as_number) for file in side.files})
    return out


def bandwidth(texts: Texts) -> float:
    """The CPUs that a group's quota and period allow, from v1's two files or v2's one."""
    quota, period = " ".join(texts.values()).split()
    return as_number(quota) / int(period)


def _all_ids(before: str, after: str, side: Side) -> str:
    if before == side.new_group or not (before and after):
        return after if before == side.new_group else ""  # v2's empty list is no limit
    return format_ids(expand_ids(before) | expand_ids(after))


def file_writes(
    group: str, delta: GroupDelta, machine: Machine, *, parent: bool = False
) -> tuple[WriteFile, ...]:
    """The writes of a delta, in an order that the kernel takes and that is never wider open in between.

    `parent`: the group has groups below it, which v1 does not let it be narrower than, not even in between.
    """
    out: dict[str, WriteFile] = {}
    bound: dict[str, str] = {}
    for difference in delta.differences:
        side = machine.side(difference.knob)
        assert side is not None
        if side.at_most:
            bound[side.files[0]] = side.at_most
        for file in side.files:
            before, after = delta.observed[file], delta.wanted[file]
            if before != after:
                # A new group's CPUs cannot be taken from it again once something runs there (ENOSPC).
                blank = side.encode(None, {}, machine.host)[file]
                forward, back = writes(side, before, after), writes(side, after, before or blank)
                out[file] = WriteFile(side.controller, group, file, forward, back, _why(difference))
    return order(out, bound, delta.observed, parent)


def order(
    steps: Mapping[str, WriteFile], bound: Mapping[str, str], texts: Texts, parent: bool = False
) -> tuple[WriteFile, ...]:
    """Order writes so that no file ever holds more than the file that bounds it.

    A file that is raised past its bound's present value follows the bound; otherwise it goes first, so that
    the bound may be lowered. v1's quota and period are one ratio: the one that lowers it goes first, except
    in a `parent`, where it goes last.
    """
    out: list[str] = []

    def place(file: str) -> None:
        if file in steps and file not in out:
            above = bound.get(file, "")
            if above in steps and as_number(steps[file].data[-1]) > as_number(texts[above]):
                place(above)
            out.append(file)

    def rank(file: str) -> int:
        if file == "cpu.cfs_period_us":
            return 3 if _raises(steps[file], texts) == parent else 0
        return 1 if bound.get(file) else 2

    for file in sorted(steps, key=rank):
        place(file)
    return tuple(steps[file] for file in out)


def as_number(text: str) -> float:
    """The number a limit file starts with; no limit is infinite."""
    word = text.split(" ", 1)[0]
    return float("inf") if word in (MAX, "-1") else float(word)


def _raises(step: WriteFile, texts: Texts) -> bool:
    return as_number(step.data[-1]) > as_number(texts[step.file])


def _why(difference: Difference) -> str:
    after = difference.after
    return f"{difference.knob.path} = {'default' if after is None else difference.knob.kind.format(after)}"


def refusals(resources: Mapping[str, Any], pool: Mapping[str, Any], machine: Machine) -> dict[str, str]:
    """{knob path: why the kernel would not take it}.

    CPUs and nodes that are not there, and on v1 what goes beyond the pool the group is in.
    """
    out = {}
    for knob, side in machine.rows:
        value = resources.get(knob.path)
        if value is None:
            continue
        around = pool.get(knob.path) if side.nested else None
        if knob.kind is ID_LIST:
            most = around or (machine.host.cpus if knob.path == "cpu.cpus" else machine.host.mems)
            absent = expand_ids(value) - expand_ids(most)
            if absent:
                whose = "its pool" if around else "this host"
                out[knob.path] = f"{format_ids(absent)} is not in {most}, which is what {whose} has"
        elif around not in (None, MAX) and (value == MAX or value > around):
            above = f"{knob.kind.format(value)} is above {knob.kind.format(around)}"
            out[knob.path] = f"{above}, which is what its pool has"
    return out


def exceeds(texts: Texts, around: Texts, machine: Machine) -> bool:
    """Whether a group's limits go beyond those of the group above it in a way that v1 refuses."""
    for knob, side in machine.rows:
        if not side.nested or side.files[0] not in texts:
            continue
        inner, outer = ({file: by[file] for file in side.files} for by in (texts, around))
        if knob.kind is ID_LIST:
            if not expand_ids(inner[side.files[0]]) <= expand_ids(outer[side.files[0]]):
                return True
        elif bandwidth(outer) < bandwidth(inner) < float("inf"):
            return True
    return False


def unsupported(resources: Iterable[str], machine: Machine) -> dict[str, str]:
    """{knob path: why this machine cannot apply it} of the knobs that are set."""
    found = {}
    for knob in KNOBS:
        if knob.path in resources and (lack := machine.lack(knob)):
            found[knob.path] = lack
    return found
