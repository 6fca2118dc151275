"""Admission: whether the host can honour all reservations, and the CPU weights that implement them.

A CPU reservation is implemented by cpu.weight: under contention a group gets weight / (sum of the weights of
its siblings and itself) of the CPUs. With n CPUs, R of them reserved by the siblings, and W the total weight
of those without a reservation, a reservation of r needs a weight of at least W * r / (n - R). W is rounded up
to a power of two, so that one more server does not change the weights of all others. Linux-VServer used the
same rule: the token rates of all contexts must not exceed the number of CPUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from vsprov.model.values import units
from vsprov.plan.observed import Machine

HIGHEST_WEIGHT = 10_000
DEFAULT_WEIGHT = 100


class Claim(Struct, frozen=True):
    """What one server or pool requests; `parent` is its pool, "" for none."""

    address: str
    parent: str
    weight: int
    reservation: int  # thousandths of a CPU
    protected: int  # bytes of memory.min + memory.low
    cpu_limit: int | units.Max = units.MAX
    memory_max: int | units.Max = units.MAX

    @staticmethod
    def of(address: str, parent: str, resources: Mapping[str, Any]) -> Claim:
        """The claim of the server or pool at `address`, from its resources."""
        return Claim(
            address,
            parent,
            resources.get("cpu.weight", DEFAULT_WEIGHT),
            resources.get("cpu.reservation", 0),
            resources.get("memory.min", 0) + resources.get("memory.low", 0),
            resources.get("cpu.limit", units.MAX),
            resources.get("memory.max", units.MAX),
        )


def host_refusals(claims: Iterable[Claim], machine: Machine) -> list[str]:
    """Why the host cannot honour all claims together; [] if it can."""
    out = []
    top = with_pools(claims)
    reserved = sum(claim.reservation for claim in top)
    if reserved > machine.cpus * 1000:
        out.append(
            f"CPU reservations add up to {units.format_cpu(reserved)}, "
            f"but the host has {machine.cpus} CPUs: {_largest(top)}"
        )
    protected = sum(claim.protected for claim in top)
    if protected > machine.memory:
        out.append(
            f"memory.min and memory.low add up to {units.format_bytes(protected)}, "
            f"but the host has {units.format_bytes(machine.memory)}"
        )
    return out


def pool_refusals(claims: Iterable[Claim]) -> Iterator[tuple[str, str, str]]:
    """(address, key, reason) of each pool whose limit is below the reservations of its servers."""
    claims = list(claims)
    inside = _by_pool(claims)
    for pool in claims:
        children = inside.get(pool.address, [])
        reserved = sum(child.reservation for child in children)
        if pool.cpu_limit != units.MAX and reserved > pool.cpu_limit:
            have = units.format_cpu(pool.cpu_limit)
            total = f"CPU reservations of its servers add up to {units.format_cpu(reserved)}"
            yield pool.address, "cpu.limit", f"{total}, but its limit is {have}: {_largest(children)}"
        protected = sum(child.protected for child in children)
        if pool.memory_max != units.MAX and protected > pool.memory_max:
            have = units.format_bytes(pool.memory_max)
            total = f"memory.min and memory.low of its servers add up to {units.format_bytes(protected)}"
            yield pool.address, "memory.max", f"{total}, but its memory.max is {have}"


def with_pools(claims: Iterable[Claim]) -> list[Claim]:
    """The top-level claims. A pool reserves what it declares or the sum of its servers, whichever is more."""
    claims = list(claims)
    inside = _by_pool(claims)
    return [
        replace(
            claim,
            reservation=max(claim.reservation, sum(child.reservation for child in children)),
            protected=max(claim.protected, sum(child.protected for child in children)),
        )
        if (children := inside.get(claim.address))
        else claim
        for claim in claims
        if not claim.parent
    ]


def _by_pool(claims: Iterable[Claim]) -> dict[str, list[Claim]]:
    """{address of a pool: claims of the servers in it}"""
    inside: dict[str, list[Claim]] = {}
    for claim in claims:
        if claim.parent:
            inside.setdefault(f"Quota/{claim.parent}", []).append(claim)
    return inside


def weights(claims: Iterable[Claim], machine: Machine) -> dict[str, int]:
    """{address: CPU weight to write}: the declared weight, or more if a reservation requires it.

    If a weight would exceed the maximum of the kernel (10000), the weights of all reservations are reduced
    proportionally, and the reservations are then only approximately kept.
    """
    claims = list(claims)
    top = with_pools(claims)
    out = {claim.address: claim.weight for claim in claims}
    out |= _share(top, machine.cpus * 1000)
    inside = _by_pool(claims)
    for pool in top:
        if children := inside.get(pool.address):
            # Servers in a pool compete for the reservation of the pool, or for the host if it has none.
            out.update(_share(children, pool.reservation or machine.cpus * 1000))
    return out


def _share(siblings: list[Claim], capacity: int) -> dict[str, int]:
    """Weights for groups that compete for `capacity` thousandths of a CPU.

    A group whose declared weight is enough for its reservation keeps that weight and then counts as one
    without a reservation. Groups with the lowest reservation per weight are checked first, because each one
    raises the weights that the others need. If all groups have reservations, the weights leave room for one
    more group with the default weight.
    """
    held = sorted((c for c in siblings if c.reservation), key=lambda claim: claim.reservation / claim.weight)
    free = sum(claim.weight for claim in siblings if not claim.reservation)
    base = 1 << (max(free, DEFAULT_WEIGHT) - 1).bit_length()
    rest = capacity - sum(claim.reservation for claim in held)

    def need(claim: Claim) -> int:
        # Each of the remaining weights may be rounded up by almost one.
        return -(-max(base, free + len(held)) * claim.reservation // max(rest, 1))

    while held and held[0].weight >= need(held[0]):
        enough = held.pop(0)
        free, base, rest = free + enough.weight, base + enough.weight, rest + enough.reservation
    needs = {claim: need(claim) for claim in held}
    largest = max(needs.values(), default=0)
    if largest > HIGHEST_WEIGHT:
        needs = {c: max(needs[c] * HIGHEST_WEIGHT // largest, c.weight) for c in held}
    return {claim.address: needs.get(claim, claim.weight) for claim in siblings}


def _largest(claims: list[Claim]) -> str:
    reserving = (claim for claim in claims if claim.reservation)
    ranked = sorted(reserving, key=lambda claim: -claim.reservation)[:5]
    return ", ".join(f"{claim.address} {units.format_cpu(claim.reservation)}" for claim in ranked)
