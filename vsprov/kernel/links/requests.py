"""Requests that create, change and remove links, their names, addresses and routes, and proxy neighbors."""

from __future__ import annotations

import errno
import functools
import os
import random
import socket
from collections.abc import Collection, Iterable, Iterator
from struct import pack

from vsprov.kernel.links import netlink
from vsprov.kernel.links import rtnetlink as rt
from vsprov.kernel.links.netlink import Request, Socket, attribute, nest
from vsprov.kernel.links.read import Link
from vsprov.plan.network.state import Route

_IFA_BROADCAST, _IFA_F_NODAD = 4, 2
_RTNH_F_ONLINK, _RTPROT_STATIC, _SCOPE_LINK, _NLM_F_APPEND = 4, 4, 253, 0x800
_CREATE = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
_REPLACE = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
_GONE = (errno.ENODEV,)
# Links get an index of our choice, so that one system call can create and configure them. The kernel chooses
# its own from 1 upward.
_INDEXES = (100_000, 1_000_000)


def free_index(on: Socket) -> int:
    """The index for a new link of the host."""
    while on.has_index(index := random.randrange(*_INDEXES)):
        pass
    return index


def create_or_remove(on: Socket, index: int, requests: Collection[Request]) -> None:
    """Carry out requests, the first of which creates the link with this index; none is left if one fails."""
    try:
        on.change(list(requests))
    except OSError:
        on.change([Request("remove it", netlink.RTM_DELLINK, 0, rt.IFINFO.pack(0, 0, index, 0, 0), _GONE)])
        raise


def taken(present: Link) -> OSError:
    """The error for a link of somebody else that has the name of one of ours."""
    owner = f"alias {present.alias!r}" if present.alias else "no alias"
    said = f"{os.strerror(errno.EEXIST)}: a link of kind {present.kind or 'unknown'} with {owner}"
    return OSError(errno.EEXIST, said, f"create link {present.name}")


def new_link(tried: str, index: int, *attributes: bytes) -> Request:
    return Request(
        tried, netlink.RTM_NEWLINK, _CREATE, rt.IFINFO.pack(0, 0, index, 0, 0) + b"".join(attributes)
    )


def set_link(tried: str, index: int, *attributes: bytes) -> Request:
    return Request(tried, netlink.RTM_NEWLINK, 0, rt.IFINFO.pack(0, 0, index, 0, 0) + b"".join(attributes))


def set_up(index: int, name: str, up: bool = True) -> Request:
    body = rt.IFINFO.pack(0, 0, index, rt.IFF_UP if up else 0, rt.IFF_UP)
    return Request(f"set {name} {'up' if up else 'down'}", netlink.RTM_NEWLINK, 0, body)


def delete_link(index: int, name: str) -> Request:
    return Request(f"remove link {name}", netlink.RTM_DELLINK, 0, rt.IFINFO.pack(0, 0, index, 0, 0), _GONE)


def mac_attribute(mac: str) -> bytes:
    return attribute(rt.IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))


def _property(kind: int, flags: int, tried: str, index: int, name: str, accept: tuple[int, ...]) -> Request:
    body = rt.IFINFO.pack(0, 0, index, 0, 0) + nest(rt.IFLA_PROP_LIST, attribute(rt.IFLA_ALT_IFNAME, name))
    return Request(tried, kind, flags, body, accept)


def add_altname(index: int, link: str, name: str) -> Request:
    tried = f"give {link} the alternative name {name}"
    return _property(netlink.RTM_NEWLINKPROP, _CREATE | _NLM_F_APPEND, tried, index, name, ())


def remove_altname(index: int, link: str, name: str) -> Request:
    tried = f"remove the alternative name {name} of {link}"
    return _property(netlink.RTM_DELLINKPROP, 0, tried, index, name, (errno.ENOENT,))


@functools.cache
def has_ipv6() -> bool:
    """Whether the kernel has IPv6."""
    return os.path.exists("/proc/sys/net/ipv6")


def without_link_local(index: int, name: str) -> Iterator[Request]:
    """Keep the kernel from giving a link that is down a link-local address: the host would answer to it."""
    if has_ipv6():
        mode = attribute(rt.IFLA_INET6_ADDR_GEN_MODE, bytes([rt.IN6_ADDR_GEN_MODE_NONE]))
        spec = nest(rt.IFLA_AF_SPEC, nest(socket.AF_INET6, mode))
        yield set_link(f"keep {name} without a link-local address", index, spec)


def link_local(mac: str) -> str:
    """The link-local address that belongs to a MAC address; RFC 4291, appendix A."""
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= 2
    address = b"\xfe\x80" + bytes(6) + octets[:3] + b"\xff\xfe" + octets[3:]
    return f"{socket.inet_ntop(socket.AF_INET6, address)}/64"


def in_order(addresses: Iterable[str]) -> list[str]:
    """Addresses by family and number: the first of a subnet is the source address of its link."""
    return sorted(addresses, key=lambda text: (":" in text, packed(text)))


