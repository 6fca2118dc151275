"""Interfaces of servers, with their ends on the host.

`pid` is a process in the server, which may still wait at its gate. The calling thread is in the network
namespace of the host.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from struct import pack

from vsprov.kernel.links import host, netlink, observe, pools, rates
from vsprov.kernel.links.netlink import Request, Socket, attribute, nest
from vsprov.kernel.links.observe import IFINFO, Link
from vsprov.plan.network.rates import shaper
from vsprov.plan.network.state import Interface, Route

_IFLA_NET_NS_PID = 19
_VETH_INFO_PEER = 1
_ATTEMPTS = 5
_MANY = observe.LIMIT // 4  # addresses or routes


@dataclass(frozen=True, slots=True)
class _Indexes:
    """Those of the links of an interface: host's end, its shaper, the link in the server."""

    outer: int
    shaper: int
    inner: int


def make_interface(pid: int, wanted: Interface) -> None:
    """Create an interface of a server, complete: link, names, addresses, routes, rates, and up.

    A link with the wanted name and alias, which belongs to a namespace that ends, is removed first. If
    anything fails, nothing is left. OSError: EEXIST if a link of others has the name, ESRCH if there is no
    such process.
    """
    _check(wanted)
    with _open_inside(pid) as inner, Socket() as on:
        indexes = _create(on, inner, pid, wanted)
        try:
            _configure(inner, pid, indexes.inner, wanted, _inner_settings(indexes.inner, wanted))
            _settle(on, inner, wanted)
        except OSError:
            _remove(on, inner, indexes)
            raise


def change_interface(pid: int, wanted: Interface, before: Interface) -> None:
    """Make an interface what `wanted` says; `before` is what it is.

    OSError: ENODEV if it has gone meanwhile, ESRCH if there is no such process.
    """
    if _identity(wanted) != _identity(before) or _is_overgrown(before):
        remove_interface(pid, before)
        make_interface(pid, wanted)
        return
    _check(wanted)
    with _open_inside(pid) as inner, Socket() as on:
        if wanted.kind == "veth":
            outer = observe.link(on, wanted.link)
            if outer is None:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), f"link {wanted.link}")
            on.change(list(_outer_differences(on, outer, wanted, before)))
            _change_egress(on, outer, wanted, before)
            index = outer.peer
        else:
            index = _index_of(inner, before.name)
        _rename(inner, index, wanted, before)
        _configure(inner, pid, index, wanted, _inner_differences(inner, index, wanted, before))
        _settle(on, inner, wanted)


def _settle(on: Socket, inner: Socket, wanted: Interface) -> None:
    if wanted.up and wanted.link_up:
        if wanted.link:
            on.settle(wanted.link)
        inner.settle(wanted.name)


def remove_interface(pid: int, interface: Interface) -> None:
    """Remove an interface and what belongs to it on the host; nothing if it or the process has gone."""
    with Socket() as on:
        if interface.link:
            host.remove_ours(on, interface.link, interface.alias)
            host.remove_ours(on, shaper(interface.link), interface.alias)
            on.change(list(_without_proxies(on, interface)))
            return
    try:
        inner = _open_inside(pid)
    except ProcessLookupError:
        return
    with inner:
        try:
            index = _index_of(inner, interface.name)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            raise
        inner.change([host.delete_link(index, interface.name)])


def _is_overgrown(interface: Interface) -> bool:
    """Whether it may have more than was observed, all of which goes with the link."""
    return max(len(interface.addresses), len(interface.routes)) >= _MANY


def _identity(interface: Interface) -> tuple[str, ...]:
    """What cannot be changed about an existing interface."""
    fixed = (interface.kind, interface.link)
    return fixed if interface.kind == "veth" else (*fixed, interface.parent, interface.mode)


def _check(wanted: Interface) -> None:
    if wanted.kind != "veth" and (wanted.egress or wanted.ingress):
        said = f"{os.strerror(errno.EOPNOTSUPP)}: an interface of kind {wanted.kind} has no end on the host"
        raise OSError(errno.EOPNOTSUPP, said, f"limit {wanted.name}")


def _open_inside(pid: int) -> Socket:
    """A socket in the namespace of a server, where new links have no duplicate address detection."""
    if host.has_ipv6():
        with netlink.inside(pid):
            # Nor has the link-local address of the kernel, which neighbor discovery needs.
            _write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")
    return Socket(pid)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _index_of(inner: Socket, name: str) -> int:
    """The index of a link in a server. A name with bytes that are not UTF-8 is given as it is observed."""
    found = next((link.index for link in observe.links(inner, observe.LIMIT) if link.name == name), None)
    if found is None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), f"link {name} in the server")
    return found


# -- creation


