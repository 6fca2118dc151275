"""Links as pyroute2 reads them: a decoder of rtnetlink(7) that shares no code with vsprov."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from msgspec.structs import replace
from pyroute2 import IPRoute

from vsprov.kernel.links import netlink
from vsprov.plan.network.state import HostLink, HostRoute, Interface, LinkKind, Route

MAIN, UNICAST, KERNEL, ROUTER, PROXY = 254, 1, 2, 9, 8
BY_KERNEL = (2, 3)  # IFAPROT_KERNEL_RA and _LL: addresses that nobody asked for
ARRIVING, LEAVING = 0xFFFFFFF2, 0xFFFFFFF3
MORE_THAN_32_BITS = 0xFFFFFFFF  # pyroute2 does not decode the attributes with the rest
FAMILIES: Mapping[int, Literal[4, 6]] = {socket.AF_INET: 4, socket.AF_INET6: 6}

NUMBERS = {number: family for family, number in FAMILIES.items()}


@contextmanager
def inside(pid: int) -> Iterator[IPRoute]:
    """pyroute2 in the network namespace of a process; the thread does not stay there."""
    with netlink.inside(pid):
        ip = IPRoute()
    with ip:
        yield ip


def host_links(ip: IPRoute) -> dict[str, HostLink]:
    """All links but lo, with everything that `observe.host_links` tells of them."""
    names = _names(ip)
    found = {}
    for each in ip.get_links():
        name, port = each.get_attr("IFLA_IFNAME"), each.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA")
        found[name] = HostLink(
            name,
            _kind(each),
            each.get_attr("IFLA_IFALIAS") or "",
            _altnames(each),
            each.get_attr("IFLA_ADDRESS"),
            each.get_attr("IFLA_MTU"),
            _is_up(each),
            _addresses(ip, each["index"]),
            names.get(each.get_attr("IFLA_MASTER"), ""),
            bool(port and port.get_attr("IFLA_BRPORT_ISOLATED")),
            bool(port and port.get_attr("IFLA_BRPORT_MODE")),
            each["index"],
            settings=_settings(each),
        )
    del found["lo"]
    return _with_rates(ip, found, names)


# {setting: (attribute, value)}; pyroute2 does not know no_linklocal_learn of bridges
SETTINGS = {
    "ageing_time": ("IFLA_BR_AGEING_TIME", 30000),
    "stp_state": ("IFLA_BR_STP_STATE", 0),
    "vlan_filtering": ("IFLA_BR_VLAN_FILTERING", 0),
    "learning": ("IFLA_BRPORT_LEARNING", 1),
    "flood": ("IFLA_BRPORT_UNICAST_FLOOD", 1),
    "mcast_flood": ("IFLA_BRPORT_MCAST_FLOOD", 1),
    "bcast_flood": ("IFLA_BRPORT_BCAST_FLOOD", 1),
    "neigh_suppress": ("IFLA_BRPORT_NEIGH_SUPPRESS", 0),
    "locked": ("IFLA_BRPORT_LOCKED", 0),
}


def _settings(each: Any) -> frozenset[str]:
    """Those of a bridge, or of a port of one, that are not as in a new one."""
    found = set()
    for part in ("IFLA_INFO_DATA", "IFLA_INFO_SLAVE_DATA"):
        data = each.get_nested("IFLA_LINKINFO", part)
        for name, (attribute, expected) in SETTINGS.items():
            value = data.get_attr(attribute) if data and attribute in dict(data["attrs"]) else expected
            if value != expected:
                found.add(f"{name}={value}")
    return frozenset(found)


def interfaces(ip: IPRoute, inner: IPRoute) -> dict[str, Interface]:
    """The interfaces of a server by name, with everything that `observe.interfaces` tells of them."""
    outer = host_links(ip)
    by_index = {link.index: link for link in outer.values()}
    proxies = dict(proxy_neighbors(ip))
    found = {}
    for each in inner.get_links():
        kind = _kind(each)
        if kind == "lo":
            continue
        mode = each.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_MACVLAN_MODE")
        own = Interface(
            each.get_attr("IFLA_IFNAME"),
            kind,
            each.get_attr("IFLA_ADDRESS"),
            each.get_attr("IFLA_MTU"),
            _addresses(inner, each["index"]),
            frozenset(_routes(inner, each["index"])),
            _is_up(each),
            altname=" ".join(sorted(_altnames(each))),
            alias=each.get_attr("IFLA_IFALIAS") or "",
            mode=mode or "",
        )
        link = by_index[each.get_attr("IFLA_LINK")]
        if kind == "veth":
            found[own.name] = _joined(own, link, host_routes(ip), proxies)
        else:
            found[own.name] = replace(own, parent=link.name)
    return found


def _joined(
    own: Interface, link: HostLink, routes: frozenset[HostRoute], proxies: Mapping[str, str]
) -> Interface:
    """An interface with its end on the host."""
    to = (
        frozenset(each.to for each in routes if each.link == link.name and each.to.endswith(("/32", "/128")))
        - link.addresses
    )
    return replace(
        own,
        link=link.name,
        link_up=link.up,
        alias=link.alias,
        link_altname=" ".join(sorted(link.altnames)),
        parent=link.parent,
        port_isolated=link.port_isolated,
        hairpin=link.hairpin,
        settings=link.settings,
        host_routes=to,
        proxy=proxies.get(min(to, default=""), ""),
        egress=link.egress,
        ingress=link.ingress,
        egress_pool=link.egress_pool,
        ingress_pool=link.ingress_pool,
        share=link.share,
    )


def host_routes(ip: IPRoute) -> frozenset[HostRoute]:
    """The routes of the main table, without those of link-local addresses."""
    names = _names(ip)
    return frozenset(
        HostRoute(_destination(each), names[each.get_attr("RTA_OIF")], each.get_attr("RTA_GATEWAY") or "")
        for each in _in_main_table(ip)
        if _destination(each) != "fe80::/64"
    )


def proxy_neighbors(ip: IPRoute) -> frozenset[tuple[str, str]]:
    """(address in CIDR notation, link) for which the namespace answers."""
    names = _names(ip)
    # Without dump_filter, pyroute2 would compare the flag itself, and the kernel would list other neighbors.
    return frozenset(
        (
            f"{each.get_attr('NDA_DST')}/{32 if each['family'] == socket.AF_INET else 128}",
            names[each["ifindex"]],
        )
        for each in ip.neigh("dump", dump_filter=None, flags=PROXY)
    )


def _names(ip: IPRoute) -> dict[int, str]:
    return {each["index"]: each.get_attr("IFLA_IFNAME") for each in ip.get_links()}


def _kind(link: Any) -> LinkKind:
    kind: LinkKind = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "lo"
    return kind


def _is_up(link: Any) -> bool:
    return bool(link["flags"] & 1)


def _altnames(link: Any) -> frozenset[str]:
    names = link.get_attr("IFLA_PROP_LIST")
    return frozenset(names.get_attrs("IFLA_ALT_IFNAME")) if names else frozenset()


def _addresses(ip: IPRoute, index: int) -> frozenset[str]:
    return frozenset(
        f"{each.get_attr('IFA_LOCAL') or each.get_attr('IFA_ADDRESS')}/{each['prefixlen']}"
        for each in ip.get_addr(index=index)
        if each.get_attr("IFA_PROTO") not in BY_KERNEL
    )


def _in_main_table(ip: IPRoute) -> Iterator[Any]:
    for each in ip.get_routes(table=MAIN):
        if each["type"] == UNICAST and each["family"] in FAMILIES:
            yield each


def _destination(route: Any) -> str:
    return f"{route.get_attr('RTA_DST')}/{route['dst_len']}" if route["dst_len"] else "default"


def _routes(ip: IPRoute, index: int) -> Iterator[Route]:
    for each in _in_main_table(ip):
        if each.get_attr("RTA_OIF") == index and each["proto"] not in (KERNEL, ROUTER):
            yield Route(_destination(each), each.get_attr("RTA_GATEWAY") or "", FAMILIES[each["family"]])


# -- rates


def _with_rates(ip: IPRoute, links: dict[str, HostLink], names: Mapping[int, str]) -> dict[str, HostLink]:
    kinds: dict[str, dict[str, Any]] = {}
    for each in ip.get_qdiscs():
        kinds.setdefault(names[each["index"]], {})[each.get_attr("TCA_KIND")] = each
    buckets = {
        name: 8 * found["tbf"].get_nested("TCA_OPTIONS", "TCA_TBF_PARMS")["rate"]
        for name, found in kinds.items()
        if "tbf" in found
    }
    pools = {name: _pool(ip, links[name].index) for name, found in kinds.items() if "htb" in found}
    out = {}
    for name, link in links.items():
        found = kinds.get(name, {})
        made = replace(link, ingress=buckets.get(name))
        if name in pools:
            rate, members = pools[name]
            made = replace(made, ingress=rate, shares={number: of for number, (of, _) in members.items()})
        if {"ingress", "clsact"} & found.keys():
            target = names[_target(ip, link.index, ARRIVING)]
            if target in pools:
                number, ceil = next((n, c) for n, (of, c) in pools[target][1].items() if of == name)
                made = replace(made, egress_pool=target, egress=ceil, share=number)
            else:
                made = replace(made, egress=buckets[target])
        if "clsact" in found:
            made = replace(made, ingress_pool=names[_target(ip, link.index, LEAVING)])
        out[name] = made
    return out


def _target(ip: IPRoute, index: int, place: int) -> int:
    """The link that packets are redirected to."""
    for each in ip.get_filters(index, parent=place):
        if action := each.get_nested("TCA_OPTIONS", "TCA_U32_ACT"):
            done = action.get_attr("TCA_ACT_PRIO_1")
            assert done.get_attr("TCA_ACT_KIND") == "mirred"
            return int(done.get_nested("TCA_ACT_OPTIONS", "TCA_MIRRED_PARMS")["ifindex"])
    raise AssertionError(f"nothing is redirected by link {index}")


def _pool(ip: IPRoute, index: int) -> tuple[int, dict[int, tuple[str, int | None]]]:
    """(bits per second, {number: (link, its own limit)})."""
    ceils = {
        each["handle"]: each.get_nested("TCA_OPTIONS", "TCA_HTB_PARMS")["ceil"]
        for each in ip.get_classes(index)
    }
    members = {}
    for each in ip.get_filters(index):
        if options := each.get_attr("TCA_OPTIONS"):
            if handle := options.get_attr("TCA_U32_CLASSID"):
                link = (
                    bytes.fromhex(options.get_attr("TCA_U32_INDEV").replace(":", "")).rstrip(b"\0").decode()
                )
                ceil = ceils[handle]
                members[handle & 0xFFFF] = (link, None if ceil == MORE_THAN_32_BITS else 8 * ceil)
    whole = next(ceil for handle, ceil in ceils.items() if handle & 0xFFFF == 0xFFFF)
    return 8 * whole, members
