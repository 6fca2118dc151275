"""The links of networks: the bridge of a network, the interfaces of a server and the host's ends of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field

from vsprov.model.kinds.network import Interface as InterfaceSpec
from vsprov.model.kinds.network import Network
from vsprov.model.kinds.server import Server
from vsprov.model.values.addresses import address_of, subnet_of
from vsprov.model.values.units import MAX
from vsprov.plan.network import naming
from vsprov.plan.network.desired import addresses
from vsprov.plan.network.desired.addresses import Assignment
from vsprov.plan.network.desired.party import Party
from vsprov.plan.network.rates import round_rate
from vsprov.plan.network.state import HostLink, Interface, LinkKind, Route, SeenNetworks

DEFAULT_MTU = 1500
# The next hops of a server on a routed network: addresses of the host's end of its interface.
ROUTED_GATEWAYS = {4: "169.254.0.1", 6: "fe80::1"}
MODES = {"macvlan": "bridge", "ipvlan": "l2"}


def bridge_of(instance: str, name: str, spec: Network) -> str:
    """The bridge of a network; "" if it has none."""
    if spec.type != "bridge":
        return ""
    return spec.bridge or naming.bridge_name(instance, name)


def bridge(instance: str, name: str, spec: Network) -> HostLink:
    """The bridge of a network, as vsprov creates it."""
    readable = naming.altname(instance, name)
    gateways = [
        f"{addresses.gateway(text)}/{subnet_of(text).prefixlen}" for text in spec.subnets if spec.gateway
    ]
    return HostLink(
        naming.bridge_name(instance, name),
        "bridge",
        naming.network_alias(instance, name),
        frozenset([readable] if readable else []),
        naming.mac((), instance, f"network/{name}"),
        spec.mtu or DEFAULT_MTU,
        addresses=frozenset(gateways),
    )


class InterfaceMaker(Struct):
    """Makes the interfaces of servers; no two of them get the same MAC address."""

    instance: str
    networks: Mapping[str, Network]
    links: Mapping[str, str]
    assignment: Assignment
    seen: SeenNetworks
    macs: set[str] = field(default_factory=set)

    def interfaces(self, party: Party) -> Iterable[Interface]:
        """The interfaces of a server, without those whose network does not exist or is the host's own."""
        for one in party.spec.interfaces:
            network = self.networks.get(one.network)
            if network and network.type != "host":
                yield self.interface(party, one, network)

    def interface(self, party: Party, one: InterfaceSpec, network: Network) -> Interface:
        """An interface of a server and the host's end of it."""
        name, alt = naming.inner_name(one.name)
        given = self.assignment.addresses.get(party.name, {}).get(one.name, ())
        kind: LinkKind = network.type if network.type in ("macvlan", "ipvlan") else "veth"
        parent = self.links.get(one.network) or (network.parent or "" if kind != "veth" else "")
        veth, routed = kind == "veth", network.type == "routed"
        routes = frozenset(_routes(one, network, given))
        back = {route.family for route in routes if route.to == "default"}
        own = [addresses.single(text) for text in given if routed and addresses.family(text) in back]
        mac = one.mac or naming.mac(self.macs, self.instance, party.formerly or party.name, one.name)
        self.macs.add(mac)
        return Interface(
            name,
            kind,
            mac if kind != "ipvlan" else "",  # an ipvlan has the MAC address of its parent
            one.mtu or self._mtu(network, parent),
            frozenset(given),
            routes,
            altname=alt,
            link=naming.link_name(self.instance, party.name, one.name) if veth else "",
            alias=naming.server_alias(self.instance, party.name),
            link_altname=naming.altname(self.instance, party.name, one.name) if veth else "",
            parent=parent,
            mode=_mode(network) if not veth else "",
            port_isolated=network.isolated and network.type == "bridge",
            # With br_netfilter, what a server sends to its own port of the host is not routed, but bridged.
            hairpin=network.type == "bridge" and bool(party.spec.ports),
            host_routes=frozenset(own),
            proxy=network.parent or "" if own else "",
            egress=_rate(party.spec, "egress") if veth else None,
            ingress=_rate(party.spec, "ingress") if veth else None,
        )

    def _mtu(self, network: Network, parent: str) -> int:
        if network.mtu:
            return network.mtu
        link = self.seen.links.get(parent)
        borrowed = network.type in ("macvlan", "ipvlan") or network.bridge
        return link.mtu if link and borrowed else DEFAULT_MTU


def _mode(network: Network) -> str:
    if network.mode:
        return network.mode
    return "private" if network.isolated and network.type == "macvlan" else MODES[network.type]


def _rate(spec: Server, direction: str) -> int | None:
    rate = spec.resources.get(f"network.{direction}", MAX)
    return None if rate == MAX else round_rate(int(rate))


def _routes(one: InterfaceSpec, network: Network, given: Sequence[str]) -> Iterable[Route]:
    """The routes of an interface: to its gateway in each family in which it has an address, and its own."""
    extra = [Route(route.to, route.via, addresses.family(route.via)) for route in one.routes]
    yield from extra
    own = {(route.to, route.family) for route in extra}
    for family in (4, 6):
        via = _gateway(network, given, family) if one.gateway and network.gateway else ""
        if via and ("default", family) not in own:
            yield Route("default", via, 4 if family == 4 else 6)


def _gateway(network: Network, given: Sequence[str], family: int) -> str:
    """The next hop of the default route for an interface with these addresses; "" if there is none."""
    for text in given:
        if addresses.family(text) != family:
            continue
        if network.type == "routed":
            return ROUTED_GATEWAYS[family]
        net = addresses.within(address_of(text), network.subnets)
        if net and subnet_of(net).num_addresses > 2:
            return addresses.gateway(net)
    return ""
