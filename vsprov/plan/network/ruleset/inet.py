"""The table of the inet family: routing between networks and the world, published ports, NAT, the host.

Packets from or to links of ours are recognized by one look-up of the name of the link; all others pass at
once. With br_netfilter, frames between servers of one bridge come here too, with the bridge as both links.
The same rules are right for them: what the bridge family allows is allowed here.
"""

from __future__ import annotations

from collections.abc import Sequence

from vsprov.plan.network.ruleset import elements
from vsprov.plan.network.ruleset.elements import TYPES
from vsprov.plan.network.ruleset.text import (
    ACCEPT,
    ANSWER,
    DROP,
    ETHER_SOURCE,
    IIFNAME,
    L4PROTO,
    MASQUERADE,
    OIFNAME,
    PORT,
    RETURN,
    TRANSLATED,
    Expression,
    Object,
    Table,
    among,
    concat,
    count,
    destination,
    goto,
    jump,
    match,
    payload,
    prefix,
    source,
    verdicts,
)
from vsprov.plan.network.state import FirewallNetwork, Member

REASONS = (
    "spoofed",
    "loopback",
    "router_advert",
    "icmp_redirect",
    "between_networks",
    "from_outside",
    "refused",
    "link_local",
    "host",
)
NEIGHBOR_DISCOVERY = ("nd-router-solicit", "nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert")
LOOPBACK = prefix("127.0.0.0", 8)


class _Links:
    """The links of networks, by how their packets are recognized.

    `inside`: bridges of ours and interfaces of routed networks; all that comes from them is from servers. On
    a bridge that is not ours (`borrowed`) there may be others, also the host's own link to the world.
    """

    def __init__(self, networks: Sequence[FirewallNetwork], members: Sequence[Member]) -> None:
        self.networks = {each.name: each for each in networks}
        self.members = [each for each in members if each.network in self.networks]
        self.routed = [each for each in self.members if self.of(each).routed]
        self.bridges = [each for each in networks if not each.routed and not each.borrowed]
        self.borrowed = [each for each in networks if not each.routed and each.borrowed]

    def of(self, member: Member) -> FirewallNetwork:
        return self.networks[member.network]

    def link(self, member: Member) -> str:
        """The link from which a member's packets come in the inet family."""
        network = self.of(member)
        return member.link if network.routed else network.link

    def where(self, want: str) -> list[str]:
        """The links inside of the networks that have this property."""
        out = {each.link for each in self.bridges if getattr(each, want)}
        return sorted(out | {each.link for each in self.routed if getattr(self.of(each), want)})


def table(name: str, networks: Sequence[FirewallNetwork], members: Sequence[Member]) -> tuple[Object, ...]:
    made, links = Table("inet", name), _Links(networks, members)
    made.counters(*REASONS)
    _arrive(made, links)
    _forward(made, links)
    _openings(made, links.members)
    _host(made, links)
    _publish(made, links)
    _masquerade(made, links)
    return made.objects()


def _refuse(reason: str) -> tuple[Expression, Expression]:
    return count(reason), DROP


def _arrive(made: Table, links: _Links) -> None:
    """What comes from servers, before connection tracking."""
    bridges = sorted({each.link for each in (*links.bridges, *links.borrowed)})
    arrivals = [[each, jump("from_bridge")] for each in bridges]
    arrivals += [[each.link, jump("from_routed")] for each in links.routed]
    made.map("arrivals", "ifname", "verdict", arrivals)
    made.base("arrive", "prerouting", -300)
    made.rule("arrive", verdicts(IIFNAME, "@arrivals"))
    made.chain("from_bridge")
    made.chain("from_routed")
    # With route_localnet, which ports published on 127.0.0.1 need, the kernel takes these (CVE-2020-8558).
    for chain in ("from_bridge", "from_routed"):
        made.rule(chain, match(destination(4), LOOPBACK), *_refuse("loopback"))
        made.rule(chain, match(source(4), LOOPBACK), *_refuse("loopback"))
    kind = payload("icmpv6", "type")
    made.rule("from_routed", match(kind, "nd-router-advert"), *_refuse("router_advert"))
    made.rule("from_routed", match(kind, "nd-redirect"), *_refuse("icmp_redirect"))
    made.rule("from_routed", match(payload("icmp", "type"), "redirect"), *_refuse("icmp_redirect"))
    for family, address in TYPES.items():
        sender = concat(IIFNAME, ETHER_SOURCE, source(family))
        made.rule("from_routed", match(sender, f"@senders{family}"), RETURN)
        found = [
            concat(each.link, each.mac, one)
            for each in links.routed
            for one in elements.senders(family, each.mac, each.addresses)
        ]
        made.set(f"senders{family}", ["ifname", "ether_addr", address], found)
    first = among(kind, "nd-neighbor-solicit", "mld2-listener-report")
    made.rule("from_routed", match(source(6), "::"), first, RETURN)
    made.rule("from_routed", *_refuse("spoofed"))


