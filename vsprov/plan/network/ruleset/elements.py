"""Elements of sets and maps: openings as disjoint boxes, published ports, addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

from vsprov.plan.network.ruleset.text import concat, prefix
from vsprov.plan.network.state import Opening, Published

_WHOLE = {4: (0, 2**32 - 1), 6: (0, 2**128 - 1)}
_PORTS = (0, 65535)
# By number: nft knows the names only where /etc/protocols exists, which minimal systems do not have.
PROTOCOLS = {"tcp": 6, "udp": 17}
ICMP = {4: 1, 6: 58}
TYPES = {4: "ipv4_addr", 6: "ipv6_addr"}


def family_of(address: str) -> int:
    return 6 if ":" in address else 4


def of_family(family: int, addresses: Iterable[str]) -> list[str]:
    return [each for each in addresses if family_of(each) == family]


def link_local(mac: str) -> str:
    """The link-local address that the kernel derives from a MAC address (RFC 4291, appendix A)."""
    parts = bytes.fromhex(mac.replace(":", ""))
    host = bytes([parts[0] ^ 2, *parts[1:3], 0xFF, 0xFE, *parts[3:]])
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + host))


def senders(family: int, mac: str, addresses: Iterable[str]) -> list[str]:
    """The addresses of one family that an interface may send from."""
    own = of_family(family, addresses)
    return sorted({*own, link_local(mac)}) if family == 6 else own


def subnets(family: int, texts: Iterable[str]) -> list[Any]:
    """Subnets and addresses as disjoint elements of an interval set."""
    return list(_disjoint(family, tuple(texts)))


@lru_cache(maxsize=64)  # several sets of a table have those of the same networks, and a plan is made twice
def _disjoint(family: int, texts: tuple[str, ...]) -> tuple[Any, ...]:
    if family == 4:
        return tuple(map(_net, ipaddress.collapse_addresses(map(ipaddress.IPv4Network, texts))))
    return tuple(map(_net, ipaddress.collapse_addresses(map(ipaddress.IPv6Network, texts))))


def _net(net: ipaddress.IPv4Network | ipaddress.IPv6Network) -> Any:
    address = str(net.network_address)
    return address if net.prefixlen == net.max_prefixlen else prefix(address, net.prefixlen)


# -- openings


@lru_cache(maxsize=1024)
def openings(family: int, of: tuple[Opening, ...]) -> tuple[tuple[Any, Any, Any], ...]:
    """(peers, protocol, ports) of openings, as elements of interval sets.

    Peers of different rules may overlap, elements must not. The addresses are therefore cut at the ends of
    all peers, and what is open is joined for each piece.
    """
    out: list[tuple[Any, Any, Any]] = []
    for first, last, services in _pieces(family, of):
        peers = _addresses(family, first, last)
        out += [(peers, protocol, _number_range(ports)) for protocol, ports in services]
    return tuple(out)


_Services = tuple[tuple[Any, tuple[int, int]], ...]


def _pieces(family: int, of: tuple[Opening, ...]) -> list[tuple[int, int, _Services]]:
    spans = [(*span, opening) for opening in of for span in _spans(family, opening)]
    cuts = sorted({cut for first, last, _ in spans for cut in (first, last + 1)})
    pieces: list[tuple[int, int, _Services]] = []
    for start, end in pairwise(cuts):
        services = _services(family, [one for first, last, one in spans if first <= start <= last])
        if pieces and pieces[-1][1] == start - 1 and pieces[-1][2] == services:
            pieces[-1] = (pieces[-1][0], end - 1, services)
        elif services:
            pieces.append((start, end - 1, services))
    return pieces


def _spans(family: int, opening: Opening) -> Iterator[tuple[int, int]]:
    if not opening.peers:
        yield _WHOLE[family]
    for peer in opening.peers:
        net = ipaddress.ip_network(peer, strict=False)
        if net.version == family:
            yield int(net.network_address), int(net.broadcast_address)


def _services(family: int, of: Iterable[Opening]) -> _Services:
    """What is open: (protocol, ports), disjoint. A protocol without ports has all of them."""
    ranges: dict[int, list[tuple[int, int]]] = {}
    for opening in of:
        if opening.protocol == "any" and not opening.ports:
            return (({"range": [0, 255]}, _PORTS),)
        for protocol in ("tcp", "udp") if opening.protocol == "any" else (opening.protocol,):
            number = ICMP[family] if protocol == "icmp" else PROTOCOLS[protocol]
            ranges.setdefault(number, []).extend(opening.ports or [_PORTS])
    return tuple((number, ports) for number in sorted(ranges) for ports in _joined(ranges[number]))


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges without overlaps; adjacent ones become one."""
    out: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        else:
            out.append((first, last))
    return out


def _number_range(numbers: tuple[int, int]) -> Any:
    return numbers[0] if numbers[0] == numbers[1] else {"range": list(numbers)}


def _addresses(family: int, first: int, last: int) -> Any:
    """A range of addresses as nft lists it: an address, a subnet, or else a range."""
    kind = ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
    size, bits = last - first + 1, 32 if family == 4 else 128
    if size == 1:
        return str(kind(first))
    if size & (size - 1) == 0 and first % size == 0:
        return prefix(str(kind(first)), bits - size.bit_length() + 1)
    return {"range": [str(kind(first)), str(kind(last))]}


# -- published ports


def published(family: int, port: Published) -> tuple[list[Any], list[Any]]:
    """(elements with ports of their own, elements that keep the port) of one published port or range.

    A map gives one target port, so a range that is shifted takes an element for each of its ports.
    """
    targets = of_family(family, port.addresses)
    if not targets or (port.host_ip and family_of(port.host_ip) != family):
        return [], []
    every, protocol = "0.0.0.0" if family == 4 else "::", PROTOCOLS[port.protocol]
    host = prefix(every, 0) if port.host_ip in (None, "", every) else port.host_ip
    if port.host_ports == port.ports:
        return [], [[concat(host, protocol, _number_range(port.ports)), targets[0]]]
    shift = port.ports[0] - port.host_ports[0]
    numbers = range(port.host_ports[0], port.host_ports[1] + 1)
    return [[concat(host, protocol, at), concat(targets[0], at + shift)] for at in numbers], []
