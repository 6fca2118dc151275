"""Read links, addresses, routes and neighbors of a network namespace, as the kernel describes them."""

from __future__ import annotations

import functools
import socket
from collections.abc import Mapping
from struct import pack, unpack_from

from msgspec import Struct

from vsprov.kernel.links import netlink, settings
from vsprov.kernel.links.netlink import Attributes, Socket, attribute, attributes, number, text
from vsprov.kernel.links.rtnetlink import (
    IFA_ADDRESS,
    IFA_FLAGS,
    IFA_LOCAL,
    IFA_PROTO,
    IFADDR,
    IFAPROT_KERNEL_LL,
    IFAPROT_KERNEL_RA,
    IFF_LOOPBACK,
    IFF_UP,
    IFINFO,
    IFLA_ADDRESS,
    IFLA_BRPORT_ISOLATED,
    IFLA_BRPORT_MODE,
    IFLA_EXT_MASK,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_INFO_SLAVE_DATA,
    IFLA_INFO_SLAVE_KIND,
    IFLA_LINK,
    IFLA_LINK_NETNSID,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    IFLA_PROP_LIST,
    MODES,
    NDA_DST,
    NDM,
    NTF_PROXY,
    RT_TABLE_MAIN,
    RTA_DST,
    RTA_GATEWAY,
    RTA_MULTIPATH,
    RTA_OIF,
    RTM,
    RTN_UNICAST,
    RTPROT_KERNEL,
    RTPROT_RA,
)
from vsprov.plan.network.state import HostRoute, Route

_SKIP_STATISTICS = 8
_IFA_F_NOPREFIXROUTE = 0x200
_AUTOMATIC = (IFAPROT_KERNEL_RA, IFAPROT_KERNEL_LL)
# A server can have any number of links, and of addresses and routes of each; more of them than this are not
# read: reading takes 10 us each, in every plan. The server is shown as different from what it should be.
LIMIT = 2048
Connected = set[tuple[int, str]]  # index of a link and a subnet to which the kernel has made a route


class Link(Struct, frozen=True):
    """A link as a dump describes it."""

    index: int
    name: str
    kind: str
    alias: str
    altnames: frozenset[str]
    mac: str
    mtu: int
    up: bool
    master: int
    peer: int  # index of the other end of a veth, or of the link below; 0 for none
    namespace: int | None  # the id of another network namespace that this link is in
    mode: str
    port_isolated: bool
    hairpin: bool
    settings: frozenset[str]  # of a bridge, or of a port; see `settings.differing`


def link(found: Socket, name: str) -> Link | None:
    """The link with this name, or alternative name, in the socket's namespace."""
    message = found.get(netlink.RTM_GETLINK, IFINFO.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name))
    return decode_link(message) if message is not None else None


def links(found: Socket, limit: int = 1 << 30) -> list[Link]:
    """All links of the socket's namespace; lo has the kind "lo"."""
    body = IFINFO.pack(0, 0, 0, 0, 0) + attribute(IFLA_EXT_MASK, _SKIP_STATISTICS)
    return [decode_link(message) for _, message in found.dump(netlink.RTM_GETLINK, body, limit)]


def decode_link(message: memoryview) -> Link:
    """The link of an RTM_NEWLINK message."""
    _, _, index, flags, _ = IFINFO.unpack_from(message)
    found = attributes(message, IFINFO.size)
    info = attributes(found[IFLA_LINKINFO]) if IFLA_LINKINFO in found else {}
    port = _port(info)
    kind = text(info.get(IFLA_INFO_KIND)) or ("lo" if flags & IFF_LOOPBACK else "")
    return Link(
        index,
        text(found.get(IFLA_IFNAME)),
        kind,
        text(found.get(IFLA_IFALIAS)),
        _altnames(found.get(IFLA_PROP_LIST)),
        bytes(found.get(IFLA_ADDRESS, b"")).hex(":"),
        number(found.get(IFLA_MTU)),
        bool(flags & IFF_UP),
        number(found.get(IFLA_MASTER)),
        number(found.get(IFLA_LINK)),
        number(found[IFLA_LINK_NETNSID]) if IFLA_LINK_NETNSID in found else None,
        _mode(kind, info),
        _is_set(port.get(IFLA_BRPORT_ISOLATED)),
        _is_set(port.get(IFLA_BRPORT_MODE)),
        _settings(kind, info, port),
    )


def _altnames(data: memoryview | None) -> frozenset[str]:
    """The alternative names: they are all of one kind of attribute."""
    names = set()
    while data is not None and len(data) >= 4:
        length = max(unpack_from("=H", data)[0], 4)
        names.add(text(data[4:length]))
        data = data[(length + 3) & ~3 :]
    return frozenset(names)


def _mode(kind: str, info: Attributes) -> str:
    if kind not in MODES or IFLA_INFO_DATA not in info:
        return ""
    value = attributes(info[IFLA_INFO_DATA]).get(1)  # IFLA_MACVLAN_MODE of 32 bits, IFLA_IPVLAN_MODE of 16
    return MODES[kind].get(int.from_bytes(value or b"", "little" if _LITTLE else "big"), "")


_LITTLE = pack("=H", 1)[0] == 1


def _port(info: Attributes) -> Attributes:
    """The attributes of a port of a bridge; {} of any other link."""
    if text(info.get(IFLA_INFO_SLAVE_KIND)) != "bridge" or IFLA_INFO_SLAVE_DATA not in info:
        return {}
    return attributes(info[IFLA_INFO_SLAVE_DATA])


