"""What contradicts the id ranges of servers: lost records, copied directories, ids of others. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

from vsprov.errors import Problem
from vsprov.plan.observed import ObservedServer
from vsprov.plan.ranges import RANGE, SUBUID_USER, Ranges, blocks, is_allowed, show

COPY = "destroy the one whose directory is a copy, and apply it again"
RESTORE = "restore it with its owners (tar --numeric-owner, rsync --numeric-ids), or destroy the server"


def is_kept(seen: ObservedServer, ranges: Ranges) -> bool:
    """Whether the range of a server is in its record, and no other instance can get it.

    A record that is missing or damaged is written again in any case, with the range.
    """
    base = seen.id_base
    if base is None or seen.parts is None:
        return seen.parts is None
    recorded = seen.disk is None or seen.parts.recorded == base
    return recorded and ranges.held.issuperset(blocks(base))


def needs_repair(seen: ObservedServer, ranges: Ranges) -> bool:
    """Whether anything is missing in the directory of a server, or its range is not kept."""
    return seen.parts is not None and (bool(seen.parts.missing()) or not is_kept(seen, ranges))


def problems(servers: Mapping[str, ObservedServer], ranges: Ranges) -> dict[str, Problem]:
    """The problems of id ranges by name of the server; servers without a directory have no range."""
    shared = dict(_shared(servers))
    out = {}
    for name, seen in servers.items():
        if seen.parts is not None and (problem := _problem(seen, ranges) or shared.get(name)):
            out[name] = problem
    return out


def _problem(seen: ObservedServer, ranges: Ranges) -> Problem | None:
    base, parts = seen.id_base, seen.parts
    assert parts is not None
    if base is None:
        owners = parts.work or parts.upper
        if owners is None:
            return None  # there is nothing that belongs to any ids: it gets a new range
        part = "work/" if parts.work else "upper/"
        message = f"its id range is unknown: {part} belongs to {owners[0]}:{owners[1]}, the record has none"
        return Problem(message, hint=RESTORE)
    if not is_allowed(base, ranges):
        where = "its record" if parts.recorded else "the owner of work/"
        return Problem(f"ids {show(base)}, from {where}, are not ids that servers may have", hint=RESTORE)
    if parts.work is not None and parts.work != (base, base):
        return Problem(_differs("work/", parts.work, base), hint=RESTORE)
    if parts.upper is not None and not all(base <= owner < base + RANGE for owner in parts.upper):
        return Problem(_differs("upper/", parts.upper, base), hint=RESTORE)
    if holder := next((ranges.claimed[block] for block in blocks(base) if block in ranges.claimed), None):
        name, _, root = holder.partition(" ")
        return Problem(
            f"ids {show(base)} are claimed by instance {name} (state root {root})",
            hint="export what the server has written, destroy it and apply it again: it gets another range",
        )
    for entry in ranges.others:
        if entry.count and entry.first < base + RANGE and base < entry.first + entry.count:
            taken = f"{entry.first}-{entry.first + entry.count - 1}"
            return Problem(
                f"ids {show(base)} overlap ids {taken} of {entry.whose}",
                hint=f"give that user other ids, which do not overlap those of {SUBUID_USER}",
            )
    return None


def _differs(part: str, owners: tuple[int, int], base: int) -> str:
    return f"{part} belongs to {owners[0]}:{owners[1]}, but the server has ids {show(base)}"


def _shared(servers: Mapping[str, ObservedServer]) -> Iterator[tuple[str, Problem]]:
    """The servers whose ranges overlap: a directory was copied."""
    based = sorted((seen.id_base, name) for name, seen in servers.items() if seen.id_base)
    for (lower, one), (upper, other) in pairwise(based):
        if upper < lower + RANGE:
            for name, base, than in ((one, lower, other), (other, upper, one)):
                message = f"ids {show(base)} are also those of Server/{than}"
                yield name, Problem(message, hint=COPY)
