"""What the tables of another instance say of its servers: their addresses and published ports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vsprov.plan.network.ruleset.text import Object
from vsprov.plan.network.state import Member, Published

_PROTOCOLS: Mapping[Any, str] = {6: "tcp", 17: "udp", "tcp": "tcp", "udp": "udp"}


def members(tables: Iterable[Iterable[Object]]) -> tuple[Member, ...]:
    """The interfaces of another instance's servers, as far as its tables show them: link, MAC address,
    addresses, and the ports that lead to them. The names of server and network are "".

    Ports that lead to no interface have a member without link: their server has ended.
    """
    senders: dict[tuple[str, str], list[str]] = {}
    ports: list[Published] = []
    for each in (one for table in tables for one in table):
        kind, body = next(iter(each.items()))
        name = body.get("name", "")
        if kind == "set" and name in ("senders4", "senders6"):
            for link, mac, address in map(_parts, body.get("elem", ())):
                if not address.startswith("fe80:"):
                    senders.setdefault((link, mac), []).append(address)
        elif kind == "map" and body["family"] == "inet" and name.rstrip("46") in ("ports", "ranges"):
            ports += _published(body.get("elem", ()))
    owners = {address: key for key, addresses in senders.items() for address in addresses}
    to: dict[tuple[str, str], list[Published]] = {}
    for port in ports:
        to.setdefault(owners.get(port.addresses[0], ("", "")), []).append(port)
    return tuple(
        Member(
            "", link, "", mac, tuple(senders.get((link, mac), ())), published=tuple(to.get((link, mac), ()))
        )
        for link, mac in dict.fromkeys((*senders, *to))
    )


def _parts(element: Any) -> list[Any]:
    """The parts of an element, which is one value or a concatenation."""
    return list(element["concat"]) if isinstance(element, Mapping) and "concat" in element else [element]


def _published(elements: Iterable[Any]) -> Iterator[Published]:
    for key, data in elements:
        host, protocol, ports = _parts(key)
        target, *to = _parts(data)
        first, last = ports["range"] if isinstance(ports, Mapping) else (ports, ports)
        shift = to[0] - first if to else 0
        host = host["prefix"]["addr"] if isinstance(host, Mapping) else host
        name: Any = _PROTOCOLS.get(protocol, str(protocol))
        yield Published(name, host, (first, last), (first + shift, last + shift), (target,))
