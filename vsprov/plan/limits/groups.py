"""Limits as cgroup files: the writes that a group needs, in an order that the kernel accepts.

Writes are planned per file, not per knob, because two knobs can share a file: memory.memsw.limit_in_bytes
of cgroup v1 is memory.max + swapMax.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from vsprov.model.limits.encodings import Side, Texts, writes
from vsprov.model.limits.knobs import BY_PATH, KNOBS, Knob
from vsprov.model.values.units import MAX, expand_ids, format_ids
from vsprov.model.values.value_kinds import CPU_OR_MAX, ID_LIST, LIMIT_BYTES, LIMIT_COUNT
from vsprov.plan.observed import Machine, ObservedGroup
from vsprov.plan.plan import PathChange
from vsprov.plan.steps import WriteFile


class KnobDifference(Struct, frozen=True):
    """A knob whose files differ from the wanted ones; a value is None for the kernel's default."""

    knob: Knob
    before: Any
    after: Any


class GroupDelta(Struct, frozen=True):
    """The difference between the wanted and the observed state of one group.

    `needed` are the controllers it needs, by v2 name; `make` the hierarchies in which its directory is
    missing; `wanted` and `observed` the contents of its files, by file name.
    """

    needed: frozenset[str]
    make: tuple[str, ...]
    differences: tuple[KnobDifference, ...]
    wanted: Texts
    observed: Texts


# The controllers of every server, so that its usage can be read even if no limit is set.
ALWAYS = ("cpu", "memory", "pids")


def compare(
    resources: Mapping[str, Any],
    seen: ObservedGroup | None,
    machine: Machine,
    *,
    ignore: frozenset[str] = frozenset(),
    also: frozenset[str] = frozenset(),
) -> GroupDelta:
    """Compare a group with the resources it should have; `seen` is None if it does not exist.

    `also` are controllers that it needs besides those of its own knobs, such as those of its pool. A knob in
    `ignore` is only written when the group is created.
    """
    rows = [(knob, side) for knob, side in machine.rows if not (seen and knob.path in ignore)]
    wanted = {
        knob.path: side.encode(resources.get(knob.path), resources, machine.host) for knob, side in rows
    }
    needs = needed(resources, machine) | also
    texts: dict[str, str] = dict(seen.texts) if seen else {}

    def default(side: Side) -> Texts:
        return side.encode(None, {}, machine.host)

    for knob, side in rows:
        if side.files[0] not in texts and knob.controller in needs:
            new = side.new_group
            texts.update(default(side) if new is None else dict.fromkeys(side.files, new))
        if side.blank and texts.get(side.files[0]) == "" and resources.get(knob.path) is None:
            texts.update(default(side))
    differences = tuple(
        KnobDifference(knob, side.decode(texts, machine.host), resources.get(knob.path))
        for knob, side in rows
        if side.files[0] in texts and any(texts[file] != wanted[knob.path][file] for file in side.files)
    )
    existing = seen.controllers if seen else frozenset()
    names = {hierarchy(name, machine) for name in needs} | {""}
    flat = {file: text for by_file in wanted.values() for file, text in by_file.items()}
    return GroupDelta(needs, tuple(sorted(names - existing)), differences, flat, texts)


def changed_paths(delta: GroupDelta, prefix: str = "spec.resources") -> Iterator[PathChange]:
    """The knobs whose values differ, without those whose file only needs its first write."""
    for difference in delta.differences:
        kind, values = difference.knob.kind, (difference.before, difference.after)
        before, after = ("default" if value is None else kind.format(value) for value in values)
        if before != after:
            raw = [None if value is None else kind.dump(value) for value in values]
            yield PathChange(f"{prefix}.{difference.knob.path}", raw[0], raw[1], "live", (before, after))


def needed(resources: Mapping[str, Any], machine: Machine) -> frozenset[str]:
    """The controllers, by v2 name, that a group with these resources needs on this machine.

    Apart from `ALWAYS`, these are the controllers of knobs whose files differ from their defaults.
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
    """The hierarchy of a controller (v2 name): its v1 name, or "" for cgroup2."""
    if machine.versions[controller] == 2:
        return ""
    return "blkio" if controller == "io" else controller


def widened(delta: GroupDelta, machine: Machine) -> Texts:
    """The file contents of a group that permit everything its old or its new limits permit.

    Files that are not limits keep their old contents. A pool gets these limits before its servers change and
    its final ones afterwards: cgroup v1 refuses a child limit above its parent's, and servers that start may
    need the raised limits of the pool.
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
    """The number of CPUs that quota and period allow, from the two files of v1 or the one of v2."""
    quota, period = " ".join(texts.values()).split()
    return as_number(quota) / int(period)


