"""The table of the bridge family: what servers may send, and what they may send to each other.

The ports of bridges are known here only, and servers of one network reach each other without passing the
inet family (unless br_netfilter is loaded). There is no connection tracking: sets with a timeout remember
what was allowed, so that answers pass.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

from vsprov.plan.network.ruleset import elements
from vsprov.plan.network.ruleset.elements import TYPES
from vsprov.plan.network.ruleset.text import (
    ACCEPT,
    DROP,
    ETHER_SOURCE,
    ETHER_TYPE,
    IIFNAME,
    L4PROTO,
    OIFNAME,
    PORT,
    RETURN,
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
    source,
    update,
    verdicts,
)
from vsprov.plan.network.state import Member

# By offset, since nft 1.0.6 lists the type of IGMP together with conditions that it adds itself.
IGMP_TYPE: Expression = {"payload": {"base": "th", "offset": 0, "len": 8}}
TARGET: Expression = {"payload": {"base": "th", "offset": 64, "len": 128}}  # RFC 4861, 4.3 and 4.4
FOREIGN_MAC = match(concat(IIFNAME, ETHER_SOURCE), "@macs", "!=")
ICMP, IGMP, UDP, ICMPV6 = 1, 2, 17, 58  # numbers: nft knows names only where /etc/protocols exists
REASONS = (
    "spoofed_mac",
    "spoofed_arp",
    "spoofed_ip",
    "spoofed_ip6",
    "spoofed_neighbor",
    "router_advert",
    "icmp_redirect",
    "dhcp_server",
    "ethertype",
    "link_local_frame",
    "multicast_query",
    "refused",
    "flow_flood",
    "flows_full",
)
# What is remembered of allowed packets, so that answers pass, per family. One server must not use up what
# others need: each may add so many flows per second, after so many at once.
FLOWS, FLOW_SECONDS, UNANSWERED_SECONDS = 524288, 180, 30
CALLS, CALL_SECONDS = 262144, 3 * 3600
NEW_PER_SECOND, NEW_AT_ONCE, SENDERS = 500, 10000, 65536
# What answers a request, reports an error or belongs to neighbor discovery.
ICMP_ANSWERS = {
    4: ("echo-reply", "destination-unreachable", "time-exceeded", "parameter-problem"),
    6: (
        "destination-unreachable",
        "packet-too-big",
        "time-exceeded",
        "parameter-problem",
        "echo-reply",
        "mld-listener-query",
        "mld-listener-report",
        "mld-listener-done",
        "nd-router-solicit",
        "nd-router-advert",
        "nd-neighbor-solicit",
        "nd-neighbor-advert",
        "mld2-listener-report",
    ),
}


def table(name: str, members: Sequence[Member]) -> tuple[Object, ...]:
    made = Table("bridge", name)
    made.counters(*REASONS)
    _sets(made, members)
    _sent(made)
    _between(made, members)
    return made.objects()


def _sets(made: Table, members: Sequence[Member]) -> None:
    made.map("ports", "ifname", "verdict", [[each.link, jump("sent")] for each in members])
    own = [
        concat(each.link, hex(int(ipaddress.IPv6Address(address))))
        for each in members
        for address in elements.senders(6, each.mac, each.addresses)
    ]
    made.set("neighbors", ["ifname", "integer"], own)
    made.set("macs", ["ifname", "ether_addr"], [concat(each.link, each.mac) for each in members])
    for family, kind in TYPES.items():
        found = [
            concat(each.link, each.mac, address)
            for each in members
            for address in elements.senders(family, each.mac, each.addresses)
        ]
        made.set(f"senders{family}", ["ifname", "ether_addr", kind], found)


def _refuse(reason: str) -> tuple[Expression, Expression]:
    return count(reason), DROP


def _sent(made: Table) -> None:
    """What a server sends must be from its own MAC address and addresses."""
    made.chain("sent")
    made.base("prerouting", "prerouting", -300)
    made.rule("prerouting", verdicts(IIFNAME, "@ports"))
    # Frames to 01:80:c2:00:00:0X do not pass prerouting, but a bridge learns their senders (br_input.c).
    made.base("input", "input", -200)
    reserved = match({"&": [payload("ether", "daddr"), "ff:ff:ff:ff:ff:f0"]}, "01:80:c2:00:00:00")
    made.rule("input", reserved, match(IIFNAME, "@links"), *_refuse("link_local_frame"))
    kinds = [["ip", goto("sent_ip")], ["arp", goto("sent_arp")], ["ip6", goto("sent_ip6")]]
    made.rule("sent", verdicts(ETHER_TYPE, {"set": kinds}))
    made.rule("sent", FOREIGN_MAC, *_refuse("spoofed_mac"))
    made.rule("sent", *_refuse("ethertype"))
    _sent_arp(made)
    _sent_ip(made)
    _sent_ip6(made)


def _sent_arp(made: Table) -> None:
    made.chain("sent_arp")
    sender = payload("arp", "saddr ether")
    made.rule("sent_arp", FOREIGN_MAC, *_refuse("spoofed_mac"))
    made.rule("sent_arp", match(concat(IIFNAME, sender, payload("arp", "saddr ip")), "@senders4"), RETURN)
    probe = match(payload("arp", "saddr ip"), "0.0.0.0")  # RFC 5227: is my address taken?
    target = match(concat(IIFNAME, sender, payload("arp", "daddr ip")), "@senders4")
    made.rule("sent_arp", probe, target, RETURN)
    made.rule("sent_arp", *_refuse("spoofed_arp"))


def _sent_ip(made: Table) -> None:
    _sent_protocols(made, "sent_ip", {ICMP: "sent_icmp", IGMP: "sent_igmp", UDP: "sent_udp"})
    _sent_own(made, "sent_ip", 4, "spoofed_ip")
    made.rule("sent_udp", match(payload("udp", "dport"), 68), *_refuse("dhcp_server"))
    misleading = among(payload("icmp", "type"), "redirect", "router-advertisement")
    made.rule("sent_icmp", misleading, *_refuse("icmp_redirect"))
    # A server that acts as the querier decides what multicast others get, neighbor discovery included.
    made.rule("sent_igmp", match(IGMP_TYPE, 0x11), *_refuse("multicast_query"))


def _sent_ip6(made: Table) -> None:
    _sent_protocols(made, "sent_ip6", {UDP: "sent_udp6", ICMPV6: "sent_icmp6"})
    _sent_own(made, "sent_ip6", 6, "spoofed_ip6")
    made.rule("sent_udp6", match(payload("udp", "dport"), 546), *_refuse("dhcp_server"))
    kind, unspecified = payload("icmpv6", "type"), match(source(6), "::")
    made.rule("sent_icmp6", match(kind, "nd-router-advert"), *_refuse("router_advert"))
    made.rule("sent_icmp6", match(kind, "nd-redirect"), *_refuse("icmp_redirect"))
    made.rule("sent_icmp6", match(kind, "mld-listener-query"), *_refuse("multicast_query"))
    # nft 1.0.6 has no name for the target of neighbor discovery.
    stolen = match(concat(IIFNAME, TARGET), "@neighbors", "!=")
    made.rule("sent_icmp6", match(kind, "nd-neighbor-advert"), stolen, *_refuse("spoofed_neighbor"))
    # Duplicate address detection of its own addresses, and the first multicast reports (RFC 3810, 5.2.13).
    made.rule("sent_icmp6", unspecified, FOREIGN_MAC, *_refuse("spoofed_mac"))
    probe = match(kind, "nd-neighbor-solicit")
    made.rule("sent_icmp6", unspecified, probe, stolen, *_refuse("spoofed_neighbor"))
    made.rule("sent_icmp6", unspecified, among(kind, "nd-neighbor-solicit", "mld2-listener-report"), ACCEPT)


def _sent_protocols(made: Table, chain: str, chains: Mapping[int, str]) -> None:
    """Make the chain, and those to which packets of some protocols go first; all else is not delayed."""
    for each in (chain, *chains.values()):
        made.chain(each)
    made.rule(chain, verdicts(L4PROTO, {"set": [[number, jump(name)] for number, name in chains.items()]}))


def _sent_own(made: Table, chain: str, family: int, reason: str) -> None:
    """Packets must be from an address of the server, and its MAC address."""
    made.rule(chain, match(concat(IIFNAME, ETHER_SOURCE, source(family)), f"@senders{family}"), RETURN)
    made.rule(chain, FOREIGN_MAC, *_refuse("spoofed_mac"))
    made.rule(chain, *_refuse(reason))


def _between(made: Table, members: Sequence[Member]) -> None:
    """Firewalls of servers, for what servers of a network send to each other."""
    inward = [each for each in members if each.ingress is not None]
    outward = [each for each in members if each.egress is not None]
    made.set("links", "ifname", [each.link for each in members])
    made.set("guarded", "ifname", sorted({each.link for each in (*inward, *outward)}))
    made.set("guarded_in", "ifname", [each.link for each in inward])
    made.set("guarded_out", "ifname", [each.link for each in outward])
    made.base("forward", "forward", 0)
    made.rule("forward", match(IIFNAME, "@guarded"), goto("guard"))
    made.rule("forward", match(OIFNAME, "@guarded"), goto("guard"))
    made.chain("guard")
    made.rule("guard", match(ETHER_TYPE, "arp"), ACCEPT)
    made.rule("guard", verdicts(ETHER_TYPE, {"set": [["ip", goto("guard4")], ["ip6", goto("guard6")]]}))
    made.rule("guard", *_refuse("refused"))
    for family, kind in TYPES.items():
        _guard(made, family)
        peer = ["ifname", kind, "inet_proto", "inet_service"]
        for name, of in (("in", inward), ("out", outward)):
            found = [
                concat(each.link, *box)
                for each in of
                for box in elements.openings(family, (each.ingress if name == "in" else each.egress) or ())
            ]
            made.set(f"open_{name}{family}", peer, found, flags=["interval"])
        own = {one for each in members for one in elements.of_family(family, each.addresses)}
        made.set(f"own{family}", kind, sorted(own))
        flow, call = [kind, "inet_service", kind, "inet_service"], [kind, "inet_service", kind]
        made.set(f"flows{family}", flow, flags=["timeout"], timeout=FLOW_SECONDS, size=FLOWS)
        made.set(f"calls{family}", call, flags=["timeout"], timeout=CALL_SECONDS, size=CALLS)
        made.set(f"pace{family}", "ifname", flags=["timeout"], timeout=FLOW_SECONDS, size=SENDERS)


def _guard(made: Table, family: int) -> None:
    chain, inward, outward = f"guard{family}", f"guard_in{family}", f"guard_out{family}"
    for each in (chain, inward, outward):
        made.chain(each)
    kind = payload("icmp" if family == 4 else "icmpv6", "type")
    made.rule(chain, among(kind, *ICMP_ANSWERS[family]), ACCEPT)
    made.rule(chain, *_later_fragment(family), ACCEPT)  # worth nothing without the first, which has ports
    made.rule(
        chain, match(IIFNAME, "@links", "!="), match(source(family), f"@own{family}"), *_refuse("spoofed_ip")
    )
    _answers(made, family)
    made.rule(chain, match(IIFNAME, "@guarded_out"), jump(outward))
    made.rule(chain, match(OIFNAME, "@guarded_in"), jump(inward))
    _remember(made, family)
    made.rule(chain, ACCEPT)
    to = concat(IIFNAME, destination(family), L4PROTO, PORT)
    made.rule(outward, match(to, f"@open_out{family}"), RETURN)
    made.rule(outward, *_refuse("refused"))
    of = concat(OIFNAME, source(family), L4PROTO, PORT)
    made.rule(inward, match(of, f"@open_in{family}"), RETURN)
    made.rule(inward, *_refuse("refused"))


def _answers(made: Table, family: int) -> None:
    """Accept what answers packets that were allowed.

    For TCP the port of the client does not matter: a segment without SYN opens no connection (RFC 9293).
    """
    chain = f"guard{family}"
    call = concat(source(family), payload("tcp", "sport"), destination(family))
    no_opening = match(payload("tcp", "flags"), ["rst", "ack"], "in")
    made.rule(chain, match(call, f"@calls{family}"), no_opening, ACCEPT)
    flow = concat(source(family), payload("udp", "sport"), destination(family), payload("udp", "dport"))
    made.rule(chain, match(flow, f"@flows{family}"), update(f"@flows{family}", flow), ACCEPT)


def _remember(made: Table, family: int) -> None:
    """Remember what was allowed. A server that calls very many ports is slowed down by itself, not others."""
    chain = f"guard{family}"
    call = concat(destination(family), payload("tcp", "dport"), source(family))
    ports = payload("udp", "dport"), payload("udp", "sport")
    flow = concat(destination(family), ports[0], source(family), ports[1])
    made.rule(chain, match(call, f"@calls{family}"), update(f"@calls{family}", call), ACCEPT)
    made.rule(chain, match(flow, f"@flows{family}"), ACCEPT)
    pace = {"limit": {"rate": NEW_PER_SECOND, "burst": NEW_AT_ONCE, "per": "second", "inv": True}}
    ports_known = among(L4PROTO, *elements.PROTOCOLS.values())
    made.rule(chain, ports_known, update(f"@pace{family}", IIFNAME, pace), *_refuse("flow_flood"))
    made.rule(chain, update(f"@calls{family}", call), ACCEPT)
    unanswered = {"elem": {"val": flow, "timeout": UNANSWERED_SECONDS}}
    made.rule(chain, update(f"@flows{family}", unanswered), ACCEPT)
    made.rule(chain, ports_known, *_refuse("flows_full"))


def _later_fragment(family: int) -> tuple[Expression, ...]:
    if family == 4:
        return (match({"&": [payload("ip", "frag-off"), 0x1FFF]}, 0, "!="),)
    return (match({"exthdr": {"name": "frag", "field": "frag-off"}}, 0, "!="),)
