"""What the networks of an instance should be, computed from the wanted objects and the records of what stays.

All verbs use it alike: the servers of a manifest are as they are wanted, all others of the instance as they
were last applied and as they are running.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vsprov.model import objects
from vsprov.model.kinds.network import Interface as InterfaceSpec
from vsprov.model.kinds.network import Network
from vsprov.model.kinds.server import Server
from vsprov.model.values.addresses import AUTO
from vsprov.model.values.units import MAX
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.compare import applied
from vsprov.plan.network import addresses, members, names, naming, pools, sysctls
from vsprov.plan.network.addresses import Assignment, Place
from vsprov.plan.network.compare import ServerNetwork
from vsprov.plan.network.party import Party
from vsprov.plan.network.rates import round_rate
from vsprov.plan.network.state import (
    HostLink,
    Interface,
    LinkKind,
    Member,
    Route,
    SeenNetworks,
    WantedNetworks,
)
from vsprov.plan.observed import ObservedServer

DEFAULT_MTU = 1500
# The next hops of a server on a routed network: addresses of the host's end of its interface.
ROUTED_GATEWAYS = {4: "169.254.0.1", 6: "fe80::1"}
MODES = {"macvlan": "bridge", "ipvlan": "l2"}


@dataclass(frozen=True, slots=True)
class Desired:
    """The wanted state of all networks, and what it was computed from.

    `links` are the bridges by network, and `members` what the firewall knows of servers. `befores` are values
    of sysctls from before the first network, which every network records, and `restore` those that no network
    needs any more. `rates` are those of pools, by direction.
    """

    seen: SeenNetworks
    networks: Mapping[str, Network]
    parties: Mapping[str, Party]
    wanted: WantedNetworks
    assignment: Assignment
    links: Mapping[str, str]
    members: tuple[Member, ...]
    befores: Mapping[str, str]
    restore: Mapping[str, str]
    rates: Mapping[str, Mapping[str, int]]

    def of_server(self, builder: PlanBuilder, name: str) -> ServerNetwork | None:
        """What planning a server needs to know of its networks; None if it has no interfaces and had none."""
        return of_server(builder, self, name)

    def plan_host(self, builder: PlanBuilder) -> None:
        """Add the changes of what is global to all networks."""
        from vsprov.plan.network import host

        host.plan(builder, self)


def compute(builder: PlanBuilder) -> Desired:
    """The wanted state of the instance's networks after the plan."""
    seen = builder.observed.networks or SeenNetworks()
    instance = builder.wanted.instance
    networks = _networks(builder, seen)
    parties = _parties(builder)
    assignment = addresses.assign(
        _places(parties.values(), networks), _reserved(instance, networks, parties, seen)
    )
    for party in parties.values():
        if not party.listed:
            assignment.addresses[party.name] = dict(party.recorded)
    links = {name: link for name, spec in networks.items() if (link := bridge_of(instance, name, spec))}
    maker = _InterfaceMaker(instance, networks, links, assignment, seen)
    shares = pools.Shares(instance, pools.rates(builder), seen)
    interfaces = {
        party.name: {
            inner.name: shares.join(party.spec.quota or "", inner) for inner in maker.interfaces(party)
        }
        for party in parties.values()
        if party.running
    }
    found = members.members(parties, networks, interfaces, assignment)
    awake = {name: networks[name] for name in networks if _is_awake(builder, name, links, parties, seen)}
    needed = _sysctls(awake, links, parties.values(), seen)
    routed = _routed_links(interfaces, seen)
    needed |= {path.format(link): "1" for link in sorted(routed) for path in sysctls.forwarding(seen)}
    recorded = _recorded_sysctls(seen)
    own = {naming.bridge_name(instance, name) for name in networks} | routed
    needed = sysctls.withdrawn(own, seen) | needed
    wanted = WantedNetworks(
        bridges={
            name: _bridge(instance, name, spec)
            for name, spec in awake.items()
            if spec.type == "bridge" and not spec.bridge
        },
        pools=shares.links(one for inner in interfaces.values() for one in inner.values()),
        interfaces=interfaces,
        tables=members.tables(instance, awake, links, found),
        sysctls=needed,
        names=names.files(parties.values(), networks, assignment, seen.resolver),
        addresses=assignment.addresses,
    )
    return Desired(
        seen,
        networks,
        parties,
        wanted,
        assignment,
        links,
        found,
        sysctls.before(needed, recorded, seen, own),
        {} if _is_shared(instance, seen) else sysctls.unneeded(needed, recorded, seen),
        shares.rates,
    )