def _all_ids(before: str, after: str, side: Side) -> str:
    if before == side.new_group or not (before and after):
        return after if before == side.new_group else ""  # in v2 an empty list means no limit
    return format_ids(expand_ids(before) | expand_ids(after))


def file_writes(
    group: str, delta: GroupDelta, machine: Machine, *, parent: bool = False
) -> tuple[WriteFile, ...]:
    """The writes of a delta, in an order that the kernel accepts and that never exceeds old and new limits.

    `parent`: the group has child groups, and cgroup v1 refuses, at every single write, limits below theirs.
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
                # The CPUs of a group that has processes cannot be reset to an empty list (ENOSPC).
                blank = side.encode(None, {}, machine.host)[file]
                forward, back = writes(side, before, after), writes(side, after, before or blank)
                out[file] = WriteFile(side.controller, group, file, forward, back, _why(difference))
    return order(out, bound, delta.observed, parent)


def order(
    steps: Mapping[str, WriteFile], bound: Mapping[str, str], texts: Texts, parent: bool = False
) -> tuple[WriteFile, ...]:
    """Order writes so that no file ever has a higher value than the file that bounds it.

    `bound` is {file: the file that bounds it}, `texts` are the current contents. A file that is raised above
    the current value of its bound comes after the bound; any other comes first, so that the bound can be
    lowered. Quota and period of cgroup v1 form a ratio: the write that lowers it comes first, but last in a
    `parent`.
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
    """The number at the start of a limit file; infinity for "max" and -1."""
    word = text.split(" ", 1)[0]
    return float("inf") if word in (MAX, "-1") else float(word)


def _raises(step: WriteFile, texts: Texts) -> bool:
    return as_number(step.data[-1]) > as_number(texts[step.file])


def _why(difference: KnobDifference) -> str:
    after = difference.after
    return f"{difference.knob.path} = {'default' if after is None else difference.knob.kind.format(after)}"


def refusals(resources: Mapping[str, Any], pool: Mapping[str, Any], machine: Machine) -> dict[str, str]:
    """{knob path: why the kernel would refuse it}.

    That is CPUs and memory nodes that do not exist, and on cgroup v1 limits above those of the pool.
    """
    out = {}
    for knob, side in machine.rows:
        value = resources.get(knob.path)
        if value is None:
            continue
        outer = pool.get(knob.path) if side.nested else None
        if knob.kind is ID_LIST:
            available = outer or (machine.host.cpus if knob.path == "cpu.cpus" else machine.host.mems)
            absent = expand_ids(value) - expand_ids(available)
            if absent:
                owner = "the pool" if outer else "this host"
                out[knob.path] = f"{format_ids(absent)} not available: {owner} has {available}"
        elif outer not in (None, MAX) and (value == MAX or value > outer):
            limit = knob.kind.format(outer)
            out[knob.path] = f"{knob.kind.format(value)} exceeds the limit of the pool, {limit}"
    return out


def exceeds(texts: Texts, parent: Texts, machine: Machine) -> bool:
    """Whether the limits of a group exceed those of its parent in a way that cgroup v1 refuses."""
    for knob, side in machine.rows:
        if not side.nested or side.files[0] not in texts:
            continue
        inner, outer = ({file: by[file] for file in side.files} for by in (texts, parent))
        if knob.kind is ID_LIST:
            if not expand_ids(inner[side.files[0]]) <= expand_ids(outer[side.files[0]]):
                return True
        elif bandwidth(outer) < bandwidth(inner) < float("inf"):
            return True
    return False


def unsupported(resources: Iterable[str], machine: Machine) -> dict[str, str]:
    """{knob path: why this machine cannot apply it}, for the knobs that are set."""
    found = {}
    for knob in KNOBS:
        if knob.path in resources and (lack := machine.lack(knob)):
            found[knob.path] = lack
    return found