def _create(on: Socket, inner: Socket, pid: int, wanted: Interface) -> _Indexes:
    for _ in range(_ATTEMPTS):
        indexes = _Indexes(host.free_index(on), host.free_index(on), _free_inner_index(inner))
        requests = list(_creation(on, pid, wanted, indexes))
        try:
            on.change(requests)
        except OSError as error:
            if error.filename != requests[0].tried:
                _remove(on, inner, indexes)
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


def _free_inner_index(inner: Socket) -> int:
    index = 2  # lo is 1
    while inner.has_index(index):
        index += 1
    return index


def _make_room(on: Socket, inner: Socket, wanted: Interface) -> None:
    """Remove what is left of an earlier interface; OSError, EEXIST, if the name belongs to another link."""
    names = [wanted.link, *([shaper(wanted.link)] if wanted.is_shaped else [])] if wanted.link else []
    for present in [observe.link(on, name) for name in names]:
        if present is not None and present.alias != wanted.alias:
            raise host.taken(present)
        if present is not None:
            on.change([host.delete_link(present.index, present.name)])
    present = observe.link(inner, wanted.name)
    if present is not None:
        said = f"{os.strerror(errno.EEXIST)}: the server has made a link of this name"
        raise OSError(errno.EEXIST, said, f"create link {wanted.name}")


def _remove(on: Socket, inner: Socket, indexes: _Indexes) -> None:
    for where, index in ((on, indexes.outer), (on, indexes.shaper), (inner, indexes.inner)):
        where.change([host.delete_link(index, f"with index {index}")])


def _creation(on: Socket, pid: int, wanted: Interface, indexes: _Indexes) -> Iterator[Request]:
    if wanted.kind == "veth":
        yield from _new_veth(on, pid, wanted, indexes)
    else:
        yield _new_on_parent(on, pid, wanted, indexes.inner)


def _new_veth(on: Socket, pid: int, wanted: Interface, indexes: _Indexes) -> Iterator[Request]:
    name, index = wanted.link, indexes.outer
    peer = IFINFO.pack(0, 0, indexes.inner, 0, 0) + attribute(observe.IFLA_IFNAME, wanted.name)
    peer += host.mac_attribute(wanted.mac) + attribute(observe.IFLA_MTU, wanted.mtu)
    data = nest(observe.IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, peer + attribute(_IFLA_NET_NS_PID, pid)))
    link = [attribute(observe.IFLA_IFNAME, name), attribute(observe.IFLA_MTU, wanted.mtu)]
    if wanted.parent:
        link.append(attribute(observe.IFLA_MASTER, on.index(wanted.parent)))
    info = nest(observe.IFLA_LINKINFO, attribute(observe.IFLA_INFO_KIND, "veth"), data)
    yield host.new_link(f"create link {name}", index, *link, info)
    yield host.set_link(f"set the alias of {name}", index, attribute(observe.IFLA_IFALIAS, wanted.alias))
    yield from host.without_link_local(index, name)
    if wanted.link_altname:
        yield host.add_altname(index, name, wanted.link_altname)
    if wanted.parent and (wanted.port_isolated or wanted.hairpin):
        yield _set_port(index, wanted)
    if wanted.ingress:
        yield rates.limit(index, name, wanted.ingress, wanted.mtu)
    yield from _redirections(on, indexes, wanted)
    for address in _gateways(wanted):
        yield host.add_address(index, name, address)
    if wanted.link_up:
        yield host.set_up(index, name)
        yield from _host_routes(on, index, wanted)


def _set_port(index: int, wanted: Interface) -> Request:
    flags = attribute(observe.IFLA_BRPORT_ISOLATED, bytes([wanted.port_isolated]))
    flags += attribute(observe.IFLA_BRPORT_MODE, bytes([wanted.hairpin]))
    kind = attribute(observe.IFLA_INFO_SLAVE_KIND, "bridge")
    info = nest(observe.IFLA_LINKINFO, kind, nest(observe.IFLA_INFO_SLAVE_DATA, flags))
    return host.set_link(f"set what the bridge forwards to {wanted.link}", index, info)


def _redirections(on: Socket, indexes: _Indexes, wanted: Interface) -> Iterator[Request]:
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


def _new_shaper(indexes: _Indexes, wanted: Interface) -> Iterator[Request]:
    """A new intermediate device that limits what is redirected to it to what the server may send."""
    assert wanted.egress
    name = shaper(wanted.link)
    info = nest(observe.IFLA_LINKINFO, attribute(observe.IFLA_INFO_KIND, "ifb"))
    named = [attribute(observe.IFLA_IFNAME, name), attribute(observe.IFLA_MTU, wanted.mtu)]
    yield host.new_link(f"create link {name}", indexes.shaper, *named, info)
    alias = attribute(observe.IFLA_IFALIAS, wanted.alias)
    yield host.set_link(f"set the alias of {name}", indexes.shaper, alias)
    yield from host.without_link_local(indexes.shaper, name)
    yield rates.limit(indexes.shaper, name, wanted.egress, wanted.mtu)
    yield host.set_up(indexes.shaper, name)


