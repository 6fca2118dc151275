"""Reasons why networks cannot be as wanted, with the other party named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from vsprov.model.kinds.network import Network, Port
from vsprov.model.kinds.server import Server
from vsprov.model.values.addresses import address_of, subnet_of
from vsprov.model.values.ports import port_range
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.network import naming
from vsprov.plan.network.desired import addresses, members, names, shares
from vsprov.plan.network.desired.party import Party, other_server, uses_host
from vsprov.plan.network.desired.result import Desired
from vsprov.plan.network.state import HostLink, Listener, SeenNetworks

T = TypeVar("T")
NEEDED = {
    "bridge": ("bridge", "veth", "nft"),
    "routed": ("veth", "nft"),
    "macvlan": ("macvlan",),
    "ipvlan": ("ipvlan",),
}


def check(builder: PlanBuilder, desired: Desired) -> None:
    """Add the problems and notes of wanted networks, and of the interfaces and ports of wanted servers."""
    for name in builder.of("Network"):
        _network(builder, desired, name, desired.networks[name])
    _overlaps(builder, desired)
    for refusal in desired.assignment.refusals:
        place = refusal.place
        path = f"spec.interfaces[{place.interface}].addresses"
        builder.problem(f"Server/{place.server}", refusal.message, refusal.hint, path)
    for party in desired.parties.values():
        if party.listed:
            _server(builder, desired, party)
        elif party.running:
            _outsider(builder, desired, party)
    _pools(builder, desired)
    _ports(builder, desired)


def _outsider(builder: PlanBuilder, desired: Desired, party: Party) -> None:
    """Addresses that a running server outside the manifest keeps although their subnet goes."""
    for interface in party.spec.interfaces:
        seen = desired.seen.networks.get(interface.network)
        if interface.network not in builder.of("Network") or not seen or not seen.applied:
            continue
        before, now = seen.applied["spec"].get("subnets", ()), desired.networks[interface.network].subnets
        for text in party.recorded.get(interface.name, ()):
            address = address_of(text)
            if addresses.within(address, before) and not addresses.within(address, now):
                message = (
                    f"Server/{party.name}, which is not in the manifest, keeps {text} of a subnet that goes"
                )
                builder.note(f"Network/{interface.network}", message)


def _pools(builder: PlanBuilder, desired: Desired) -> None:
    """The rates that servers share."""
    for link in desired.wanted.pools.values():
        _mark(builder, desired, link)
        address = f"Quota/{link.alias.rpartition('/')[2]}"
        for feature in ("ifb", "htb"):
            if why := desired.seen.lacking.get(feature):
                message = f"sharing a rate requires {feature}: {why}"
                builder.problem(address, message, path="spec.network", lack=True)
        if max(link.shares) > shares.LARGEST_SHARE:
            message = f"more than {shares.LARGEST_SHARE} interfaces would share its rates"
            builder.problem(address, message, path="spec.network")


# -- networks


def _network(builder: PlanBuilder, desired: Desired, name: str, spec: Network) -> None:
    address, seen = f"Network/{name}", desired.seen
    for feature in NEEDED.get(spec.type, ()):
        if feature in seen.lacking:
            builder.problem(
                address, f"type {spec.type} requires {feature}: {seen.lacking[feature]}", lack=True
            )
    if spec.type == "bridge":
        _bridge(builder, desired, name, spec)
    _running_outsiders(builder, desired, name, spec)
    if spec.type != "bridge" and spec.parent and spec.parent not in seen.links:
        hint = f"links of the host: {_some(sorted(_foreign(builder, desired)))}"
        builder.problem(address, f"this host has no link {spec.parent}", hint, "spec.parent")
    for peer in _unknown_peers(desired, spec.firewall.ingress, spec.firewall.egress):
        builder.problem(address, f"no server or network {peer} exists", path="spec.firewall")
    if spec.type in members.FILTERED and spec.gateway:
        for found in seen.foreign:
            builder.note(address, found)


def _running_outsiders(builder: PlanBuilder, desired: Desired, name: str, spec: Network) -> None:
    """Refuse a change of type that servers outside the manifest would have to be restarted for."""
    found = desired.seen.networks.get(name)
    former = found.applied["spec"].get("type") if found and found.applied else None
    if former is None or former == spec.type or "host" not in (former, spec.type):
        return
    for party in desired.parties.values():
        if not party.listed and party.running and any(one.network == name for one in party.spec.interfaces):
            message = (
                f"Server/{party.name}, which is not in the manifest, runs on it and would have to restart"
            )
            builder.problem(f"Network/{name}", message, "stop the server first", "spec.type")


def _bridge(builder: PlanBuilder, desired: Desired, name: str, spec: Network) -> None:
    address, link = f"Network/{name}", desired.links[name]
    found = desired.seen.links.get(link)
    if not spec.bridge:
        _mark(builder, desired, desired.wanted.bridges[name])
        return
    if found is None:
        hint = f"create it first, or omit spec.bridge: vsprov creates one. Bridges here: {_bridges(desired)}"
        builder.problem(address, f"this host has no bridge {link}", hint, "spec.bridge")
    elif found.kind != "bridge":
        kind = found.kind or "physical link"
        builder.problem(address, f"link {link} is no bridge: it is a {kind}", path="spec.bridge")
    elif found.alias and naming.owner_of(found.alias)[0]:
        hint = "name the network instead of its bridge, or choose another bridge"
        builder.problem(address, f"bridge {link} belongs to {_owner(found.alias)}", hint, "spec.bridge")


def _mark(builder: PlanBuilder, desired: Desired, link: HostLink) -> None:
    """Refuse a link that has the name of a bridge or intermediate device of ours, but not its mark."""
    found = desired.seen.links.get(link.name)
    if found is None or found.alias == link.alias:
        return
    hint = f"remove it: ip link delete {link.name}"
    if found.kind == link.kind and not naming.owner_of(found.alias)[0]:
        restore = f"ip link set {link.name} alias '{link.alias}'"
        hint = f"if its alias was changed by hand, restore that: {restore}; else {hint}"
    what = "bridge" if link.kind == "bridge" else "queue"
    message = f"link {link.name} exists and is not its {what}: {_owner(found.alias)}"
    builder.problem(naming.address(link.alias), message, hint)


def _owner(alias: str) -> str:
    instance, of = naming.owner_of(alias)
    if not instance:
        return "vsprov did not create it"
    kind, _, name = of.rpartition("/")
    return f"{kind or 'server'} {name} of instance {instance}"


def _foreign(builder: PlanBuilder, desired: Desired) -> Iterator[str]:
    """The links of the host that vsprov did not create."""
    for link in desired.seen.links.values():
        if link.name != "lo" and not naming.owner_of(link.alias)[0]:
            yield link.name


def _bridges(desired: Desired) -> str:
    return _some([link.name for link in desired.seen.links.values() if link.kind == "bridge"])


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "none"


def _overlaps(builder: PlanBuilder, desired: Desired) -> None:
    """Subnets that two networks have, or that the host reaches by another link."""
    spans = []
    for name, spec in desired.networks.items():
        for text in spec.subnets:
            net = subnet_of(text)
            span = (int(net.network_address), int(net.broadcast_address))
            spans.append((str(net.version), *span, (name, text)))
    for one, other in _meeting(spans):
        (name, mine), (rest, theirs) = sorted(
            (one, other), key=lambda each: each[0] not in builder.of("Network")
        )
        same = _on_same_link(desired.networks[name], desired.networks[rest])
        if name in builder.of("Network") and name != rest and not same:
            message = f"subnet {mine} overlaps {theirs} of Network/{rest}"
            builder.problem(f"Network/{name}", message, "choose another subnet", "spec.subnets")
    for name in builder.of("Network"):
        _host_routes(builder, desired, name, desired.networks[name])


def _meeting(spans: Iterable[tuple[str, int, int, T]]) -> Iterator[tuple[T, T]]:
    """The pairs of values whose spans (group, first, last) have a number in common, in the same group."""
    open_ones: list[tuple[str, int, int, T]] = []
    for span in sorted(spans, key=lambda each: each[:3]):
        open_ones = [each for each in open_ones if each[0] == span[0] and each[2] >= span[1]]
        for each in open_ones:
            yield each[3], span[3]
        open_ones.append(span)


def _on_same_link(one: Network, other: Network) -> bool:
    """Whether two networks are the same one outside of the host, such as a LAN."""
    links = {one.parent or one.bridge, other.parent or other.bridge}
    return len(links) == 1 and None not in links


def _host_routes(builder: PlanBuilder, desired: Desired, name: str, spec: Network) -> None:
    if spec.type not in members.FILTERED or spec.bridge or spec.parent:
        return  # a subnet outside of the host, to which it has a route itself
    for text in spec.subnets:
        for to, name_of_link in _reached(desired.seen):
            link = desired.seen.links.get(name_of_link)
            instance = naming.owner_of(link.alias)[0] if link else ""
            own = instance == builder.wanted.instance or name_of_link == desired.links.get(name)
            if own or not addresses.overlap(text, to):
                continue
            whose = f", a link of {_owner(link.alias)}" if link and instance else ""
            message = f"subnet {text} overlaps {to}, which the host reaches by {name_of_link}{whose}"
            builder.problem(f"Network/{name}", message, "choose another subnet", "spec.subnets")


def _reached(seen: SeenNetworks) -> dict[tuple[str, str], None]:
    """(subnet, link) of what the host reaches, or would if the bridges of other instances were up."""
    found = [(route.to, route.link) for route in seen.routes if route.to != "default"]
    bridges = [
        link for link in seen.links.values() if link.kind == "bridge" and naming.owner_of(link.alias)[0]
    ]
    found += [(str(subnet_of(text)), link.name) for link in bridges for text in link.addresses]
    return dict.fromkeys(found)


# -- servers


def _server(builder: PlanBuilder, desired: Desired, party: Party) -> None:
    address, spec = f"Server/{party.name}", party.spec
    for one in spec.interfaces:
        path = f"spec.interfaces[{one.name}].network"
        network = desired.networks.get(one.network)
        if network is None:
            message = f"network {one.network} not found in the manifest or on this host"
            builder.problem(address, message, path=path)
        elif network.type == "host":
            builder.note(address, f"uses the network stack of the host (network {one.network}): no isolation")
        elif network.type not in members.FILTERED and (without := _unfiltered(spec, desired)):
            builder.note(address, f"{without} do not apply to interface {one.name} ({network.type})")
    if not spec.dns.nameservers and (why := names.without_servers(desired.seen.resolver)):
        if any(one.addresses for one in spec.interfaces) and not uses_host(spec, desired.networks):
            builder.note(address, f"no name server: {why}")
    for peer in _unknown_peers(desired, spec.firewall.ingress, spec.firewall.egress):
        builder.problem(address, f"no server or network {peer} exists", path="spec.firewall")
    for direction, feature in (("egress", "ifb"), ("ingress", "tbf")):
        if f"network.{direction}" in spec.resources and feature in desired.seen.lacking:
            why = desired.seen.lacking[feature]
            builder.note(address, f"network.{direction} is not enforced: this kernel lacks {feature}: {why}")


def _unfiltered(spec: Server, desired: Desired) -> str:
    """The keys of a server that require an end of its interface on the host."""
    firewall = spec.firewall.ingress is not None or spec.firewall.egress is not None
    rates = any(f"network.{direction}" in spec.resources for direction in ("egress", "ingress"))
    pool = spec.quota if spec.quota in desired.rates else ""
    keys = [("ports", bool(spec.ports)), ("firewall", firewall), ("resources.network", rates)]
    keys.append((f"the rates of pool {pool}", bool(pool)))
    return " and ".join(name for name, is_set in keys if is_set)


def _unknown_peers(desired: Desired, *directions: Iterable[object] | None) -> list[str]:
    peers = [peer for rules in directions for rule in rules or () for peer in rule.peers]  # type: ignore[attr-defined]
    return members.resolve(peers, desired.networks, desired.assignment)[1]


# -- ports


def _ports(builder: PlanBuilder, desired: Desired) -> None:
    """Ports that another server publishes, or that a process of the host has."""
    running = [party for party in desired.parties.values() if party.running and party.spec.ports]
    spans = [
        (port.protocol, *port_range(port.host_port), (party, port))
        for party in running
        for port in party.spec.ports
    ]
    for one, other in _meeting(spans):
        (party, port), (owner, its) = sorted((one, other), key=lambda each: not each[0].listed)
        if party.listed and party is not owner and _same_address(port.host_ip or "", its.host_ip or ""):
            message = f"port {_port_text(port)} of the host is published by Server/{owner.name}"
            builder.problem(f"Server/{party.name}", message, path="spec.ports")
    for party in running:
        for port in party.spec.ports if party.listed else ():
            for twin in dict.fromkeys(_others(desired.seen, port)):
                _published_twice(builder, party, port, twin)
            if listener := next((each for each in desired.seen.listeners if _listens(port, each)), None):
                _taken(builder, party, port, listener)


def _others(seen: SeenNetworks, port: Port) -> Iterator[str]:
    """The servers of other instances that publish the same port of the host."""
    first, last = port_range(port.host_port)
    for instance, theirs in seen.others.items():
        for member in theirs:
            for its in member.published:
                overlap = its.host_ports[0] <= last and first <= its.host_ports[1]
                if (
                    overlap
                    and its.protocol == port.protocol
                    and _same_address(port.host_ip or "", its.host_ip)
                ):
                    yield other_server(seen, instance, member)


def _published_twice(builder: PlanBuilder, party: Party, port: Port, owner: str) -> None:
    address = f"Server/{party.name}"
    message = f"port {_port_text(port)} of the host is published by {owner}"
    if _was_published(builder, party.name, port):
        builder.note(address, f"{message} as well; change one of them")
    else:
        builder.problem(address, message, "choose another hostPort or hostIP", "spec.ports")


def _taken(builder: PlanBuilder, party: Party, port: Port, listener: Listener) -> None:
    address, by = f"Server/{party.name}", f" by {listener.process}" if listener.process else ""
    at = f"[{listener.address}]" if ":" in listener.address else listener.address
    message = f"port {_port_text(port)} of the host is in use{by} ({at}:{listener.port})"
    if _was_published(builder, party.name, port):
        builder.note(address, f"{message}; clients of the port reach the server instead")
    else:
        builder.problem(address, message, "choose another hostPort or hostIP", "spec.ports")


def _was_published(builder: PlanBuilder, server: str, port: Port) -> bool:
    """Whether the server runs with this port already: the other process came later."""
    seen = builder.observed.servers.get(server)
    if seen is None or seen.init is None or not seen.applied:
        return False
    return any(
        (each.get("protocol", "tcp"), each["hostPort"], each.get("hostIP"))
        == (port.protocol, port.host_port, port.host_ip)
        for each in seen.applied["spec"].get("ports", ())
    )


def _port_text(port: Port) -> str:
    where = f"{port.host_ip}:" if port.host_ip else ""
    return f"{where}{port.host_port}/{port.protocol}"


def _listens(port: Port, listener: Listener) -> bool:
    first, last = port_range(port.host_port)
    if port.protocol != listener.protocol or not first <= listener.port <= last:
        return False
    # A socket of :: usually accepts IPv4 as well: ipv6(7), IPV6_V6ONLY.
    return listener.address == "::" or _same_address(port.host_ip or "", listener.address)


def _same_address(one: str, other: str) -> bool:
    """Whether two addresses of the host have one in common; "" is all, 0.0.0.0 and :: all of a family."""
    if "" in (one, other) or one == other:
        return True
    wild = {"0.0.0.0", "::"}
    return addresses.family(one) == addresses.family(other) and not wild.isdisjoint((one, other))
