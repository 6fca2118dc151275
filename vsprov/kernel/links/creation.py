"""What creates an interface of a server, and the requests that creating and changing one have in common."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from struct import pack

from msgspec import Struct

from vsprov.kernel.links import read, requests
from vsprov.kernel.links import rtnetlink as rt
from vsprov.kernel.links.netlink import Request, Socket, attribute, nest
from vsprov.kernel.links.traffic import pools, rates
from vsprov.plan.network.rates import shaper
from vsprov.plan.network.state import Interface, Route

_VETH_INFO_PEER = 1
_IFLA_NET_NS_PID = 19
_ATTEMPTS = 5


class Indexes(Struct, frozen=True):
    """Those of the links of an interface: host's end, its shaper, the link in the server."""

    outer: int
    shaper: int
    inner: int


def create(on: Socket, inner: Socket, pid: int, wanted: Interface) -> Indexes:
    """Create the links of an interface, configured but for what is in the server; none is left on failure."""
    # Linux 6.1 (but not 6.18) refuses a macvlan or ipvlan with EEXIST if there is a link of its
    # index where the request is made, though it is created elsewhere.
    where = (inner,) if wanted.kind == "veth" else (inner, on)
    for _ in range(_ATTEMPTS):
        indexes = Indexes(requests.free_index(on), requests.free_index(on), _first_free_index(*where))
        todo = list(_creation(on, pid, wanted, indexes))
        try:
            on.change(todo)
        except OSError as error:
            if error.filename != todo[0].tried:
                remove(on, inner, indexes)
            created = str(error.filename).startswith("create ")
            if error.errno == errno.EEXIST and created:
                _make_room(on, inner, wanted)
            elif error.errno != errno.EBUSY or not created:  # EBUSY: another link has got the index
                raise
        else:
            return indexes
    raise OSError(
        errno.EEXIST, "its name was taken again and again", f"create link {wanted.link or wanted.name}"
    )


def _first_free_index(*where: Socket) -> int:
    index = 2  # lo is 1
    while any(each.has_index(index) for each in where):
        index += 1
    return index


def _make_room(on: Socket, inner: Socket, wanted: Interface) -> None:
    """Remove what is left of an earlier interface; OSError, EEXIST, if the name belongs to another link."""
    names = [wanted.link, *([shaper(wanted.link)] if wanted.is_shaped else [])] if wanted.link else []
    for present in [read.link(on, name) for name in names]:
        if present is not None and present.alias != wanted.alias:
            raise requests.taken(present)
        if present is not None:
            on.change([requests.delete_link(present.index, present.name)])
    present = read.link(inner, wanted.name)
    if present is not None:
        said = f"{os.strerror(errno.EEXIST)}: the server has made a link of this name"
        raise OSError(errno.EEXIST, said, f"create link {wanted.name}")


def remove(on: Socket, inner: Socket, indexes: Indexes) -> None:
    """Remove the links of an interface, wherever they are; nothing if they have gone."""
    for where, index in ((on, indexes.outer), (on, indexes.shaper), (inner, indexes.inner)):
        where.change([requests.delete_link(index, f"with index {index}")])


def _creation(on: Socket, pid: int, wanted: Interface, indexes: Indexes) -> Iterator[Request]:
    if wanted.kind == "veth":
        yield from _new_veth(on, pid, wanted, indexes)
    else:
        yield _new_on_parent(on, pid, wanted, indexes.inner)


def _new_veth(on: Socket, pid: int, wanted: Interface, indexes: Indexes) -> Iterator[Request]:
    name, index = wanted.link, indexes.outer
    peer = rt.IFINFO.pack(0, 0, indexes.inner, 0, 0) + attribute(rt.IFLA_IFNAME, wanted.name)
    peer += requests.mac_attribute(wanted.mac) + attribute(rt.IFLA_MTU, wanted.mtu)
    data = nest(rt.IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, peer + attribute(_IFLA_NET_NS_PID, pid)))
    link = [attribute(rt.IFLA_IFNAME, name), attribute(rt.IFLA_MTU, wanted.mtu)]
    if wanted.parent:
        link.append(attribute(rt.IFLA_MASTER, on.index(wanted.parent)))
    info = nest(rt.IFLA_LINKINFO, attribute(rt.IFLA_INFO_KIND, "veth"), data)
    yield requests.new_link(f"create link {name}", index, *link, info)
    yield requests.set_link(f"set the alias of {name}", index, attribute(rt.IFLA_IFALIAS, wanted.alias))
    yield from requests.without_link_local(index, name)
    if wanted.link_altname:
        yield requests.add_altname(index, name, wanted.link_altname)
    if wanted.parent and (wanted.port_isolated or wanted.hairpin):
        yield set_port(index, wanted)
    if wanted.ingress:
        yield rates.limit(index, name, wanted.ingress, wanted.mtu)
    yield from redirections(on, indexes, wanted)
    for address in gateways(wanted):
        yield requests.add_address(index, name, address)
    if wanted.link_up:
        yield requests.set_up(index, name)
        yield from host_routes(on, index, wanted)


def set_port(index: int, wanted: Interface) -> Request:
    flags = attribute(rt.IFLA_BRPORT_ISOLATED, bytes([wanted.port_isolated]))
    flags += attribute(rt.IFLA_BRPORT_MODE, bytes([wanted.hairpin]))
    kind = attribute(rt.IFLA_INFO_SLAVE_KIND, "bridge")
    info = nest(rt.IFLA_LINKINFO, kind, nest(rt.IFLA_INFO_SLAVE_DATA, flags))
    return requests.set_link(f"set what the bridge forwards to {wanted.link}", index, info)


