"""What the networks of an instance should be, computed from the wanted objects and the records of what stays.

All verbs use it alike: the servers of a manifest are as they are wanted, all others of the instance as they
were last applied and as they are running.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vsprov.model import objects
from vsprov.model.kinds.network import Network
from vsprov.model.kinds.server import Server
from vsprov.model.values.addresses import subnet_of
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.compare import applied
from vsprov.plan.network import naming
from vsprov.plan.network.desired import addresses, members, names, sysctls
from vsprov.plan.network.desired.addresses import Place
from vsprov.plan.network.desired.interfaces import InterfaceMaker, bridge, bridge_of
from vsprov.plan.network.desired.party import Party, other_server
from vsprov.plan.network.desired.result import Desired
from vsprov.plan.network.desired.shares import Shares, rates
from vsprov.plan.network.state import HostLink, Interface, SeenNetworks, WantedNetworks
from vsprov.plan.observed import ObservedServer


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
    maker = InterfaceMaker(instance, networks, links, assignment, seen)
    shares = Shares(instance, rates(builder), seen)
    interfaces = {
        party.name: {
            inner.name: shares.join(party.spec.quota or "", inner) for inner in maker.interfaces(party)
        }
        for party in parties.values()
        if party.running
    }
    found = members.members(parties, networks, interfaces, assignment)
    awake = {name: networks[name] for name in networks if _is_awake(builder, name, links, parties, seen)}
    needed = sysctls.needed(awake, links, parties.values(), seen)
    routed = sysctls.routed_links(interfaces, seen)
    needed |= {path.format(link): "1" for link in sorted(routed) for path in sysctls.forwarding(seen)}
    recorded = sysctls.recorded(seen)
    own = {naming.bridge_name(instance, name) for name in networks} | routed
    needed = sysctls.withdrawn(own, seen) | needed
    wanted = WantedNetworks(
        bridges={
            name: bridge(instance, name, spec)
            for name, spec in awake.items()
            if spec.type == "bridge" and not spec.bridge
        },
        pools=shares.links((*_each(interfaces), *_kept(parties, networks, seen))),
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
        _names_of_links(links, seen.links, wanted.pools),
        found,
        sysctls.before(needed, recorded, seen, own),
        {} if sysctls.is_shared(instance, seen) else sysctls.unneeded(needed, recorded, seen),
        shares.rates,
    )


def _names_of_links(
    links: Mapping[str, str], seen: Mapping[str, HostLink], pools: Mapping[str, HostLink]
) -> dict[str, str]:
    """The names of networks and pools by their link on the host."""
    devices = [*(link for name, link in seen.items() if name.startswith(naming.POOL_LINK)), *pools.values()]
    names = {device.name: naming.owner_of(device.alias)[1].removeprefix(naming.POOL) for device in devices}
    return names | {link: network for network, link in links.items()}


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
            out[name] = Party(
                name,
                want.spec,
                want.spec.state == "Running",
                True,
                _recorded_addresses(seen),
                _formerly(seen),
            )
    for name, seen in builder.observed.servers.items():
        if name in builder.servers or not seen.applied or not seen.applied["spec"].get("interfaces"):
            continue
        if not builder.removes("Server", name, seen.set_owner):
            spec = applied.to_object(name, seen.applied).spec
            assert isinstance(spec, Server)
            running, given = seen.wanted_state == "Running", _recorded_addresses(seen)
            out[name] = Party(name, spec, running, False, given, _formerly(seen))
    return dict(sorted(out.items()))


def _each(interfaces: Mapping[str, Mapping[str, Interface]]) -> Iterator[Interface]:
    for inner in interfaces.values():
        yield from inner.values()


def _kept(
    parties: Mapping[str, Party], networks: Mapping[str, Network], seen: SeenNetworks
) -> Iterator[Interface]:
    """Interfaces that stay: of running servers outside the manifest, on networks whose record is lost."""
    for party in parties.values():
        if party.running and not party.listed:
            lost = {one.name for one in party.spec.interfaces if one.network not in networks}
            found = seen.interfaces.get(party.name, {})
            yield from (each for each in found.values() if (each.altname or each.name) in lost)


def _recorded_addresses(seen: ObservedServer | None) -> dict[str, tuple[str, ...]]:
    """The addresses in the record of a server, by interface."""
    recorded: Mapping[str, Any] = (seen.applied or {}).get("addresses", {}) if seen else {}
    return {name: tuple(texts) for name, texts in recorded.items()}


def _formerly(seen: ObservedServer | None) -> str:
    return str((seen.applied or {}).get("formerly", "")) if seen else ""


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
                addresses.gateway(text) for text in network.subnets if subnet_of(text).num_addresses > 2
            ]
    for party in parties.values():
        if not party.listed:
            out[f"Server/{party.name}"] = [text for each in party.recorded.values() for text in each]
    own = {naming.bridge_name(instance, name) for name in networks}  # without its mark, it is refused anyway
    for link in seen.links.values():
        if naming.owner_of(link.alias)[0] != instance and link.addresses and link.name not in own:
            out[f"link {link.name} of the host"] = list(link.addresses)
    # The kernel has one route to an address, and one neighbor on a bridge.
    bridges = {spec.bridge for spec in networks.values() if spec.bridge}
    for other, theirs in seen.others.items():
        for member in theirs:
            found = seen.links.get(member.link)
            if found and (not found.parent or found.parent in bridges):
                out[other_server(seen, other, member)] = list(member.addresses)
    return out
