"""Interfaces of servers, with their ends on the host.

`pid` is a process in the server, which may still wait at its gate. The calling thread is in the network
namespace of the host.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from msgspec.structs import replace

from vsprov.kernel.links import creation, host, netlink, read, requests
from vsprov.kernel.links import rtnetlink as rt
from vsprov.kernel.links.netlink import Request, Socket, attribute
from vsprov.kernel.links.read import Link
from vsprov.kernel.links.traffic import rates
from vsprov.plan.network.rates import shaper
from vsprov.plan.network.state import Interface, Route

_MANY = read.LIMIT // 4  # addresses or routes


def make_interface(pid: int, wanted: Interface) -> None:
    """Create an interface of a server, complete: link, names, addresses, routes, rates, and up.

    A link with the wanted name and alias, which belongs to a namespace that ends, is removed first. If
    anything fails, nothing is left. OSError: EEXIST if a link of others has the name, ESRCH if there is no
    such process.
    """
    _check(wanted)
    with _open_inside(pid) as inner, Socket() as on:
        indexes = creation.create(on, inner, pid, wanted)
        try:
            _configure(inner, pid, indexes.inner, wanted, creation.inner_settings(indexes.inner, wanted))
            _settle(on, inner, wanted)
        except OSError:
            creation.remove(on, inner, indexes)
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
            outer = read.link(on, wanted.link)
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
            on.change(list(creation.without_proxies(on, interface)))
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
        inner.change([requests.delete_link(index, interface.name)])


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
    ipv6 = requests.has_ipv6()
    with netlink.inside(pid):
        if ipv6:
            # Nor has the link-local address of the kernel, which neighbor discovery needs.
            _write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")
        return Socket(pid, is_inside=True)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _index_of(inner: Socket, name: str) -> int:
    """The index of a link in a server. A name with bytes that are not UTF-8 is given as it is observed."""
    found = next((link.index for link in read.links(inner, read.LIMIT) if link.name == name), None)
    if found is None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), f"link {name} in the server")
    return found


def _configure(inner: Socket, pid: int, index: int, wanted: Interface, settings: Iterator[Request]) -> None:
    """Carry out the requests, and once more with IPv6 enabled, if the server had disabled it."""
    todo = list(settings)
    try:
        inner.change(todo)
    except OSError as error:
        if error.errno != errno.EACCES or not any(":" in address for address in wanted.addresses):
            raise
        with netlink.inside(pid):
            for name in ("all", "default", wanted.name):
                _write(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "0")
        inner.change(list(creation.addressing(index, wanted)))


def _outer_differences(on: Socket, outer: Link, wanted: Interface, before: Interface) -> Iterator[Request]:
    index, name = outer.index, wanted.link
    if wanted.alias != before.alias:
        yield requests.set_link(f"set the alias of {name}", index, attribute(rt.IFLA_IFALIAS, wanted.alias))
    yield from _renamed(index, name, outer.altnames, wanted.link_altname)
    if wanted.mtu != outer.mtu:
        mtu = attribute(rt.IFLA_MTU, wanted.mtu)
        yield requests.set_link(f"set the MTU of {name} to {wanted.mtu}", index, mtu)
    if wanted.parent != before.parent:
        parent = attribute(rt.IFLA_MASTER, on.index(wanted.parent) if wanted.parent else 0)
        yield requests.set_link(f"connect {name} to {wanted.parent or 'no bridge'}", index, parent)
    port = (wanted.parent, wanted.port_isolated, wanted.hairpin)
    if wanted.parent and port != (before.parent, before.port_isolated, before.hairpin):
        yield creation.set_port(index, wanted)
    if wanted.parent and before.settings:
        yield host.restore_port(index, name, before.settings)
    if wanted.ingress and wanted.ingress != before.ingress:
        yield rates.limit(index, name, wanted.ingress, wanted.mtu)
    if not wanted.ingress and before.ingress:
        yield rates.unlimit(index, name)
    if wanted.link_up != outer.up:
        yield requests.set_up(index, name, wanted.link_up)
    for address in creation.gateways(wanted):
        yield requests.add_address(index, name, address)
    for to in requests.in_order(before.host_routes - wanted.host_routes):
        yield requests.remove_route(index, name, Route(to, "", 6 if ":" in to else 4))
    former = replace(before, host_routes=before.host_routes - wanted.host_routes)
    yield from creation.without_proxies(on, former)
    if before.proxy != wanted.proxy:
        yield from creation.without_proxies(on, before)
    if wanted.link_up:
        yield from creation.host_routes(on, index, wanted)


def _renamed(index: int, name: str, present: frozenset[str], wanted: str) -> Iterator[Request]:
    """Leave a link with no other alternative name than the wanted one."""
    for other in sorted(present - {wanted}):
        yield requests.remove_altname(index, name, other)
    if wanted and wanted not in present:
        yield requests.add_altname(index, name, wanted)


def _change_egress(on: Socket, outer: Link, wanted: Interface, before: Interface) -> None:
    """Limit what the server sends as wanted, and what it receives together with others of its pool."""
    shares = [(each.egress_pool, each.ingress_pool, each.share) for each in (wanted, before)]
    pooled = any(pool for each in (wanted, before) for pool in (each.egress_pool, each.ingress_pool))
    if wanted.egress == before.egress and shares[0] == shares[1]:
        return
    name = shaper(outer.name)
    present = read.link(on, name)
    if present is not None and present.alias not in (wanted.alias, before.alias):
        raise requests.taken(present)
    if wanted.egress and before.egress and present is not None and not pooled:
        on.change([rates.limit(present.index, name, wanted.egress, wanted.mtu)])
        return
    if present is not None or pooled:
        on.change([rates.stop_redirect(outer.index, outer.name)])
    if present is not None:
        on.change([requests.delete_link(present.index, name)])
    indexes = creation.Indexes(outer.index, requests.free_index(on), outer.peer)
    on.change(list(creation.redirections(on, indexes, wanted)))


def _rename(inner: Socket, index: int, wanted: Interface, before: Interface) -> None:
    """Give a link in a server its name; before Linux 6.2 it has to be down for that."""
    if wanted.name == before.name:
        return
    name = attribute(rt.IFLA_IFNAME, wanted.name)
    request = requests.set_link(f"rename {before.name} to {wanted.name}", index, name)
    try:
        inner.change([request])
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        inner.change([requests.set_up(index, before.name, False)])
        inner.change([request])
        if wanted.up:
            inner.change([requests.set_up(index, wanted.name)])


def _inner_differences(inner: Socket, index: int, wanted: Interface, before: Interface) -> Iterator[Request]:
    name = wanted.name
    present = read.link(inner, name)
    if present is not None:
        yield from _renamed(index, name, present.altnames, wanted.altname)
    if wanted.kind != "veth" and wanted.alias != before.alias:
        yield requests.set_link(f"set the alias of {name}", index, attribute(rt.IFLA_IFALIAS, wanted.alias))
    if wanted.mac and wanted.mac != before.mac:
        mac = requests.mac_attribute(wanted.mac)
        yield requests.set_link(f"set the MAC address of {name} to {wanted.mac}", index, mac)
    if wanted.mtu != before.mtu:
        mtu = attribute(rt.IFLA_MTU, wanted.mtu)
        yield requests.set_link(f"set the MTU of {name} to {wanted.mtu}", index, mtu)
    if wanted.up != before.up:
        yield requests.set_up(index, name, wanted.up)
    for route in sorted(before.routes - wanted.routes, key=lambda route: route.to):
        yield requests.remove_route(index, name, route)
    # One without its route is not in `before`.
    for address in requests.in_order(before.addresses ^ wanted.addresses):
        yield requests.remove_address(index, name, address)
    # All of them: IPv4 addresses go with the first one of their subnet, IPv6 ones when the link is set down.
    yield from creation.addressing(index, wanted)
