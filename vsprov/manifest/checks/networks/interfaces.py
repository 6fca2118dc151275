"""Checks of the interfaces and published ports of single servers, without their networks.

Each is a function in `INTERFACE_CHECKS` that yields the problems it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vsprov.errors import Problem
from vsprov.manifest.checks.networks.firewall import firewall_rules
from vsprov.manifest.resolve import Item
from vsprov.model.fields import Path
from vsprov.model.kinds.network import Dns, Firewall, Interface
from vsprov.model.kinds.server import Server
from vsprov.model.values.addresses import AUTO, DEFAULT, address_of, subnet_of
from vsprov.model.values.interfaces import LEAST_MTU_V6
from vsprov.model.values.ports import port_range

PORTS: Path = ("spec", "ports")


def at_interface(place: int, *rest: str | int) -> Path:
    """The path of an interface, or of a key of it."""
    return ("spec", "interfaces", place, *rest)


def duplicate_interfaces(item: Item, server: Server) -> Iterator[Problem]:
    """Interfaces with the same name."""
    places: dict[str, int] = {}
    for i, interface in enumerate(server.interfaces):
        first = places.setdefault(interface.name, i)
        if first != i:
            message = f"duplicate interface {interface.name}, already used by interfaces[{first}]"
            yield item.problem(at_interface(i, "name"), message)


def duplicate_addresses(item: Item, server: Server) -> Iterator[Problem]:
    """Addresses that one interface has twice."""
    for i, interface in enumerate(server.interfaces):
        seen = set()
        for k, text in enumerate(interface.addresses):
            plain = text if text == AUTO else str(address_of(text))
            if plain in seen:
                yield item.problem(at_interface(i, "addresses", k), f"duplicate address {plain}")
            seen.add(plain)


def interface_mtu(item: Item, server: Server) -> Iterator[Problem]:
    """RFC 8200: IPv6 requires an MTU of 1280."""
    for i, interface in enumerate(server.interfaces):
        if interface.mtu is not None and interface.mtu < LEAST_MTU_V6 and has_own_ipv6(interface):
            message = f"{interface.mtu} is too small for IPv6, which requires {LEAST_MTU_V6}"
            yield item.problem(at_interface(i, "mtu"), message)


def has_own_ipv6(interface: Interface) -> bool:
    """Whether it sets an IPv6 address itself."""
    return any(text != AUTO and address_of(text).version == 6 for text in interface.addresses)


def routes(item: Item, server: Server) -> Iterator[Problem]:
    """Routes with another family than their next hop, and destinations with two routes."""
    for i, interface in enumerate(server.interfaces):
        seen: set[tuple[str, int]] = set()
        for k, route in enumerate(interface.routes):
            path, via = at_interface(i, "routes", k), address_of(route.via)
            if route.to != DEFAULT and subnet_of(route.to).version != via.version:
                yield item.problem((*path, "via"), f"{via} is not of the family of {route.to}")
            if (route.to, via.version) in seen:
                yield item.problem((*path, "to"), f"duplicate route to {route.to}")
            seen.add((route.to, via.version))
            if any(text != AUTO and address_of(text) == via for text in interface.addresses):
                yield item.problem((*path, "via"), f"{via} is an address of the interface itself")


def unequal_ranges(item: Item, server: Server) -> Iterator[Problem]:
    """Published ranges that have another length on the host than in the server."""
    for i, port in enumerate(server.ports):
        outside, inside = (port_range(text) for text in (port.host_port, port.port or port.host_port))
        lengths = [last - first + 1 for first, last in (outside, inside)]
        if lengths[0] != lengths[1]:
            message = f"{port.host_port} is {lengths[0]} ports, but {port.port} is {lengths[1]}"
            yield item.problem((*PORTS, i), message, "both ranges must have the same length")


def without_interfaces(item: Item, server: Server) -> Iterator[Problem]:
    """Keys that have no effect, because the server has loopback only."""
    if server.interfaces or item.given(("spec", "interfaces")):  # such with errors
        return
    hint = "add interfaces: [{name: eth0, network: NAME}]"
    if server.ports:
        yield item.problem(PORTS, "publishing a port requires an interface", hint)
    for key, value, default in (("dns", server.dns, Dns()), ("firewall", server.firewall, Firewall())):
        if value != default:
            yield item.problem(("spec", key), "has no effect without interfaces", hint, warning=True)
    path: Path = ("spec", "resources", "network")
    if not item.omits(path) and any(knob.startswith("network.") for knob in server.resources):
        yield item.problem(path, "has no effect without interfaces", hint, warning=True)


def rules(item: Item, server: Server) -> Iterator[Problem]:
    """Rules of the firewall that contradict themselves."""
    return firewall_rules(item, server.firewall)


INTERFACE_CHECKS: tuple[Callable[[Item, Server], Iterator[Problem]], ...] = (
    duplicate_interfaces,
    duplicate_addresses,
    interface_mtu,
    routes,
    unequal_ranges,
    without_interfaces,
    rules,
)
