"""Links of the host: bridges of networks, and what other links have in common with them.

Every function works in the network namespace of the calling thread, and may be repeated.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import os
import random
import socket
import time
from collections.abc import Collection, Iterable, Iterator
from struct import pack

from vsprov.kernel import proc, syscall
from vsprov.kernel.links import netlink, observe, pools
from vsprov.kernel.links.netlink import Request, Socket, attribute, nest
from vsprov.kernel.links.observe import FAMILIES, IFADDR, IFF_UP, IFINFO, NDM, RTM, Link
from vsprov.plan.network.state import HostLink, Route

IFLA_BROADCAST, IFLA_AF_SPEC = 2, 26
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1
_IFA_BROADCAST, _IFA_F_NODAD = 4, 2
_RTNH_F_ONLINK, _RTPROT_STATIC, _SCOPE_LINK, _NLM_F_APPEND = 4, 4, 253, 0x800
_CREATE = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
_REPLACE = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
_GONE = (errno.ENODEV,)
# Links get an index of our choice, so that one system call can create and configure them. The kernel chooses
# its own from 1 upward.
_INDEXES = (100_000, 1_000_000)
_ATTEMPTS = 5
_IFLA_BR_MULTI_BOOLOPT = 46
_NO_LINK_LOCAL_LEARN = pack("=II", 1, 1)  # value and mask of BR_BOOLOPT_NO_LL_LEARN


def make_bridge(wanted: HostLink) -> None:
    """Create a bridge with its mark, MAC address, addresses and MTU, and bring it up.

    OSError, EEXIST, if a link has the name already; one with the wanted mark is made what is wanted.
    """
    with Socket() as on:
        present = observe.link(on, wanted.name)
        if present is None:
            index = free_index(on)
            requests = [*_new_bridge(index, wanted), *_bridge_addresses(index, wanted)]
            create_or_remove(on, index, [*requests, set_up(index, wanted.name, wanted.up)])
            return
        if present.kind != "bridge" or present.alias != wanted.alias:
            raise taken(present)
    change_link(wanted, host_link(wanted.name))


def _new_bridge(index: int, wanted: HostLink) -> Iterator[Request]:
    # Else a server could attract the packets of another: a bridge learns the sender of an LLDP frame without
    # showing that frame to nftables (br_handle_frame in net/bridge/br_input.c).
    options = nest(observe.IFLA_INFO_DATA, attribute(_IFLA_BR_MULTI_BOOLOPT, _NO_LINK_LOCAL_LEARN))
    kind = nest(observe.IFLA_LINKINFO, attribute(observe.IFLA_INFO_KIND, "bridge"), options)
    mac = [mac_attribute(wanted.mac)] if wanted.mac else []
    named = attribute(observe.IFLA_IFNAME, wanted.name)
    yield new_link(f"create bridge {wanted.name}", index, named, kind, *mac)
    alias = attribute(observe.IFLA_IFALIAS, wanted.alias)
    # A bridge without ports takes no MTU above 1500 when it is created.
    # It follows the smallest MTU of its ports until it is set to another value than it has (br_change_mtu).
    yield set_link(f"set the alias of {wanted.name}", index, alias)
    for mtu in (1280 if wanted.mtu != 1280 else 1281, wanted.mtu):
        yield set_link(f"set the MTU of {wanted.name} to {mtu}", index, attribute(observe.IFLA_MTU, mtu))
    for name in sorted(wanted.altnames):
        yield add_altname(index, wanted.name, name)

    yield from without_link_local(index, wanted.name)


def _bridge_addresses(index: int, wanted: HostLink) -> Iterator[Request]:
    """A bridge that routes IPv6 needs a link-local address to ask for its neighbors; others have none."""
    for address in in_order(wanted.addresses):
        yield add_address(index, wanted.name, address)
    if wanted.mac:
        add = any(":" in address for address in wanted.addresses)
        change = add_address if add else remove_address
        yield change(index, wanted.name, link_local(wanted.mac), observe.IFAPROT_KERNEL_LL)


def host_link(name: str) -> HostLink:
    """One link of the host; OSError, ENODEV, if it does not exist."""
    found = observe.host_links().get(name)
    if found is None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), f"link {name}")
    return found


def change_link(wanted: HostLink, before: HostLink) -> None:
    """Make a bridge what `wanted` says; `before` is what it is. Nothing else about it is changed."""
    with Socket() as on:
        index = on.index(wanted.name)
        if any(":" in address for address in wanted.addresses - before.addresses):
            enable_ipv6(wanted.name)
        on.change(list(_differences(index, wanted, before)))


def enable_ipv6(link: str) -> None:
    """Let a link have IPv6 addresses again, if somebody has disabled that; nothing without IPv6."""
    path = f"/proc/sys/net/ipv6/conf/{link}/disable_ipv6"
    if has_ipv6() and (proc.read(path) or "0").strip() != "0":
        with open(path, "w") as file:
            file.write("0")


def _differences(index: int, wanted: HostLink, before: HostLink) -> Iterator[Request]:
    name = wanted.name
    if wanted.alias != before.alias:
        yield set_link(f"set the alias of {name}", index, attribute(observe.IFLA_IFALIAS, wanted.alias))
    for other in sorted(before.altnames - wanted.altnames):
        yield remove_altname(index, name, other)
    for other in sorted(wanted.altnames - before.altnames):
        yield add_altname(index, name, other)
    if wanted.mac and wanted.mac != before.mac:
        yield set_link(f"set the MAC address of {name} to {wanted.mac}", index, mac_attribute(wanted.mac))
    if wanted.mtu != before.mtu:
        mtu = attribute(observe.IFLA_MTU, wanted.mtu)
        yield set_link(f"set the MTU of {name} to {wanted.mtu}", index, mtu)
    if wanted.up != before.up:
        yield set_up(index, name, wanted.up)
    for address in in_order(before.addresses ^ wanted.addresses):  # one without its route is not in `before`
        yield remove_address(index, name, address)
    # All of them: IPv4 addresses go with the first one of their subnet, IPv6 ones when a link is set down.
    yield from _bridge_addresses(index, wanted)


def remove_link(name: str, alias: str) -> bool:
    """Remove a link if it exists and has this alias; whether it did."""
    with Socket() as on:
        return remove_ours(on, name, alias)


def remove_ours(on: Socket, name: str, alias: str) -> bool:
    found = observe.link(on, name)
    if found is None or found.alias != alias:
        return False
    on.change([delete_link(found.index, name)])
    return True


def make_pool(wanted: HostLink) -> None:
    """Create the intermediate device of a pool, with its mark and rate, and bring it up.

    OSError, EEXIST, if a link of others has the name; one with the wanted mark is made anew.
    """
    with Socket() as on:
        remove_ours(on, wanted.name, wanted.alias)
        if (present := observe.link(on, wanted.name)) is not None:
            raise taken(present)
        index = free_index(on)
        create_or_remove(on, index, list(_new_pool(index, wanted)))


def _new_pool(index: int, wanted: HostLink) -> Iterator[Request]:
    kind = nest(observe.IFLA_LINKINFO, attribute(observe.IFLA_INFO_KIND, "ifb"))
    yield new_link(f"create link {wanted.name}", index, attribute(observe.IFLA_IFNAME, wanted.name), kind)
    alias = attribute(observe.IFLA_IFALIAS, wanted.alias)
    yield set_link(f"set the alias of {wanted.name}", index, alias)
    yield from without_link_local(index, wanted.name)
    assert wanted.ingress
    yield from pools.limit(index, wanted.name, wanted.ingress)
    yield set_up(index, wanted.name)


def change_pool(wanted: HostLink, before: HostLink) -> None:
    """Set the rate of the intermediate device of a pool, and bring it up; `before` is what it is."""
    assert wanted.ingress
    with Socket() as on:
        index = on.index(wanted.name)
        if before.ingress:
            on.change([pools.set_rate(index, wanted.name, wanted.ingress)])
        else:
            on.change(list(pools.limit(index, wanted.name, wanted.ingress)))
        on.change([set_up(index, wanted.name)])


def remove_shares(name: str, shares: Iterable[int]) -> None:
    """Remove classes of the intermediate device of a pool; nothing if it has gone."""
    with Socket() as on:
        if (found := observe.link(on, name)) is not None:
            on.change(list(pools.leave(found.index, name, shares)))


def remove_proxy(address: str, link: str) -> None:
    """No longer answer for an address on a link; nothing if the host does not."""
    with Socket() as on:
        try:
            index = on.index(link)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            raise
        on.change([delete_proxy(index, link, address)])


def wait_gone(names: Iterable[str], seconds: float) -> frozenset[str]:
    """Wait until none of these links exists; those that still do after `seconds`.

    Links of a network namespace end some time after its last process; the kernel reports each.
    """
    with Socket(groups=netlink.RTMGRP_LINK) as events, Socket() as on:
        deadline = time.monotonic() + seconds
        left = _present(on, names)
        while left and syscall.is_ready(events.fileno(), max(0.0, deadline - time.monotonic())):
            try:
                gone = [message for kind, _, _, message in events.receive() if _is_removal(kind, message)]
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                left = _present(on, left)  # events were lost
                continue
            left -= {observe.decode_link(message).name for message in gone}
        return frozenset(left)


def _is_removal(kind: int, message: memoryview) -> bool:
    """Whether an event is the end of a link, and not only (AF_BRIDGE) that it has left its bridge."""
    return kind == netlink.RTM_DELLINK and IFINFO.unpack_from(message)[0] == socket.AF_UNSPEC


def _present(on: Socket, names: Iterable[str]) -> set[str]:
    wanted = set(names)
    return {link.name for link in observe.links(on)} & wanted if wanted else set()


# -- requests


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
        on.change([Request("remove it", netlink.RTM_DELLINK, 0, IFINFO.pack(0, 0, index, 0, 0), _GONE)])
        raise


def taken(present: Link) -> OSError:
    """The error for a link of somebody else that has the name of one of ours."""
    owner = f"alias {present.alias!r}" if present.alias else "no alias"
    said = f"{os.strerror(errno.EEXIST)}: a link of kind {present.kind or 'unknown'} with {owner}"
    return OSError(errno.EEXIST, said, f"create link {present.name}")


def new_link(tried: str, index: int, *attributes: bytes) -> Request:
    return Request(tried, netlink.RTM_NEWLINK, _CREATE, IFINFO.pack(0, 0, index, 0, 0) + b"".join(attributes))


def set_link(tried: str, index: int, *attributes: bytes) -> Request:
    return Request(tried, netlink.RTM_NEWLINK, 0, IFINFO.pack(0, 0, index, 0, 0) + b"".join(attributes))


def set_up(index: int, name: str, up: bool = True) -> Request:
    body = IFINFO.pack(0, 0, index, IFF_UP if up else 0, IFF_UP)
    return Request(f"set {name} {'up' if up else 'down'}", netlink.RTM_NEWLINK, 0, body)


def delete_link(index: int, name: str) -> Request:
    return Request(f"remove link {name}", netlink.RTM_DELLINK, 0, IFINFO.pack(0, 0, index, 0, 0), _GONE)


def mac_attribute(mac: str) -> bytes:
    return attribute(observe.IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))


def _property(kind: int, flags: int, tried: str, index: int, name: str, accept: tuple[int, ...]) -> Request:
    body = IFINFO.pack(0, 0, index, 0, 0) + nest(
        observe.IFLA_PROP_LIST, attribute(observe.IFLA_ALT_IFNAME, name)
    )
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
        mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))
        spec = nest(IFLA_AF_SPEC, nest(socket.AF_INET6, mode))
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
    body = IFADDR.pack(family, prefix, flags, 0, index) + attribute(observe.IFA_LOCAL, address)
    return body + attribute(observe.IFA_ADDRESS, address), address


def add_address(index: int, link: str, text: str, protocol: int = 0) -> Request:
    """Without duplicate address detection (RFC 4862, 5.4), so that it is usable at once.

    `protocol` is what the observation sees as the origin of the address.
    """
    body, address = _address(index, text, _IFA_F_NODAD if ":" in text else 0)
    if len(address) == 4 and (prefix := int(text.partition("/")[2] or 32)) < 31:
        hosts = (1 << (32 - prefix)) - 1
        body += attribute(_IFA_BROADCAST, pack(">I", int.from_bytes(address, "big") | hosts))
    if protocol:
        body += attribute(observe.IFA_PROTO, bytes([protocol]))
    return Request(f"add address {text} to {link}", netlink.RTM_NEWADDR, _REPLACE, body)


def remove_address(index: int, link: str, text: str, _protocol: int = 0) -> Request:
    body, _ = _address(index, text, 0)
    tried = f"remove address {text} of {link}"
    return Request(tried, netlink.RTM_DELADDR, 0, body, (errno.EADDRNOTAVAIL,))


def _route(index: int, route: Route, flags: int = 0) -> bytes:
    family = FAMILIES[route.family]
    prefix = int(route.to.partition("/")[2]) if route.to != "default" else 0
    scope = 0 if route.via or route.family == 6 else _SCOPE_LINK
    body = RTM.pack(
        family, prefix, 0, 0, observe.RT_TABLE_MAIN, _RTPROT_STATIC, scope, observe.RTN_UNICAST, flags
    )
    if prefix:
        body += attribute(observe.RTA_DST, packed(route.to))
    if route.via:
        body += attribute(observe.RTA_GATEWAY, packed(route.via))
    return body + attribute(observe.RTA_OIF, index)


def add_route(index: int, link: str, route: Route, addresses: Collection[str]) -> Request:
    """`addresses` are those of the link; the next hop may be outside of their subnets."""
    far = route.via and not any(
        ipaddress.ip_address(route.via) in ipaddress.ip_interface(address).network for address in addresses
    )
    body = _route(index, route, _RTNH_F_ONLINK if far else 0)
    # Not NLM_F_REPLACE: that would also replace a route to the same subnet on another link.
    flags = netlink.NLM_F_CREATE | (_NLM_F_APPEND if route.family == 4 else 0)
    via = f" via {route.via}" if route.via else ""
    tried = f"add route to {route.to}{via} on {link}"
    return Request(tried, netlink.RTM_NEWROUTE, flags, body, (errno.EEXIST,))


def remove_route(index: int, link: str, route: Route) -> Request:
    tried = f"remove route to {route.to} on {link}"
    return Request(tried, netlink.RTM_DELROUTE, 0, _unscoped(_route(index, route)), (errno.ESRCH,))


def _unscoped(body: bytes) -> bytes:
    """A route as RTM_DELROUTE finds it: of any protocol and scope (RT_SCOPE_NOWHERE)."""
    family, prefix, source, tos, table, _, _, kind, _ = RTM.unpack_from(body)
    return RTM.pack(family, prefix, source, tos, table, 0, 255, kind, 0) + body[RTM.size :]


def _proxy(index: int, text: str) -> bytes:
    address = packed(text)
    family = socket.AF_INET6 if len(address) == 16 else socket.AF_INET
    body = NDM.pack(family, index, 0, observe.NTF_PROXY, 0)
    return body + attribute(observe.NDA_DST, address)


def add_proxy(index: int, link: str, text: str) -> Request:
    tried = f"answer for {text} on {link}"
    return Request(tried, netlink.RTM_NEWNEIGH, _REPLACE, _proxy(index, text))


def delete_proxy(index: int, link: str, text: str) -> Request:
    tried = f"no longer answer for {text} on {link}"
    return Request(tried, netlink.RTM_DELNEIGH, 0, _proxy(index, text), (errno.ENOENT,))
