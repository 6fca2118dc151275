"""Rates that the servers of a pool share: the intermediate devices, and who has which number on them.

A pool has one intermediate device for each direction that it limits, as long as a server on a network is
running in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from vsprov.model.kinds.quota import Quota
from vsprov.model.values.units import MAX
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.limits import resources
from vsprov.plan.network import naming
from vsprov.plan.network.rates import round_rate
from vsprov.plan.network.state import HostLink, Interface, SeenNetworks

DIRECTIONS = ("egress", "ingress")
LARGEST_SHARE = 0xFFE  # numbers of u32 filters have 12 bits


def rates(builder: PlanBuilder) -> dict[str, dict[str, int]]:
    """{pool: {direction: bits per second}} of the pools that exist after the plan and limit a direction."""
    limits = {
        name: want.spec.resources for name, want in builder.pools.items() if isinstance(want.spec, Quota)
    }
    for name, pool in builder.observed.pools.items():
        if name not in limits and not builder.removes("Quota", name, pool.owner):
            limits[name] = resources.of_pool(pool)
    out = {}
    for name, given in limits.items():
        found = {way: given.get(f"network.{way}", MAX) for way in DIRECTIONS}
        if limited := {way: round_rate(int(rate)) for way, rate in found.items() if rate != MAX}:
            out[name] = limited
    return out


class Shares(Struct):
    """The pools whose rates interfaces share, and the numbers that these have there.

    A link keeps the number that it has; others get the lowest one that nothing has.
    """

    instance: str
    rates: Mapping[str, Mapping[str, int]]
    seen: SeenNetworks
    taken: dict[str, set[int]] = field(default_factory=dict)
    kept: dict[tuple[str, str], int] = field(default_factory=dict)  # {(pool, link): number}

    def __post_init__(self) -> None:
        for pool in self.rates:
            links = [self.seen.links[name] for name, _ in self._links(pool) if name in self.seen.links]
            self.taken[pool] = {number for link in links for number in link.shares}
            for link in reversed(links):
                self.kept |= {(pool, of): number for number, of in link.shares.items() if of}

    def _links(self, pool: str) -> list[tuple[str, str]]:
        """The links of a pool, with their directions."""
        return [
            (naming.pool_link_name(self.instance, pool, way), way)
            for way in DIRECTIONS
            if way in self.rates[pool]
        ]

    def join(self, pool: str, one: Interface) -> Interface:
        """The interface of a server in `pool`, "" for none, with its share."""
        if pool not in self.rates or not one.link:
            return one
        number = self.kept.get((pool, one.link), 0)
        if not number:
            number = next(each for each in range(1, 1 << 16) if each not in self.taken[pool])
            self.taken[pool].add(number)
        by_way = {way: name for name, way in self._links(pool)}
        return replace(
            one,
            egress_pool=by_way.get("egress", ""),
            ingress_pool=by_way.get("ingress", ""),
            share=number,
        )

    def links(self, interfaces: Iterable[Interface]) -> dict[str, HostLink]:
        """The intermediate devices that these interfaces need, with their shares."""
        shares: dict[str, dict[int, str]] = {}
        for one in interfaces:
            for name in {one.egress_pool, one.ingress_pool} - {""}:
                shares.setdefault(name, {})[one.share] = one.link
        return {
            name: HostLink(
                name,
                "ifb",
                naming.pool_alias(self.instance, pool),
                ingress=self.rates[pool][way],
                shares=shares[name],
            )
            for pool in self.rates
            for name, way in self._links(pool)
            if name in shares
        }