def packed(text: str) -> bytes:
    """The bytes of an address with or without prefix length."""
    address = text.partition("/")[0]
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _address(index: int, text: str, flags: int) -> tuple[bytes, bytes]:
    """The body that names an address, and the bytes of the address."""
    address = packed(text)
    prefix = int(text.partition("/")[2] or 8 * len(address))
    family = socket.AF_INET6 if len(address) == 16 else socket.AF_INET
    body = rt.IFADDR.pack(family, prefix, flags, 0, index) + attribute(rt.IFA_LOCAL, address)
    return body + attribute(rt.IFA_ADDRESS, address), address


def add_address(index: int, link: str, text: str, protocol: int = 0) -> Request:
    """Without duplicate address detection (RFC 4862, 5.4), so that it is usable at once.

    `protocol` is what the observation sees as the origin of the address.
    """
    body, address = _address(index, text, _IFA_F_NODAD if ":" in text else 0)
    if len(address) == 4 and (prefix := int(text.partition("/")[2] or 32)) < 31:
        hosts = (1 << (32 - prefix)) - 1
        body += attribute(_IFA_BROADCAST, pack(">I", int.from_bytes(address, "big") | hosts))
    if protocol:
        body += attribute(rt.IFA_PROTO, bytes([protocol]))
    return Request(f"add address {text} to {link}", netlink.RTM_NEWADDR, _REPLACE, body)


def remove_address(index: int, link: str, text: str, _protocol: int = 0) -> Request:
    body, _ = _address(index, text, 0)
    tried = f"remove address {text} of {link}"
    return Request(tried, netlink.RTM_DELADDR, 0, body, (errno.EADDRNOTAVAIL,))


def _route(index: int, route: Route, flags: int = 0) -> bytes:
    family = rt.FAMILIES[route.family]
    prefix = int(route.to.partition("/")[2]) if route.to != "default" else 0
    scope = 0 if route.via or route.family == 6 else _SCOPE_LINK
    body = rt.RTM.pack(family, prefix, 0, 0, rt.RT_TABLE_MAIN, _RTPROT_STATIC, scope, rt.RTN_UNICAST, flags)
    if prefix:
        body += attribute(rt.RTA_DST, packed(route.to))
    if route.via:
        body += attribute(rt.RTA_GATEWAY, packed(route.via))
    return body + attribute(rt.RTA_OIF, index)


def add_route(index: int, link: str, route: Route, addresses: Collection[str]) -> Request:
    """`addresses` are those of the link; the next hop may be outside of their subnets."""
    far = route.via and not any(_is_beside(address, packed(route.via)) for address in addresses)
    body = _route(index, route, _RTNH_F_ONLINK if far else 0)
    # Not NLM_F_REPLACE: that would also replace a route to the same subnet on another link.
    flags = netlink.NLM_F_CREATE | (_NLM_F_APPEND if route.family == 4 else 0)
    via = f" via {route.via}" if route.via else ""
    tried = f"add route to {route.to}{via} on {link}"
    return Request(tried, netlink.RTM_NEWROUTE, flags, body, (errno.EEXIST,))


def _is_beside(address: str, other: bytes) -> bool:
    """Whether another address is in the subnet of one with a prefix length; the module ipaddress is slow."""
    own, rest = packed(address), 8 * len(other) - int(address.partition("/")[2])
    if len(own) != len(other):
        return False
    return int.from_bytes(own, "big") >> rest == int.from_bytes(other, "big") >> rest


def remove_route(index: int, link: str, route: Route) -> Request:
    tried = f"remove route to {route.to} on {link}"
    return Request(tried, netlink.RTM_DELROUTE, 0, _unscoped(_route(index, route)), (errno.ESRCH,))


def _unscoped(body: bytes) -> bytes:
    """A route as RTM_DELROUTE finds it: of any protocol and scope (RT_SCOPE_NOWHERE)."""
    family, prefix, source, tos, table, _, _, kind, _ = rt.RTM.unpack_from(body)
    return rt.RTM.pack(family, prefix, source, tos, table, 0, 255, kind, 0) + body[rt.RTM.size :]


def _proxy(index: int, text: str) -> bytes:
    address = packed(text)
    family = socket.AF_INET6 if len(address) == 16 else socket.AF_INET
    body = rt.NDM.pack(family, index, 0, rt.NTF_PROXY, 0)
    return body + attribute(rt.NDA_DST, address)


def add_proxy(index: int, link: str, text: str) -> Request:
    tried = f"answer for {text} on {link}"
    return Request(tried, netlink.RTM_NEWNEIGH, _REPLACE, _proxy(index, text))


def delete_proxy(index: int, link: str, text: str) -> Request:
    tried = f"no longer answer for {text} on {link}"
    return Request(tried, netlink.RTM_DELNEIGH, 0, _proxy(index, text), (errno.ENOENT,))