def _is_set(flag: memoryview | None) -> bool:
    return flag is not None and flag[0] == 1


def _settings(kind: str, info: Attributes, port: Attributes) -> frozenset[str]:
    if port:
        return settings.differing(port, settings.PORT)
    if kind == "bridge" and IFLA_INFO_DATA in info:
        return settings.differing(attributes(info[IFLA_INFO_DATA]), settings.BRIDGE)
    return settings.NOTHING


def addresses(
    found: Socket, connected: Connected, limit: int = 1 << 30, index: int = 0
) -> dict[int, set[str]]:
    """{index of the link: addresses in CIDR notation}, without those that the kernel gave by itself.

    An address whose subnet has lost its route is left out: it is of no use, and is added anew.
    """
    out: dict[int, set[str]] = {}
    for _, message in found.dump(netlink.RTM_GETADDR, IFADDR.pack(0, 0, 0, 0, index), limit):
        family, prefix, _, _, of = IFADDR.unpack_from(message)
        given = attributes(message, IFADDR.size)
        if (
            family not in (socket.AF_INET, socket.AF_INET6)
            or bytes(given.get(IFA_PROTO, b"\0"))[0] in _AUTOMATIC
        ):
            continue
        address = bytes(given.get(IFA_LOCAL) or given[IFA_ADDRESS])
        subnet = _subnet(family, address, prefix)
        routeless = number(given.get(IFA_FLAGS)) & _IFA_F_NOPREFIXROUTE or prefix == 8 * len(address)
        if routeless or (of, subnet) in connected:
            out.setdefault(of, set()).add(_cidr(family, address, prefix))
    return out


@functools.lru_cache(4096)
def _cidr(family: int, address: bytes, prefix: int) -> str:
    return f"{socket.inet_ntop(family, address)}/{prefix}"


def cidr(family: int, address: memoryview, prefix: int) -> str:
    return _cidr(family, bytes(address), prefix)


@functools.lru_cache(4096)
def _subnet(family: int, address: bytes, prefix: int) -> str:
    """The subnet of an address in CIDR notation."""
    rest = 8 * len(address) - prefix
    return _cidr(
        family, (int.from_bytes(address, "big") >> rest << rest).to_bytes(len(address), "big"), prefix
    )


def _routes(found: Socket, limit: int, index: int = 0) -> list[tuple[int, int, Attributes, int]]:
    """(family, prefix length, attributes, protocol) of the routes of the main table to a link."""
    out = []
    body = RTM.pack(0, 0, 0, 0, RT_TABLE_MAIN, 0, 0, 0, 0) + (attribute(RTA_OIF, index) if index else b"")
    for _, message in found.dump(netlink.RTM_GETROUTE, body, limit):
        family, prefix, _, _, table, protocol, _, kind, _ = RTM.unpack_from(message)
        if table == RT_TABLE_MAIN and kind == RTN_UNICAST and family in (socket.AF_INET, socket.AF_INET6):
            out.append((family, prefix, attributes(message, RTM.size), protocol))
    return out


def _destination(family: int, prefix: int, given: Attributes) -> str:
    if not prefix:
        return "default"
    return cidr(family, given[RTA_DST], prefix)


def host_routes(found: Socket, names: Mapping[int, str]) -> tuple[tuple[HostRoute, ...], Connected]:
    """All routes, and the links with their subnets."""
    out = []
    connected = set()
    for family, prefix, given, protocol in _routes(found, 1 << 30):
        hop = attributes(given[RTA_MULTIPATH][8:]) if RTA_MULTIPATH in given else given
        index = (
            unpack_from("=i", given[RTA_MULTIPATH], 4)[0] if hop is not given else number(given.get(RTA_OIF))
        )
        to = _destination(family, prefix, given)
        if protocol == RTPROT_KERNEL:
            connected.add((index, to))
        if index in names and to != "fe80::/64":  # every link has that
            via = socket.inet_ntop(family, hop[RTA_GATEWAY]) if RTA_GATEWAY in hop else ""
            out.append(HostRoute(to, names[index], via))
    return tuple(out), connected


def inner_routes(found: Socket, index: int) -> tuple[set[Route], Connected]:
    """The routes to a link, without those of the kernel and of routers; and the connected subnets."""
    out = set()
    connected = set()
    for family, prefix, given, protocol in _routes(found, LIMIT, index):
        if protocol == RTPROT_KERNEL:
            connected.add((index, _destination(family, prefix, given)))
        if protocol in (RTPROT_KERNEL, RTPROT_RA) or RTA_OIF not in given:
            continue
        via = socket.inet_ntop(family, given[RTA_GATEWAY]) if RTA_GATEWAY in given else ""
        out.add(Route(_destination(family, prefix, given), via, 4 if family == socket.AF_INET else 6))
    return out, connected


def proxies(found: Socket, names: Mapping[int, str]) -> frozenset[tuple[str, str]]:
    """Addresses for which the host answers ARP requests and solicitations on a link; ip-neighbour(8)."""
    out = set()
    for _, message in found.dump(netlink.RTM_GETNEIGH, NDM.pack(0, 0, 0, NTF_PROXY, 0)):
        family, index, _, _, _ = NDM.unpack_from(message)
        given = attributes(message, NDM.size)
        if family in (socket.AF_INET, socket.AF_INET6) and index in names and NDA_DST in given:
            prefix = 32 if family == socket.AF_INET else 128
            out.add((cidr(family, given[NDA_DST], prefix), names[index]))
    return frozenset(out)