def redirections(on: Socket, indexes: Indexes, wanted: Interface) -> Iterator[Request]:
    """Limit what the server sends and receives by intermediate devices: its own, or those of its pool."""
    if wanted.is_shaped:
        yield from _new_shaper(indexes, wanted)
    pooled = wanted.egress_pool or wanted.ingress_pool
    if not (wanted.is_shaped or pooled):
        return
    index, name = indexes.outer, wanted.link
    yield rates.stop_redirect(index, name)
    yield rates.hook(index, name, "clsact" if pooled else "ingress")
    if wanted.is_shaped:
        yield rates.redirect(index, name, rates.ARRIVING, indexes.shaper)
    for pool, place, ceil in (
        (wanted.egress_pool, rates.ARRIVING, wanted.egress),
        (wanted.ingress_pool, rates.LEAVING, None),  # the queue of the link itself limits what leaves it
    ):
        if pool:
            target = on.index(pool)
            yield from pools.join(target, pool, name, wanted.share, ceil)
            yield rates.redirect(index, name, place, target)


def _new_shaper(indexes: Indexes, wanted: Interface) -> Iterator[Request]:
    """A new intermediate device that limits what is redirected to it to what the server may send."""
    assert wanted.egress
    name = shaper(wanted.link)
    info = nest(rt.IFLA_LINKINFO, attribute(rt.IFLA_INFO_KIND, "ifb"))
    named = [attribute(rt.IFLA_IFNAME, name), attribute(rt.IFLA_MTU, wanted.mtu)]
    yield requests.new_link(f"create link {name}", indexes.shaper, *named, info)
    alias = attribute(rt.IFLA_IFALIAS, wanted.alias)
    yield requests.set_link(f"set the alias of {name}", indexes.shaper, alias)
    yield from requests.without_link_local(indexes.shaper, name)
    yield rates.limit(indexes.shaper, name, wanted.egress, wanted.mtu)
    yield requests.set_up(indexes.shaper, name)


def gateways(wanted: Interface) -> list[str]:
    """On a routed network the host's end has the addresses of the server's next hops."""
    if wanted.parent:
        return []
    hops = {route.via for route in wanted.routes if route.to == "default" and route.via}
    return requests.in_order(f"{via}/{128 if ':' in via else 32}" for via in hops)


def host_routes(on: Socket, index: int, wanted: Interface) -> Iterator[Request]:
    uplink = on.index(wanted.proxy) if wanted.proxy and wanted.host_routes else 0
    for to in requests.in_order(wanted.host_routes):
        route = Route(to, "", 6 if ":" in to else 4)
        yield requests.add_route(index, wanted.link, route, ())
        if uplink:
            yield requests.add_proxy(uplink, wanted.proxy, to)


def without_proxies(on: Socket, interface: Interface) -> Iterator[Request]:
    try:
        uplink = on.index(interface.proxy) if interface.proxy else 0
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return
    if uplink:
        for to in requests.in_order(interface.host_routes):
            yield requests.delete_proxy(uplink, interface.proxy, to)


def _new_on_parent(on: Socket, pid: int, wanted: Interface, index: int) -> Request:
    """A macvlan or ipvlan, created in the namespace of the server on a link of the host."""
    mode = next((number for number, name in rt.MODES[wanted.kind].items() if name == wanted.mode), None)
    if mode is None:
        said = f"{os.strerror(errno.EINVAL)}: {wanted.kind} has no mode {wanted.mode}"
        raise OSError(errno.EINVAL, said, f"create link {wanted.name}")
    value = attribute(1, pack("=I" if wanted.kind == "macvlan" else "=H", mode))
    kind = attribute(rt.IFLA_INFO_KIND, wanted.kind)
    link = [
        attribute(rt.IFLA_IFNAME, wanted.name),
        attribute(rt.IFLA_LINK, on.index(wanted.parent)),
        attribute(rt.IFLA_MTU, wanted.mtu),
        attribute(_IFLA_NET_NS_PID, pid),
        nest(rt.IFLA_LINKINFO, kind, nest(rt.IFLA_INFO_DATA, value)),
    ]
    if wanted.mac:
        link.append(requests.mac_attribute(wanted.mac))
    return requests.new_link(f"create {wanted.kind} {wanted.name} on {wanted.parent}", index, *link)


def inner_settings(index: int, wanted: Interface) -> Iterator[Request]:
    """What a new link in a server lacks."""
    name = wanted.name
    if wanted.altname:
        yield requests.add_altname(index, name, wanted.altname)
    if wanted.kind != "veth":
        yield requests.set_link(f"set the alias of {name}", index, attribute(rt.IFLA_IFALIAS, wanted.alias))
    if wanted.up:
        yield requests.set_up(index, name)
    yield from addressing(index, wanted)


def addressing(index: int, wanted: Interface) -> Iterator[Request]:
    for address in requests.in_order(wanted.addresses):
        yield requests.add_address(index, wanted.name, address)
    if wanted.up:
        # Those to a next hop last: another route may lead to it.
        for route in sorted(
            wanted.routes, key=lambda route: (route.via != "", route.to == "default", route.to)
        ):
            yield requests.add_route(index, wanted.name, route, wanted.addresses)