def _gateways(wanted: Interface) -> list[str]:
    """On a routed network the host's end has the addresses of the server's next hops."""
    if wanted.parent:
        return []
    hops = {route.via for route in wanted.routes if route.to == "default" and route.via}
    return host.in_order(f"{via}/{128 if ':' in via else 32}" for via in hops)


def _host_routes(on: Socket, index: int, wanted: Interface) -> Iterator[Request]:
    uplink = on.index(wanted.proxy) if wanted.proxy and wanted.host_routes else 0
    for to in host.in_order(wanted.host_routes):
        route = Route(to, "", 6 if ":" in to else 4)
        yield host.add_route(index, wanted.link, route, ())
        if uplink:
            yield host.add_proxy(uplink, wanted.proxy, to)


def _without_proxies(on: Socket, interface: Interface) -> Iterator[Request]:
    try:
        uplink = on.index(interface.proxy) if interface.proxy else 0
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return
    if uplink:
        for to in host.in_order(interface.host_routes):
            yield host.delete_proxy(uplink, interface.proxy, to)


def _new_on_parent(on: Socket, pid: int, wanted: Interface, index: int) -> Request:
    """A macvlan or ipvlan, created in the namespace of the server on a link of the host."""
    mode = next((number for number, name in observe.MODES[wanted.kind].items() if name == wanted.mode), None)
    if mode is None:
        said = f"{os.strerror(errno.EINVAL)}: {wanted.kind} has no mode {wanted.mode}"
        raise OSError(errno.EINVAL, said, f"create link {wanted.name}")
    value = attribute(1, pack("=I" if wanted.kind == "macvlan" else "=H", mode))
    kind = attribute(observe.IFLA_INFO_KIND, wanted.kind)
    link = [
        attribute(observe.IFLA_IFNAME, wanted.name),
        attribute(observe.IFLA_LINK, on.index(wanted.parent)),
        attribute(observe.IFLA_MTU, wanted.mtu),
        attribute(_IFLA_NET_NS_PID, pid),
        nest(observe.IFLA_LINKINFO, kind, nest(observe.IFLA_INFO_DATA, value)),
    ]
    if wanted.mac:
        link.append(host.mac_attribute(wanted.mac))
    return host.new_link(f"create {wanted.kind} {wanted.name} on {wanted.parent}", index, *link)


def _inner_settings(index: int, wanted: Interface) -> Iterator[Request]:
    """What a new link in a server lacks."""
    name = wanted.name
    if wanted.altname:
        yield host.add_altname(index, name, wanted.altname)
    if wanted.kind != "veth":
        yield host.set_link(f"set the alias of {name}", index, attribute(observe.IFLA_IFALIAS, wanted.alias))
    if wanted.up:
        yield host.set_up(index, name)
    yield from _addressing(index, wanted)


def _addressing(index: int, wanted: Interface) -> Iterator[Request]:
    for address in host.in_order(wanted.addresses):
        yield host.add_address(index, wanted.name, address)
    if wanted.up:
        # Those to a next hop last: another route may lead to it.
        for route in sorted(
            wanted.routes, key=lambda route: (route.via != "", route.to == "default", route.to)
        ):
            yield host.add_route(index, wanted.name, route, wanted.addresses)


def _configure(inner: Socket, pid: int, index: int, wanted: Interface, requests: Iterator[Request]) -> None:
    """Carry out the requests, and once more with IPv6 enabled, if the server had disabled it."""
    todo = list(requests)
    try:
        inner.change(todo)
    except OSError as error:
        if error.errno != errno.EACCES or not any(":" in address for address in wanted.addresses):
            raise
        with netlink.inside(pid):
            for name in ("all", "default", wanted.name):
                _write(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "0")
        inner.change(list(_addressing(index, wanted)))


# -- changes


