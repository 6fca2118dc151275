"""Id ranges: the 65536 host ids that each server has to itself. Pure.

A host has a single space of ids. It is shared by the users of the host, their subordinate ids (subuid(5)) and
all instances of vsprov. Instances do not see each other's servers, so each of them claims blocks of ids
(`store.claims`) and takes the ranges of its servers from its own blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct, field

from vsprov.errors import Problem

RANGE = 65536
BLOCK = 16 * RANGE
LOWEST = RANGE  # below are the users and services of the host, and nobody
FIRST_ID = 524288  # of ranges outside /etc/subuid; above the ids that useradd(8) assigns to users
END = 2**32 - RANGE  # the last id, (uid_t) -1, means no user: setresuid(2)
SUBUID, SUBGID, SUBUID_USER = "/etc/subuid", "/etc/subgid", "vsprov"


class Entry(Struct, frozen=True):
    """`count` ids from `first` on that somebody else has: `whose` is "alice in /etc/subuid"."""

    first: int
    count: int
    whose: str


class Ranges(Struct, frozen=True):
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
