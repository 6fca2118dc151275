"""Checks of servers together with their networks, and of networks with each other.

A network that is not in the manifest may exist in the instance; the plan checks what refers to it.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from vsprov.errors import Problem
from vsprov.manifest.checks.networks.interfaces import PORTS, at_interface, has_own_ipv6
from vsprov.manifest.checks.networks.network import SUBNETS
from vsprov.manifest.checks.view import ManifestView
from vsprov.manifest.resolve import Item
from vsprov.model.fields import Path
from vsprov.model.kinds.network import Interface, Network, is_filtered
from vsprov.model.kinds.server import Server
from vsprov.model.values.addresses import AUTO, DEFAULT, Subnet, address_of, subnet_of
from vsprov.model.values.interfaces import LEAST_MTU_V6


class Connection(Struct, frozen=True):
    """An interface of a server whose network is in the manifest."""

    item: Item
    place: int
    interface: Interface
    network: Network

    @property
    def subnets(self) -> list[Subnet]:
        return [subnet_of(text) for text in self.network.subnets]

    def families(self) -> set[int]:
        """The families of the addresses that the interface has."""
        own = {int(address_of(text).version) for text in self.interface.addresses if text != AUTO}
        given = {int(subnet.version) for subnet in self.subnets}
        return own | given if AUTO in self.interface.addresses else own

    def problem(self, message: str, *key: str | int, hint: str = "", warning: bool = False) -> Problem:
        """A problem with a key of the interface."""
        return self.item.problem(at_interface(self.place, *key), message, hint, warning=warning)


def connections(view: ManifestView) -> Iterator[Connection]:
    """The interfaces of all servers whose networks are in the manifest."""
    for item, server in view.all(Server):
        yield from connections_of(view, item, server)


def connections_of(view: ManifestView, item: Item, server: Server) -> Iterator[Connection]:
    """The interfaces of a server whose networks are in the manifest, except those with errors."""
    for place, interface in enumerate(server.interfaces):
        network = view.spec(Network, interface.network)
        if network is not None and not view.by_address[f"Network/{interface.network}"].partial:
            yield Connection(item, place, interface, network)


def overlapping_networks(view: ManifestView) -> Iterator[Problem]:
    """Subnets that two networks have. Only networks on links of the host may share one with each other."""
    seen: list[tuple[Subnet, Item, Network]] = []
    for item, network in view.all(Network):
        subnets = [subnet_of(text) for text in network.subnets]
        for i, subnet in enumerate(subnets):
            for other, owner, around in seen:
                shared = is_outside(network) and is_outside(around)
                if subnet.version == other.version and subnet.overlaps(other) and not shared:
                    yield item.problem((*SUBNETS, i), f"{subnet} overlaps {other} of {owner.address}")
                    break
        seen += [(subnet, item, network) for subnet in subnets]


def is_outside(network: Network) -> bool:
    """Whether its subnets are those of a network that the host is connected to."""
    return network.type in ("macvlan", "ipvlan") or network.bridge is not None


def duplicate_macs(view: ManifestView) -> Iterator[Problem]:
    """MAC addresses that two interfaces of a network have."""
    seen: dict[tuple[str, str], tuple[Item, int]] = {}
    for item, server in view.all(Server):
        for place, interface in enumerate(server.interfaces):
            if interface.mac is None:
                continue
            other, there = seen.setdefault((interface.network, interface.mac), (item, place))
            if other is not item or there != place:
                message = f"{interface.mac} is already the address of {other.address} (interfaces[{there}])"
                yield item.problem(at_interface(place, "mac"), message)


def shared_macs(view: ManifestView) -> Iterator[Problem]:
    """MAC addresses on ipvlan, where all interfaces have that of the parent; networking/ipvlan.rst."""
    for it in connections(view):
        if it.network.type == "ipvlan" and it.interface.mac is not None:
            message = "interfaces on a network of type ipvlan have the MAC address of its parent"
            yield it.problem(message, "mac", hint="omit mac, or use type macvlan")


def default_routes(view: ManifestView) -> Iterator[Problem]:
    """Interfaces of a server with default routes of the same family."""
    for item, server in view.all(Server):
        first: dict[int, tuple[int, str]] = {}
        for it in connections_of(view, item, server):
            for family, path in _default_families(it).items():
                place, name = first.setdefault(family, (it.place, it.interface.name))
                if place != it.place:
                    message = f"{name} (interfaces[{place}]) already has the default route for IPv{family}"
                    hint = f"set gateway: false for {name} or {it.interface.name}"
                    yield it.problem(message, *path, hint=hint)
                    break  # the hint is the same for the other family


def _default_families(it: Connection) -> dict[int, Path]:
    """{family: path in the interface} of the default routes that an interface has."""
    out: dict[int, Path] = {}
    if it.network.type == "host":
        return out
    for k, route in enumerate(it.interface.routes):
        if route.to == DEFAULT:
            out[address_of(route.via).version] = ("routes", k)
    if it.interface.gateway and it.network.gateway:
        for family in sorted(it.families() & {int(subnet.version) for subnet in it.subnets}):
            out.setdefault(family, ("gateway",))
    return out


def wrong_next_hops(view: ManifestView) -> Iterator[Problem]:
    """Routes whose next hop is on no subnet of the interface."""
    for it in connections(view):
        own = [subnet_of(text) for text in it.interface.addresses if "/" in text]
        for k, route in enumerate(it.interface.routes):
            via = address_of(route.via)
            if it.network.type != "host" and not any(via in subnet for subnet in (*it.subnets, *own)):
                subnets = ", ".join(map(str, it.subnets)) or "it has no subnets"
                message = f"{via} is not in Network/{it.interface.network}: {subnets}"
                yield it.problem(message, "routes", k, "via")


def wrong_mtus(view: ManifestView) -> Iterator[Problem]:
    """MTUs above that of the network, and such that IPv6 does not work with."""
    for it in connections(view):
        mtu = it.interface.mtu
        if mtu is None:
            continue
        if mtu < LEAST_MTU_V6 and 6 in it.families() and not has_own_ipv6(it.interface):
            yield it.problem(f"{mtu} is too small for IPv6, which requires {LEAST_MTU_V6}", "mtu")
        if it.network.mtu is not None and mtu > it.network.mtu:
            message = f"{mtu} exceeds that of Network/{it.interface.network} ({it.network.mtu})"
            yield it.problem(message, "mtu")


def host_network(view: ManifestView) -> Iterator[Problem]:
    """The network of the host, combined with anything that only a network stack of its own can have."""
    for item, server in view.all(Server):
        shared = next((it for it in connections_of(view, item, server) if it.network.type == "host"), None)
        if shared is None:
            continue
        name = f"Network/{shared.interface.network}"
        if len(server.interfaces) > 1:
            message = f"{name} is of type host, which cannot be combined with other networks"
            yield shared.problem(message, "network")
        if server.ports:
            yield item.problem(PORTS, f"the server uses the ports of the host itself ({name})", "omit ports")
        interface = shared.interface
        given = {
            "addresses": any(text != AUTO for text in interface.addresses),
            "mac": interface.mac is not None,
            "mtu": interface.mtu is not None,
            "routes": bool(interface.routes),
        }
        for key in (key for key, is_set in given.items() if is_set):
            yield shared.problem(f"{key} does not apply to a network of type host", key)


def unfiltered(view: ManifestView) -> Iterator[Problem]:
    """Published ports and firewalls of servers whose packets do not pass through the host."""
    for item, server in view.all(Server):
        past = [it for it in connections_of(view, item, server) if not is_filtered(it.network)]
        if not past:
            continue
        types = " and ".join(sorted({it.network.type for it in past}))
        alone = len(past) == len(server.interfaces)
        if server.ports and alone and "host" not in types:
            message = f"ports cannot be published through a network of type {types}"
            yield item.problem(PORTS, message, "connect the server to a network of type bridge or routed")
        for direction in ("ingress", "egress"):
            if getattr(server.firewall, direction) is not None:
                names = ", ".join(it.interface.name for it in past)
                message = f"does not restrict {names}: the host cannot filter a network of type {types}"
                path: Path = ("spec", "firewall", direction)
                yield item.problem(path, message, warning=not alone)