def _is_awake(
    builder: PlanBuilder,
    name: str,
    links: Mapping[str, str],
    parties: Mapping[str, Party],
    seen: SeenNetworks,
) -> bool:
    """Whether a network should exist in the kernel.

    After a reboot, one that is not in the manifest comes back when a server on it starts.
    """
    if name in builder.of("Network") or links.get(name) in seen.links:
        return True
    running = (party.spec for party in parties.values() if party.running)
    return any(one.network == name for spec in running for one in spec.interfaces)


def _networks(builder: PlanBuilder, seen: SeenNetworks) -> dict[str, Network]:
    """The networks that exist after the plan: wanted ones, and recorded ones that stay."""
    out = {name: want.spec for name, want in builder.of("Network").items() if isinstance(want.spec, Network)}
    for name, found in seen.networks.items():
        if name not in out and found.applied and not builder.removes("Network", name, found.owner):
            spec = objects.read_spec("Network", found.applied["spec"])
            assert isinstance(spec, Network)
            out[name] = spec
    return dict(sorted(out.items()))


def _parties(builder: PlanBuilder) -> dict[str, Party]:
    """The servers with interfaces after the plan, by name."""
    out = {}
    for name, want in builder.servers.items():
        assert isinstance(want.spec, Server)
        seen = builder.observed.servers.get(name)
        if want.spec.interfaces:
            out[name] = Party(name, want.spec, want.spec.state == "Running", True, recorded_addresses(seen))
    for name, seen in builder.observed.servers.items():
        if name in builder.servers or not seen.applied or not seen.applied["spec"].get("interfaces"):
            continue
        if not builder.removes("Server", name, seen.set_owner):
            spec = applied.to_object(name, seen.applied).spec
            assert isinstance(spec, Server)
            out[name] = Party(name, spec, seen.wanted_state == "Running", False, recorded_addresses(seen))
    return dict(sorted(out.items()))


def recorded_addresses(seen: ObservedServer | None) -> dict[str, tuple[str, ...]]:
    """The addresses in the record of a server, by interface."""
    recorded: Mapping[str, Any] = (seen.applied or {}).get("addresses", {}) if seen else {}
    return {name: tuple(texts) for name, texts in recorded.items()}


def bridge_of(instance: str, name: str, spec: Network) -> str:
    """The bridge of a network; "" if it has none."""
    if spec.type != "bridge":
        return ""
    return spec.bridge or naming.bridge_name(instance, name)


def uses_host(spec: Server, networks: Mapping[str, Network]) -> bool:
    """Whether a server shares the network stack of the host."""
    return any(one.network in networks and networks[one.network].type == "host" for one in spec.interfaces)


def of_server(builder: PlanBuilder, desired: Desired, name: str) -> ServerNetwork | None:
    """As `Desired.of_server`."""
    party = desired.parties.get(name)
    seen = builder.observed.servers.get(name)
    recorded = seen.applied["spec"].get("interfaces", ()) if seen and seen.applied else ()
    former = {one["network"] for one in recorded}
    if party is None and not former:
        return None
    on_host = {
        network.name
        for network in desired.seen.networks.values()
        if network.applied and network.applied["spec"].get("type") == "host"
    }
    return ServerNetwork(
        naming.server_alias(builder.wanted.instance, name),
        desired.wanted.interfaces.get(name, {}),
        desired.seen.interfaces.get(name, {}),
        {link: network for network, link in desired.links.items()},
        desired.wanted.addresses.get(name, {}),
        desired.wanted.names.get(name, {}),
        bool(party and uses_host(party.spec, desired.networks)),
        not former.isdisjoint(on_host),
        sysctls.forwarding(desired.seen),
    )


# -- addresses


def _places(parties: Iterable[Party], networks: Mapping[str, Network]) -> list[Place]:
    out = []
    for party in parties:
        for one in party.spec.interfaces if party.listed else ():
            network = networks.get(one.network)
            if network and network.type != "host":
                recorded = party.recorded.get(one.name, ())
                routed = network.type == "routed"
                out.append(
                    Place(party.name, one.name, one.network, one.addresses, network.subnets, recorded, routed)
                )
    return out


def _reserved(
    instance: str, networks: Mapping[str, Network], parties: Mapping[str, Party], seen: SeenNetworks
) -> dict[str, list[str]]:
    """{who: addresses that servers of the manifest cannot have}."""
    out: dict[str, list[str]] = {}
    for name, network in networks.items():
        if network.gateway and network.type != "routed":
            out[f"the gateway of Network/{name}"] = [
                addresses.gateway(text)
                for text in network.subnets
                if addresses.subnet(text).num_addresses > 2
            ]
    for party in parties.values():
        if not party.listed:
            out[f"Server/{party.name}"] = [text for each in party.recorded.values() for text in each]
    for link in seen.links.values():
        if naming.owner_of(link.alias)[0] != instance and link.addresses:
            out[f"link {link.name} of the host"] = list(link.addresses)
    # The kernel has one route to an address, and one neighbor on a bridge.
    bridges = {spec.bridge for spec in networks.values() if spec.bridge}
    for other, theirs in seen.others.items():
        for member in theirs:
            found = seen.links.get(member.link)
            if found and (not found.parent or found.parent in bridges):
                out[other_server(seen, other, member)] = list(member.addresses)
    return out


