"""What the firewall has to know of networks and servers, with all names resolved to addresses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from vsprov.model.kinds.network import Network, Port, Rule
from vsprov.model.values.addresses import is_name
from vsprov.model.values.ports import port_range
from vsprov.plan.network.desired import addresses
from vsprov.plan.network.desired.addresses import Assignment
from vsprov.plan.network.desired.party import Party
from vsprov.plan.network.state import FirewallNetwork, Interface, Member, Opening, Published, Tables

FILTERED = ("bridge", "routed")  # the types of networks whose packets the host filters


def members(
    parties: Mapping[str, Party],
    networks: Mapping[str, Network],
    interfaces: Mapping[str, Mapping[str, Interface]],
    assignment: Assignment,
) -> tuple[Member, ...]:
    """The interfaces that the firewall filters, of the servers that run; `interfaces` are theirs."""
    out = []
    for name, inner in interfaces.items():
        party = parties[name]
        specs = {one.name: one for one in party.spec.interfaces}
        own: list[Member] = []
        for each in inner.values():
            spec = specs[each.altname or each.name]
            network = networks[spec.network]
            if network.type in FILTERED:
                rules, shared = party.spec.firewall, network.firewall
                own.append(
                    Member(
                        name,
                        each.link,
                        spec.network,
                        each.mac,
                        tuple(sorted(map(addresses.without_prefix, each.addresses))),
                        openings(rules.ingress, shared.ingress, networks, assignment),
                        openings(rules.egress, shared.egress, networks, assignment),
                    )
                )
        out += _with_ports(own, party.spec.ports)
    return tuple(out)


def _with_ports(own: list[Member], ports: Iterable[Port]) -> list[Member]:
    """The interfaces of one server with its ports: in each family those of the first one with an address."""
    published: list[list[Published]] = [[] for _ in own]
    for port in ports:
        to: dict[int, list[str]] = {}
        for family in (4, 6):
            if port.host_ip and addresses.family(port.host_ip) != family:
                continue
            for index, member in enumerate(own):
                if found := next((one for one in member.addresses if addresses.family(one) == family), ""):
                    to.setdefault(index, []).append(found)
                    break
        for index, targets in to.items():
            published[index].append(_published(port, tuple(targets)))
    return [replace(member, published=tuple(each)) for member, each in zip(own, published, strict=True)]


def _published(port: Port, targets: tuple[str, ...]) -> Published:
    outer = port_range(port.host_port)
    inner = port_range(port.port) if port.port else outer
    return Published(port.protocol, port.host_ip or "", outer, inner, targets)


def tables(
    instance: str,
    networks: Mapping[str, Network],
    links: Mapping[str, str],
    found: tuple[Member, ...],
) -> Tables:
    """The instance's nft tables; none if there is no network that the host filters."""
    from vsprov.plan.network import ruleset

    filtered = [
        FirewallNetwork(
            name,
            links.get(name, ""),
            spec.subnets,
            tuple(addresses.gateway(text) for text in spec.subnets if spec.gateway),
            spec.nat,
            spec.isolated,
            spec.host_access,
            spec.type == "routed",
            bool(spec.bridge),
        )
        for name, spec in networks.items()
        if spec.type in FILTERED
    ]
    return ruleset.tables(instance, filtered, found) if filtered else {}


def openings(
    own: tuple[Rule, ...] | None,
    shared: tuple[Rule, ...] | None,
    networks: Mapping[str, Network],
    assignment: Assignment,
) -> tuple[Opening, ...] | None:
    """The openings of an interface in one direction: those of its server and those of its network."""
    if own is None and shared is None:
        return None
    out: dict[Opening, None] = {}
    for rule in (*(own or ()), *(shared or ())):
        peers, _ = resolve(rule.peers, networks, assignment)
        if peers or not rule.peers:  # a rule whose peers have no address opens nothing
            out[Opening(rule.protocol, tuple(map(port_range, rule.ports)), tuple(peers))] = None
    return tuple(out)


def resolve(
    peers: Iterable[str], networks: Mapping[str, Network], assignment: Assignment
) -> tuple[list[str], list[str]]:
    """(subnets of the peers, names of peers that do not exist)."""
    out: set[str] = set()
    unknown = []
    for peer in peers:
        if peer in assignment.addresses:
            given = assignment.addresses[peer].values()
            out |= {addresses.single(text) for texts in given for text in texts}
        elif peer in networks:
            out |= set(networks[peer].subnets)
        elif is_name(peer):
            unknown.append(peer)
        else:
            out.add(peer if "/" in peer else addresses.single(peer))
    return sorted(out), unknown