def _outer_differences(on: Socket, outer: Link, wanted: Interface, before: Interface) -> Iterator[Request]:
    index, name = outer.index, wanted.link
    if wanted.alias != before.alias:
        yield host.set_link(f"set the alias of {name}", index, attribute(observe.IFLA_IFALIAS, wanted.alias))
    yield from _renamed(index, name, outer.altnames, wanted.link_altname)
    if wanted.mtu != outer.mtu:
        mtu = attribute(observe.IFLA_MTU, wanted.mtu)
        yield host.set_link(f"set the MTU of {name} to {wanted.mtu}", index, mtu)
    if wanted.parent != before.parent:
        parent = attribute(observe.IFLA_MASTER, on.index(wanted.parent) if wanted.parent else 0)
        yield host.set_link(f"connect {name} to {wanted.parent or 'no bridge'}", index, parent)
    port = (wanted.parent, wanted.port_isolated, wanted.hairpin)
    if wanted.parent and port != (before.parent, before.port_isolated, before.hairpin):
        yield _set_port(index, wanted)
    if wanted.ingress and wanted.ingress != before.ingress:
        yield rates.limit(index, name, wanted.ingress, wanted.mtu)
    if not wanted.ingress and before.ingress:
        yield rates.unlimit(index, name)
    if wanted.link_up != outer.up:
        yield host.set_up(index, name, wanted.link_up)
    for address in _gateways(wanted):
        yield host.add_address(index, name, address)
    for to in host.in_order(before.host_routes - wanted.host_routes):
        yield host.remove_route(index, name, Route(to, "", 6 if ":" in to else 4))
    yield from _without_proxies(on, replace(before, host_routes=before.host_routes - wanted.host_routes))
    if before.proxy != wanted.proxy:
        yield from _without_proxies(on, before)
    if wanted.link_up:
        yield from _host_routes(on, index, wanted)


def _renamed(index: int, name: str, present: frozenset[str], wanted: str) -> Iterator[Request]:
    """Leave a link with no other alternative name than the wanted one."""
    for other in sorted(present - {wanted}):
        yield host.remove_altname(index, name, other)
    if wanted and wanted not in present:
        yield host.add_altname(index, name, wanted)


def _change_egress(on: Socket, outer: Link, wanted: Interface, before: Interface) -> None:
    """Limit what the server sends as wanted, and what it receives together with others of its pool."""
    shares = [(each.egress_pool, each.ingress_pool, each.share) for each in (wanted, before)]
    pooled = any(pool for each in (wanted, before) for pool in (each.egress_pool, each.ingress_pool))
    if wanted.egress == before.egress and shares[0] == shares[1]:
        return
    name = shaper(outer.name)
    present = observe.link(on, name)
    if present is not None and present.alias not in (wanted.alias, before.alias):
        raise host.taken(present)
    if wanted.egress and before.egress and present is not None and not pooled:
        on.change([rates.limit(present.index, name, wanted.egress, wanted.mtu)])
        return
    if present is not None or pooled:
        on.change([rates.stop_redirect(outer.index, outer.name)])
    if present is not None:
        on.change([host.delete_link(present.index, name)])
    indexes = _Indexes(outer.index, host.free_index(on), outer.peer)
    on.change(list(_redirections(on, indexes, wanted)))


def _rename(inner: Socket, index: int, wanted: Interface, before: Interface) -> None:
    """Give a link in a server its name; before Linux 6.2 it has to be down for that."""
    if wanted.name == before.name:
        return
    name = attribute(observe.IFLA_IFNAME, wanted.name)
    request = host.set_link(f"rename {before.name} to {wanted.name}", index, name)
    try:
        inner.change([request])
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        inner.change([host.set_up(index, before.name, False)])
        inner.change([request])
        if wanted.up:
            inner.change([host.set_up(index, wanted.name)])


def _inner_differences(inner: Socket, index: int, wanted: Interface, before: Interface) -> Iterator[Request]:
    name = wanted.name
    present = observe.link(inner, name)
    if present is not None:
        yield from _renamed(index, name, present.altnames, wanted.altname)
    if wanted.kind != "veth" and wanted.alias != before.alias:
        yield host.set_link(f"set the alias of {name}", index, attribute(observe.IFLA_IFALIAS, wanted.alias))
    if wanted.mac and wanted.mac != before.mac:
        mac = host.mac_attribute(wanted.mac)
        yield host.set_link(f"set the MAC address of {name} to {wanted.mac}", index, mac)
    if wanted.mtu != before.mtu:
        mtu = attribute(observe.IFLA_MTU, wanted.mtu)
        yield host.set_link(f"set the MTU of {name} to {wanted.mtu}", index, mtu)
    if wanted.up != before.up:
        yield host.set_up(index, name, wanted.up)
    for route in sorted(before.routes - wanted.routes, key=lambda route: route.to):
        yield host.remove_route(index, name, route)
    for address in host.in_order(
        before.addresses ^ wanted.addresses
    ):  # one without its route is not in `before`
        yield host.remove_address(index, name, address)
    # All of them: IPv4 addresses go with the first one of their subnet, IPv6 ones when the link is set down.
    yield from _addressing(index, wanted)
