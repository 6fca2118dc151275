"""Links of the host: bridges of networks, and what other links have in common with them.

Every function works in the network namespace of the calling thread, and may be repeated.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Collection, Iterable, Iterator

from vsprov.kernel import proc, syscall
from vsprov.kernel.links import netlink, observe, read, settings
from vsprov.kernel.links import rtnetlink as rt
from vsprov.kernel.links.netlink import Request, Socket, attribute, nest
from vsprov.kernel.links.requests import (
    add_address,
    add_altname,
    create_or_remove,
    delete_link,
    delete_proxy,
    free_index,
    has_ipv6,
    in_order,
    link_local,
    mac_attribute,
    new_link,
    remove_address,
    remove_altname,
    set_link,
    set_up,
    taken,
    without_link_local,
)
from vsprov.kernel.links.traffic import pools
from vsprov.plan.network.state import HostLink


def make_bridge(wanted: HostLink) -> None:
    """Create a bridge with its mark, MAC address, addresses and MTU, and bring it up.

    OSError, EEXIST, if a link has the name already; one with the wanted mark is made what is wanted.
    """
    with Socket() as on:
        present = read.link(on, wanted.name)
        if present is None:
            index = free_index(on)
            requests = [*_new_bridge(index, wanted), *_bridge_addresses(index, wanted)]
            create_or_remove(on, index, [*requests, set_up(index, wanted.name, wanted.up)])
            return
        if present.kind != "bridge" or present.alias != wanted.alias:
            raise taken(present)
    change_link(wanted, host_link(wanted.name))


def _new_bridge(index: int, wanted: HostLink) -> Iterator[Request]:
    options = nest(rt.IFLA_INFO_DATA, settings.restored(settings.BRIDGE, ["no_linklocal_learn"]))
    kind = nest(rt.IFLA_LINKINFO, attribute(rt.IFLA_INFO_KIND, "bridge"), options)
    mac = [mac_attribute(wanted.mac)] if wanted.mac else []
    named = attribute(rt.IFLA_IFNAME, wanted.name)
    yield new_link(f"create bridge {wanted.name}", index, named, kind, *mac)
    alias = attribute(rt.IFLA_IFALIAS, wanted.alias)
    # A bridge without ports takes no MTU above 1500 when it is created.
    # It follows the smallest MTU of its ports until it is set to another value than it has (br_change_mtu).
    yield set_link(f"set the alias of {wanted.name}", index, alias)
    for mtu in (1280 if wanted.mtu != 1280 else 1281, wanted.mtu):
        yield set_link(f"set the MTU of {wanted.name} to {mtu}", index, attribute(rt.IFLA_MTU, mtu))
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
        yield change(index, wanted.name, link_local(wanted.mac), rt.IFAPROT_KERNEL_LL)


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
        yield set_link(f"set the alias of {name}", index, attribute(rt.IFLA_IFALIAS, wanted.alias))
    for other in sorted(before.altnames - wanted.altnames):
        yield remove_altname(index, name, other)
    for other in sorted(wanted.altnames - before.altnames):
        yield add_altname(index, name, other)
    if wanted.mac and wanted.mac != before.mac:
        yield set_link(f"set the MAC address of {name} to {wanted.mac}", index, mac_attribute(wanted.mac))
    if wanted.mtu != before.mtu:
        mtu = attribute(rt.IFLA_MTU, wanted.mtu)
        yield set_link(f"set the MTU of {name} to {wanted.mtu}", index, mtu)
    if before.settings:
        data = nest(rt.IFLA_INFO_DATA, settings.restored(settings.BRIDGE, before.settings))
        info = nest(rt.IFLA_LINKINFO, attribute(rt.IFLA_INFO_KIND, "bridge"), data)
        yield set_link(f"restore settings of {name}", index, info)
    if wanted.up != before.up:
        yield set_up(index, name, wanted.up)
    for address in in_order(before.addresses ^ wanted.addresses):  # one without its route is not in `before`
        yield remove_address(index, name, address)
    # All of them: IPv4 addresses go with the first one of their subnet, IPv6 ones when a link is set down.
    yield from _bridge_addresses(index, wanted)


def restore_port(index: int, name: str, before: Collection[str]) -> Request:
    """Set these settings of a port of a bridge to what they are in a new one."""
    data = nest(rt.IFLA_INFO_SLAVE_DATA, settings.restored(settings.PORT, before))
    info = nest(rt.IFLA_LINKINFO, attribute(rt.IFLA_INFO_SLAVE_KIND, "bridge"), data)
    return set_link(f"restore settings of the port {name}", index, info)


def remove_link(name: str, alias: str) -> bool:
    """Remove a link if it exists and has this alias; whether it did."""
    with Socket() as on:
        return remove_ours(on, name, alias)


def remove_ours(on: Socket, name: str, alias: str) -> bool:
    found = read.link(on, name)
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
        if (present := read.link(on, wanted.name)) is not None:
            raise taken(present)
        index = free_index(on)
        create_or_remove(on, index, list(_new_pool(index, wanted)))


def _new_pool(index: int, wanted: HostLink) -> Iterator[Request]:
    kind = nest(rt.IFLA_LINKINFO, attribute(rt.IFLA_INFO_KIND, "ifb"))
    yield new_link(f"create link {wanted.name}", index, attribute(rt.IFLA_IFNAME, wanted.name), kind)
    alias = attribute(rt.IFLA_IFALIAS, wanted.alias)
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
        if (found := read.link(on, name)) is not None:
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
            left -= {read.decode_link(message).name for message in gone}
        return frozenset(left)


def _is_removal(kind: int, message: memoryview) -> bool:
    """Whether an event is the end of a link, and not only (AF_BRIDGE) that it has left its bridge."""
    return kind == netlink.RTM_DELLINK and rt.IFINFO.unpack_from(message)[0] == socket.AF_UNSPEC


def _present(on: Socket, names: Iterable[str]) -> set[str]:
    wanted = set(names)
    return {link.name for link in read.links(on)} & wanted if wanted else set()