def _forward(made: Table, links: _Links) -> None:
    inside = sorted({each.link for each in links.bridges} | {each.link for each in links.routed})
    made.set("inside", "ifname", inside)
    made.set("borrowed", "ifname", sorted({each.link for each in links.borrowed}))
    shared = [each for each in links.bridges if not each.isolated]
    made.set("same", ["ifname", "ifname"], [concat(each.link, each.link) for each in shared])
    made.set("reachable", "ifname", sorted(set(inside) - set(links.where("nat"))))
    made.base("forward", "forward", 0)
    made.rule("forward", match(IIFNAME, "@inside"), goto("routed"))
    made.rule("forward", match(OIFNAME, "@inside"), goto("routed"))
    made.rule("forward", match(IIFNAME, "@borrowed"), goto("guard"))
    made.rule("forward", match(OIFNAME, "@borrowed"), goto("guard"))
    for chain in ("routed", "guard", "between", "inward"):
        made.chain(chain)
    made.rule("routed", ANSWER, ACCEPT)
    made.rule("routed", jump("guard"))
    made.rule("routed", match(IIFNAME, "@inside"), match(OIFNAME, "@inside"), goto("between"))
    made.rule("routed", match(OIFNAME, "@inside"), goto("inward"))
    # Among these addresses are those at which clouds give out credentials (169.254.169.254).
    made.rule("routed", match(destination(4), prefix("169.254.0.0", 16)), *_refuse("link_local"))
    made.rule("routed", ACCEPT)
    made.rule("guard", ANSWER, ACCEPT)
    # With br_netfilter. Hosts ignore neighbor discovery that was routed (RFC 4861, 7.1).
    made.rule("guard", among(payload("icmpv6", "type"), *NEIGHBOR_DISCOVERY), ACCEPT)
    made.rule("between", TRANSLATED, ACCEPT)
    made.rule("between", match(concat(IIFNAME, OIFNAME), "@same"), ACCEPT)
    for family, kind in TYPES.items():
        made.set(f"own{family}", kind, elements.subnets(family, _own(family, links)), flags=["interval"])
        # Openings for servers are by address. Nobody else has these; rp_filter is off on many hosts.
        made.rule("inward", match(source(family), f"@own{family}"), *_refuse("spoofed"))
    made.rule("inward", TRANSLATED, ACCEPT)
    made.rule("inward", match(OIFNAME, "@reachable"), ACCEPT)
    made.rule("inward", *_refuse("from_outside"))
    for family, kind in TYPES.items():
        near = [
            concat(each.link, subnet)
            for each in links.routed
            if not links.of(each).isolated
            for subnet in elements.subnets(family, _subnets(family, links, links.of(each)))
        ]
        made.set(f"near{family}", ["ifname", kind], near, flags=["interval"])
        made.rule("between", match(concat(IIFNAME, destination(family)), f"@near{family}"), ACCEPT)
        crossing = concat(destination(family), source(family), L4PROTO, PORT)
        made.rule("between", match(crossing, f"@invited{family}"), ACCEPT)
    made.rule("between", *_refuse("between_networks"))


def _subnets(family: int, links: _Links, network: FirewallNetwork) -> list[str]:
    """The subnets of a network, and the addresses of its servers that are in none of them."""
    own = [each for member in links.members if member.network == network.name for each in member.addresses]
    subnets = () if network.borrowed else network.subnets  # others than servers are in that subnet too
    return elements.of_family(family, [*subnets, *own])


def _own(family: int, links: _Links) -> list[str]:
    """The subnets of bridges of ours, and the addresses of servers wherever others share their subnet."""
    found = [one for each in links.routed for one in elements.of_family(family, each.addresses)]
    return found + [text for each in links.bridges for text in _subnets(family, links, each)]


