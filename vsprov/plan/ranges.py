"""Id ranges: the 65536 host ids that each server has to itself. Pure.

A host has a single space of ids. It is shared by the users of the host, their subordinate ids (subuid(5)) and
all instances of vsprov. Instances do not see each other's servers, so each of them claims blocks of ids
(`store.claims`) and takes the ranges of its servers from its own blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from vsprov.errors import Problem

if TYPE_CHECKING:
    from vsprov.plan.observed import ObservedServer

RANGE = 65536
BLOCK = 16 * RANGE
LOWEST = RANGE  # below are the users and services of the host, and nobody
FIRST_ID = 524288  # of ranges outside /etc/subuid; above the ids that useradd(8) assigns to users
END = 2**32 - RANGE  # the last id, (uid_t) -1, means no user: setresuid(2)
SUBUID, SUBGID, SUBUID_USER = "/etc/subuid", "/etc/subgid", "vsprov"
COPY = "destroy the one whose directory is a copy, and apply it again"
RESTORE = "restore it with its owners (tar --numeric-owner, rsync --numeric-ids), or destroy the server"


@dataclass(frozen=True, slots=True)
class Entry:
    """`count` ids from `first` on that somebody else has: `whose` is "alice in /etc/subuid"."""

    first: int
    count: int
    whose: str


@dataclass(frozen=True, slots=True)
class Ranges:
    """The ids of this host that servers of one instance may have.

    `own` are the entries of user vsprov in /etc/subuid, (first id, count); without any, ids from `FIRST_ID`
    up are used, and the instance begins to look for free ones at `start`. `others` are the entries of other
    users. `held` are the blocks that the instance has claimed, `claimed` those of other instances: {number of
    the block: "NAME STATE-ROOT"}.
    """

    own: tuple[tuple[int, int], ...] = ()
    others: tuple[Entry, ...] = ()
    held: frozenset[int] = frozenset()
    claimed: Mapping[int, str] = field(default_factory=dict)
    start: int = FIRST_ID

    def spans(self) -> tuple[tuple[int, int], ...]:
        """(first id, end) of the ids that ranges are taken from, in this order."""
        if self.own:
            return tuple((max(first, LOWEST), min(first + count, END)) for first, count in self.own)
        return ((self.start, END), (FIRST_ID, self.start))


def blocks(base: int) -> range:
    """The numbers of the blocks that a range touches: one, or two if it was not taken from `FIRST_ID` on."""
    return range(base // BLOCK, (base + RANGE - 1) // BLOCK + 1)


def show(base: int) -> str:
    """A range as text: "524288-589823"."""
    return f"{base}-{base + RANGE - 1}"


def free(ranges: Ranges, taken: Iterable[int]) -> Iterator[int]:
    """The first ids of the ranges that are free, in the order in which they are assigned: first those in
    blocks that the instance has.

    None overlaps the ranges that begin at `taken`, a block of another instance, or other users' entries.
    """
    busy = [*((entry.first, entry.count) for entry in ranges.others), *((base, RANGE) for base in taken)]
    counted = [(start, max(0, end - start) // RANGE) for start, end in ranges.spans()]
    spans = [(start, places, _used(start, places, busy)) for start, places in counted]
    for start, places, used in spans:
        for block in sorted(ranges.held):
            first = max(0, -((start - block * BLOCK) // RANGE))
            last = min(places, ((block + 1) * BLOCK - start) // RANGE)
            yield from (start + number * RANGE for number in range(first, last) if number not in used)
    for start, places, used in spans:
        for number in range(places):
            base = start + number * RANGE
            within = blocks(base)
            had = len(within) == 1 and within[0] in ranges.held
            if number not in used and not had and ranges.claimed.keys().isdisjoint(within):
                yield base


def _used(start: int, places: int, busy: Iterable[tuple[int, int]]) -> set[int]:
    """The numbers of the ranges from `start` on that overlap any of the (first id, count) in `busy`."""
    used: set[int] = set()
    for base, size in busy:
        if size > 0 and base + size > start:
            first = max(base - start, 0) // RANGE
            used.update(range(first, min((base + size - 1 - start) // RANGE + 1, places)))
    return used


def exhausted(ranges: Ranges) -> Problem:
    """The problem of a server for which no range is left."""
    where = f"of user {SUBUID_USER} in {SUBUID}" if ranges.own else f"from {FIRST_ID} to {END - 1}"
    return Problem(
        f"no range of {RANGE} ids is left among those {where}",
        hint=f"give user {SUBUID_USER} more ids in {SUBUID}, or remove servers",
    )


def is_allowed(base: int, ranges: Ranges) -> bool:
    """Whether a server may have this range: one of those that `free` could ever have assigned."""
    return any(
        start <= base and base + RANGE <= end and (base - start) % RANGE == 0
        for start, end in (*ranges.spans(), (FIRST_ID, END))
    )


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
