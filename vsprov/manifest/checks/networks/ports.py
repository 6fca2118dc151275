"""Checks of the ports that servers publish."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import chain

from msgspec import Struct

from vsprov.errors import Problem
from vsprov.manifest.checks.networks.connections import connections_of
from vsprov.manifest.checks.networks.interfaces import PORTS
from vsprov.manifest.checks.view import ManifestView
from vsprov.manifest.resolve import Item
from vsprov.model.kinds.network import Port
from vsprov.model.kinds.server import Server
from vsprov.model.values.addresses import address_of
from vsprov.model.values.ports import port_range


def port_families(view: ManifestView) -> Iterator[Problem]:
    """Ports of an IPv4 or IPv6 address of the host for servers without an address of this family."""
    for item, server in view.all(Server):
        all_of = list(connections_of(view, item, server))
        if len(all_of) < len(server.interfaces):
            continue
        families = set(chain.from_iterable(it.families() for it in all_of))
        for i, port in enumerate(server.ports):
            family = address_of(port.host_ip).version if port.host_ip else None
            if family and families and family not in families:
                message = f"{port.host_ip} is an IPv{family} address, and the server has none"
                yield item.problem((*PORTS, i), message, f"add an IPv{family} subnet to its network")


class _Use(Struct, frozen=True):
    """A published port: its place in the manifest, and the first and last port of the host."""

    order: int
    item: Item
    place: int
    port: Port
    first: int
    last: int


def duplicate_ports(view: ManifestView) -> Iterator[Problem]:
    """Ports of the host that are published twice, by one server or by two that should run."""
    uses: dict[str, list[_Use]] = defaultdict(list)
    for item, server in view.all(Server):
        for place, port in enumerate(server.ports):
            first, last = port_range(port.host_port)
            uses[port.protocol].append(_Use(len(uses[port.protocol]), item, place, port, first, last))
    for found in uses.values():
        unfinished: list[_Use] = []
        for use in sorted(found, key=lambda use: use.first):
            unfinished = [other for other in unfinished if other.last >= use.first]
            other = next((other for other in unfinished if _clash(use, other)), None)
            if other is not None:
                yield _published_twice(*sorted((use, other), key=lambda use: use.order))
            unfinished.append(use)


def _clash(one: _Use, other: _Use) -> bool:
    if not _share_address(one.port.host_ip, other.port.host_ip):
        return False
    if one.item is other.item:
        return True
    specs = (use.item.object.spec for use in (one, other) if use.item.object is not None)
    return all(isinstance(spec, Server) and spec.state == "Running" for spec in specs)


def _share_address(one: str | None, other: str | None) -> bool:
    if one is None or other is None or one == other:
        return True
    first, second = address_of(one), address_of(other)
    return first.version == second.version and (first.is_unspecified or second.is_unspecified)


def _published_twice(first: _Use, second: _Use) -> Problem:
    where = f"ports[{first.place}]"
    if first.item is not second.item:
        where = f"{first.item.address} ({where})"
    message = f"{_named(second.port)} is already published by {where}"
    return second.item.problem((*PORTS, second.place), message)


def _named(port: Port) -> str:
    """A published port in a message: "127.0.0.1:8080/tcp"."""
    address = f"[{port.host_ip}]" if port.host_ip and ":" in port.host_ip else port.host_ip
    return f"{address + ':' if address else ''}{port.host_port}/{port.protocol}"
