"""Whether the host can honour what its servers are promised, and the CPU weights that keep the promise.

A CPU reservation is kept by weight: under contention a group gets weight / (sum of its siblings' weights) of
the CPUs. With n CPUs, R of them reserved among the siblings and W the summed weight of those that reserve
nothing, a reservation of r needs at least W * r / (n - R). W is rounded up to a power of two, so that one
more server does not change everyone's weight. Linux-VServer admitted by the same sum: the token rates of all
contexts may not exceed the CPUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vsprov.model.values import units
from vsprov.plan.observed import Machine

HIGHEST_WEIGHT = 10_000
DEFAULT_WEIGHT = 100


@dataclass(frozen=True, slots=True)
class Claim:
    """What one server or pool asks for.

    `parent` is its pool, "" at the top; `weight` and `reservation` are as declared.
    """

    address: str
    parent: str
    weight: int
    reservation: int  # thousandths of a CPU
    protected: int  # bytes of memory.min + memory.low
    cpu_limit: int | units.Max = units.MAX
    memory_max: int | units.Max = units.MAX

    @staticmethod
    def of(address: str, parent: str, resources: Mapping[str, Any]) -> Claim:
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
    """Why the claims together are too much for the host; [] when they are not."""
    out = []
    top = with_pools(claims)
    reserved = sum(claim.reservation for claim in top)
    if reserved > machine.cpus * 1000:
        out.append(
            f"CPU reservations add up to {units.format_cpu(reserved)}, "
            f"the host has {machine.cpus} CPUs: {_largest(top)}"
        )
    protected = sum(claim.protected for claim in top)
    if protected > machine.memory:
        out.append(
            f"memory.min and memory.low add up to {units.format_bytes(protected)}, "
            f"the host has {units.format_bytes(machine.memory)}"
        )
    return out


def pool_refusals(claims: Iterable[Claim]) -> Iterator[tuple[str, str, str]]:
    """(address, key, why) of each pool whose own limit at that key is below what its servers reserve."""
    claims = list(claims)
    inside = _by_pool(claims)
    for pool in claims:
        children = inside.get(pool.address, [])
        reserved = sum(child.reservation for child in children)
        if pool.cpu_limit != units.MAX and reserved > pool.cpu_limit:
            have = units.format_cpu(pool.cpu_limit)
            sum_of = f"CPU reservations add up to {units.format_cpu(reserved)}"
            told = f"its servers' {sum_of}, its limit is {have}: {_largest(children)}"
            yield pool.address, "cpu.limit", told
        protected = sum(child.protected for child in children)
        if pool.memory_max != units.MAX and protected > pool.memory_max:
            have = units.format_bytes(pool.memory_max)
            sum_of = f"memory.min and memory.low add up to {units.format_bytes(protected)}"
            yield pool.address, "memory.max", f"its servers' {sum_of}, its memory.max is {have}"


def with_pools(claims: Iterable[Claim]) -> list[Claim]:
    """The claims at the top, where each pool reserves the more of what it declares and its servers do."""
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
    """{a pool's address: the claims in it}"""
    inside: dict[str, list[Claim]] = {}
    for claim in claims:
        if claim.parent:
            inside.setdefault(f"Quota/{claim.parent}", []).append(claim)
    return inside


def weights(claims: Iterable[Claim], machine: Machine) -> dict[str, int]:
    """{address: the CPU weight to write}; the declared weight where nothing is reserved, and never below it.

    Where a weight would have to exceed the kernel's largest (10000), all that keep reservations are lowered
    alike; the reservations are then held only as far as that goes.
    """
    claims = list(claims)
    top = with_pools(claims)
    out = {claim.address: claim.weight for claim in claims}
    out |= _share(top, machine.cpus * 1000)
    inside = _by_pool(claims)
    for pool in top:
        if children := inside.get(pool.address):
            # Inside a pool the siblings compete for what the pool is sure of, or for the host if the pool
            # reserves nothing.
            out.update(_share(children, pool.reservation or machine.cpus * 1000))
    return out


def _share(siblings: list[Claim], capacity: int) -> dict[str, int]:
    """Weights for groups that compete for `capacity` thousandths of a CPU.

    A group whose declared weight is enough for its reservation keeps it, and then competes like those that
    reserve nothing; those that reserve least for their weight first, for each makes it harder for the rest.
    Where everyone reserves, the weights leave room for one more with the default weight.
    """
    held = sorted((c for c in siblings if c.reservation), key=lambda claim: claim.reservation / claim.weight)
    free = sum(claim.weight for claim in siblings if not claim.reservation)
    base = 1 << (max(free, DEFAULT_WEIGHT) - 1).bit_length()
    rest = capacity - sum(claim.reservation for claim in held)

    def need(claim: Claim) -> int:
        # Each of the weights that follow may be rounded up by almost one.
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
