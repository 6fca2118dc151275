"""Checks of the addresses of servers, together with their networks."""

from __future__ import annotations

from collections.abc import Iterator

from vsprov.errors import Problem
from vsprov.manifest.checks.networks.connections import Connection, connections, is_outside
from vsprov.manifest.checks.networks.interfaces import at_interface
from vsprov.manifest.checks.view import ManifestView
from vsprov.manifest.resolve import Item
from vsprov.model.kinds.network import Network
from vsprov.model.kinds.server import Server
from vsprov.model.values.addresses import AUTO, Address, Subnet, address_of


def wrong_addresses(view: ManifestView) -> Iterator[Problem]:
    """Addresses that do not belong to the network, or that it needs itself."""
    for it in connections(view):
        if it.network.type == "host":
            continue
        for k, text in enumerate(it.interface.addresses):
            if text == AUTO:
                if not it.network.subnets and not is_outside(it.network):
                    message = f"Network/{it.interface.network} has no subnets to choose an address from"
                    hint = "set subnets of the network, or addresses"
                    yield it.problem(message, "addresses", k, hint=hint, warning=True)
                continue
            message, hint = _wrong_address(it, text)
            if message:
                yield it.problem(message, "addresses", k, hint=hint)


def _wrong_address(it: Connection, text: str) -> tuple[str, str]:
    """What is wrong with an address, and a hint; ("", "") if nothing is."""
    address, prefix = address_of(text), text.partition("/")[2]
    name = f"Network/{it.interface.network}"
    subnets = [subnet for subnet in it.subnets if subnet.version == address.version]
    subnet = next((subnet for subnet in subnets if address in subnet), None)
    if subnet is None:
        if subnets:
            return f"{address} is not in {name}: {', '.join(map(str, subnets))}", ""
        if not prefix and it.network.type != "routed":
            hint = f"write the prefix length: {address}/{24 if address.version == 4 else 64}"
            return f"{name} has no IPv{address.version} subnet", hint
        return "", ""
    lengths = {subnet.prefixlen} | ({subnet.max_prefixlen} if it.network.type == "routed" else set())
    if prefix and int(prefix) not in lengths:
        return f"{text} is not in a subnet of {name}: {subnet}", f"write {address}/{subnet.prefixlen}"
    if it.network.type != "routed" and (taken := _is_taken(it.network, subnet, address)):
        return f"{address} is {taken} of {subnet}", ""
    return "", ""


def _is_taken(network: Network, subnet: Subnet, address: Address) -> str:
    """What an address of a subnet is, if a server cannot have it."""
    if address == subnet.network_address:
        return "the network address"
    if address.version == 4 and address == subnet.broadcast_address:
        return "the broadcast address"
    return "the gateway" if network.gateway and address == subnet.network_address + 1 else ""


def duplicate_addresses(view: ManifestView) -> Iterator[Problem]:
    """Addresses that two interfaces have."""
    seen: dict[Address, tuple[Item, int]] = {}
    for item, server in view.all(Server):
        for place, interface in enumerate(server.interfaces):
            for k, text in enumerate(interface.addresses):
                if text == AUTO:
                    continue
                address = address_of(text)
                other, there = seen.setdefault(address, (item, place))
                if other is not item or there != place:
                    message = f"{address} is already an address of {other.address} (interfaces[{there}])"
                    yield item.problem(at_interface(place, "addresses", k), message)