def other_server(seen: SeenNetworks, instance: str, member: Member) -> str:
    """What to call a server of another instance."""
    link = seen.links.get(member.link)
    server = naming.owner_of(link.alias)[1] if link else ""
    return f"Server/{server} of instance {instance}" if server else f"a server of instance {instance}"


# -- links


def _bridge(instance: str, name: str, spec: Network) -> HostLink:
    readable = naming.altname(instance, name)
    gateways = [
        f"{addresses.gateway(text)}/{addresses.subnet(text).prefixlen}"
        for text in spec.subnets
        if spec.gateway
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


@dataclass(slots=True)
class _InterfaceMaker:
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
        mac = one.mac or naming.mac(self.macs, self.instance, party.name, one.name)
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
    extra = [Route(route.to, route.via, _family(route.via)) for route in one.routes]
    yield from extra
    own = {(route.to, route.family) for route in extra}
    for family in (4, 6):
        via = _gateway(network, given, family) if one.gateway and network.gateway else ""
        if via and ("default", family) not in own:
            yield Route("default", via, 4 if family == 4 else 6)


def _family(text: str) -> Any:
    return addresses.family(text)


def _gateway(network: Network, given: Sequence[str], family: int) -> str:
    """The next hop of the default route for an interface with these addresses; "" if there is none."""
    for text in given:
        if addresses.family(text) != family:
            continue
        if network.type == "routed":
            return ROUTED_GATEWAYS[family]
        net = addresses.within(addresses.parse(text), network.subnets)
        if net and addresses.subnet(net).num_addresses > 2:
            return addresses.gateway(net)
    return ""


# -- sysctls and names


def _is_shared(instance: str, seen: SeenNetworks) -> bool:
    """Whether another instance has links on this host: it needs the same sysctls, and found them set."""
    return any(naming.owner_of(link.alias)[0] not in ("", instance) for link in seen.links.values())


def _sysctls(
    networks: Mapping[str, Network], links: Mapping[str, str], parties: Collection[Party], seen: SeenNetworks
) -> dict[str, str]:
    forwarding = {
        name: spec
        for name, spec in networks.items()
        if spec.type == "routed" or (name in links and _host_is_gateway(spec, seen))
    }
    published = {port.host_ip for party in parties if party.running for port in party.spec.ports}
    if not forwarding:
        return {}
    bridges = [links[name] for name in forwarding if name in links]
    hosts = {text for text in published if text}
    listening = [
        link.name
        for link in seen.links.values()
        if any(addresses.without_prefix(text) in hosts for text in link.addresses)
    ]
    proxies = sorted({spec.parent for spec in forwarding.values() if spec.type == "routed" and spec.parent})
    outside = {*sysctls.uplinks(seen), *listening, *proxies} - {"lo", *bridges}
    # A routed network needs no subnets if its servers' addresses are in the manifest.
    used = [text for spec in forwarding.values() for text in spec.subnets]
    for party in parties:
        own = (one for one in party.spec.interfaces if party.running and one.network in forwarding)
        used += [text for one in own for text in one.addresses if text != AUTO]
    families = {addresses.family(text) for text in used}
    local = bridges if published else ()
    return sysctls.wanted(bridges, sorted(outside), families, local, proxies, seen)


def _host_is_gateway(spec: Network, seen: SeenNetworks) -> bool:
    """Whether the host forwards what servers of a bridge send to its gateway."""
    if not spec.gateway:
        return False
    link = seen.links.get(spec.bridge) if spec.bridge else None
    if not spec.bridge:
        return True
    own = {addresses.without_prefix(text) for text in link.addresses} if link else set()
    return any(addresses.gateway(text) in own for text in spec.subnets)


def _routed_links(interfaces: Mapping[str, Mapping[str, Interface]], seen: SeenNetworks) -> set[str]:
    """The host's ends of existing interfaces on routed networks; new ones are created with forwarding."""
    each = (one for inner in interfaces.values() for one in inner.values())
    return {one.link for one in each if one.link and not one.parent and one.link in seen.links}


def _recorded_sysctls(seen: SeenNetworks) -> dict[str, str]:
    """The values of sysctls from before the first network, from the records of all networks."""
    out: dict[str, str] = {}
    for network in seen.networks.values():
        out |= (network.applied or {}).get("sysctls", {})
    return out