def _openings(made: Table, members: Sequence[Member]) -> None:
    """Firewalls of servers, by address.

    `invited` are the openings that name their peers: those may be of other networks.
    """
    for family, kind in TYPES.items():
        box = [kind, kind, "inet_proto", "inet_service"]
        own = [(each, one) for each in members for one in elements.of_family(family, each.addresses)]
        inward = [(each.ingress, one) for each, one in own if each.ingress is not None]
        outward = [(each.egress, one) for each, one in own if each.egress is not None]
        invited = [(tuple(each for each in of if each.peers), one) for of, one in inward]
        for name, found in (("open_in", inward), ("open_out", outward), ("invited", invited)):
            boxes = [concat(one, *each) for of, one in found for each in elements.openings(family, of)]
            made.set(f"{name}{family}", box, boxes, flags=["interval"])
        for name, found, first, second in (
            ("guarded_out", outward, source(family), destination(family)),
            ("guarded_in", inward, destination(family), source(family)),
        ):
            direction = name.removeprefix("guarded_")
            chain = f"guard_{direction}{family}"
            made.set(f"{name}{family}", kind, [one for _, one in found])
            made.chain(chain)
            made.rule("guard", match(first, f"@{name}{family}"), jump(chain))
            opening = concat(first, second, L4PROTO, PORT)
            made.rule(chain, match(opening, f"@open_{direction}{family}"), RETURN)
            made.rule(chain, *_refuse("refused"))


def _host(made: Table, links: _Links) -> None:
    """What servers may reach of the host itself: all of its addresses are meant."""
    made.set("host_access", "ifname", links.where("host_access"))
    guests = [
        concat(links.of(each).link, each.mac)
        for each in links.members
        if links.of(each).borrowed and not links.of(each).host_access
    ]
    made.set("guests", ["ifname", "ether_addr"], guests)
    made.base("input", "input", 0)
    made.rule("input", match(IIFNAME, "@inside"), goto("to_host"))
    made.rule("input", match(concat(IIFNAME, ETHER_SOURCE), "@guests"), goto("to_host"))
    made.chain("to_host")
    made.rule("to_host", ANSWER, ACCEPT)
    made.rule("to_host", among(L4PROTO, *elements.ICMP.values()), ACCEPT)
    made.rule("to_host", match(IIFNAME, "@host_access"), ACCEPT)
    made.rule("to_host", *_refuse("host"))


def _publish(made: Table, links: _Links) -> None:
    """Published ports, for all that is sent to an address of the host, by others and by itself."""
    made.chain("publish")
    # Answers could not come back: the kernel routes to ::1 only what arrives on lo (rt6_need_strict). Without
    # translation a connection is refused at once, and clients of "localhost" go on with 127.0.0.1.
    made.rule("publish", match(destination(6), "::1"), RETURN)
    local = match({"fib": {"result": "type", "flags": ["daddr"]}}, "local")
    for name, hook in (("nat_arrive", "prerouting"), ("nat_output", "output")):
        made.base(name, hook, -100, "nat")
        made.rule(name, local, goto("publish"))
    for family, kind in TYPES.items():
        found = [elements.published(family, port) for each in links.members for port in each.published]
        key = [kind, "inet_proto", "inet_service"]
        moved = [one for with_ports, _ in found for one in with_ports]
        kept = [one for _, same in found for one in same]
        made.map(f"ports{family}", key, f"{kind} . inet_service", moved, flags=["interval"])
        made.map(f"ranges{family}", key, kind, kept, flags=["interval"])
        for name in ("ports", "ranges"):
            target = {"key": concat(destination(family), L4PROTO, PORT), "data": f"@{name}{family}"}
            address = {"family": "ip" if family == 4 else "ip6", "addr": {"map": target}}
            made.rule("publish", among(L4PROTO, *elements.PROTOCOLS.values()), {"dnat": address})


def _masquerade(made: Table, links: _Links) -> None:
    """The host's address as source: towards the world for networks with NAT; on their own links only for what
    came to a published port from a sender whom the server could not answer through the host.
    """
    made.base("nat_leave", "postrouting", 100, "nat")
    made.rule("nat_leave", match(OIFNAME, "@inside"), goto("nat_inside"))
    made.rule("nat_leave", match(OIFNAME, "@borrowed"), goto("nat_inside"))
    made.chain("nat_inside")
    made.rule("nat_inside", TRANSLATED, match(source(4), LOOPBACK), MASQUERADE)
    for family, kind in TYPES.items():
        with_nat = [each for each in links.networks.values() if each.nat]
        hidden = [text for each in with_nat for text in _subnets(family, links, each)]
        made.set(f"hidden{family}", kind, elements.subnets(family, hidden), flags=["interval"])
        made.rule("nat_leave", match(source(family), f"@hidden{family}"), MASQUERADE)
        near = [
            concat(each.link, subnet)
            for each in (*links.bridges, *links.borrowed)
            for subnet in elements.subnets(family, _subnets(family, links, each))
        ]
        near += [
            concat(each.link, one)
            for each in links.routed
            for one in elements.of_family(family, each.addresses)
        ]
        made.set(f"hairpin{family}", ["ifname", kind], near, flags=["interval"])
        back = match(concat(OIFNAME, source(family)), f"@hairpin{family}")
        made.rule("nat_inside", TRANSLATED, back, MASQUERADE)
