"""The state of an instance's networks, wanted or observed: links, addresses, routes, rates, firewall, names.

The same types describe what is wanted and what the kernel has, so that a difference is an unequal field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct, field

LinkKind = Literal["bridge", "veth", "macvlan", "ipvlan"]


class Route(Struct, frozen=True, order=True):
    """A route in a server: destination in CIDR notation or "default", next hop ("" if on the link)."""

    to: str
    via: str = ""
    family: Literal[4, 6] = 4


class Interface(Struct, frozen=True):
    """A network interface of a server, and the host's end of it.

    `kind`: veth for networks of type bridge and routed. `name` is the name in the server, at most 15 bytes,
    and `altname` the full name if that is longer, else "". `link` is the name of the host's end of a veth, ""
    for other kinds; `alias` and `link_altname` are its ifalias and alternative name. `parent` is the bridge
    that the host's end is a port of, or the link below a macvlan or ipvlan; "" for routed. `addresses` are in
    CIDR notation, without link-local ones of the kernel. `routes` are those of the main table, without the
    ones that the kernel adds for addresses. `port_isolated`: the bridge forwards nothing between such ports.
    `hairpin`: the bridge may send back to the port what came from it.
    `host_routes`: for routed, the addresses that the host routes to `link` and answers for on `proxy`.
    `egress`, `ingress`: bits per second, from the server's point of view; None for no limit. `egress_pool`,
    `ingress_pool`: the intermediate devices of the pool whose rates it shares, "" for none, and `share` is
    the number of its class there. `settings` are those of the port of the bridge that are not as in a new
    one, as "learning=0".
    """

    name: str
    kind: LinkKind
    mac: str
    mtu: int
    addresses: frozenset[str] = frozenset()
    routes: frozenset[Route] = frozenset()
    up: bool = True
    altname: str = ""
    link: str = ""
    link_up: bool = True
    alias: str = ""
    link_altname: str = ""
    parent: str = ""
    mode: str = ""
    port_isolated: bool = False
    hairpin: bool = False
    host_routes: frozenset[str] = frozenset()
    proxy: str = ""
    egress: int | None = None
    ingress: int | None = None
    egress_pool: str = ""
    ingress_pool: str = ""
    share: int = 0
    settings: frozenset[str] = frozenset()

    @property
    def is_shaped(self) -> bool:
        """Whether an intermediate device of its own limits what the server sends."""
        return self.egress is not None and not self.egress_pool


class HostLink(Struct, frozen=True):
    """A link of the host: a network's own bridge, or any other, as observed.

    `owner` is the instance and object in the alias ("vsprov:<instance>:<object>"), "" without one.
    `shares`, of an intermediate device of a pool: the links that share its rate, by number of the class;
    "" if the link has gone. `settings` are those of a bridge, or of a port of one, that are not as vsprov
    creates it, as "vlan_filtering=1".
    """

    name: str
    kind: str
    alias: str = ""
    altnames: frozenset[str] = frozenset()
    mac: str = ""
    mtu: int = 1500
    up: bool = True
    addresses: frozenset[str] = frozenset()
    parent: str = ""
    port_isolated: bool = False
    hairpin: bool = False
    index: int = 0
    egress: int | None = None
    ingress: int | None = None
    egress_pool: str = ""
    ingress_pool: str = ""
    share: int = 0
    shares: Mapping[int, str] = field(default_factory=dict)
    settings: frozenset[str] = frozenset()


class HostRoute(Struct, frozen=True):
    """A route of the host: destination in CIDR notation or "default", link, next hop or ""."""

    to: str
    link: str
    via: str = ""


class Listener(Struct, frozen=True):
    """A socket of the host that has a port: its address ("0.0.0.0", "::" for all) and process, if known."""

    protocol: Literal["tcp", "udp"]
    address: str
    port: int
    process: str = ""


class Resolver(Struct, frozen=True):
    """What the host's /etc/resolv.conf says: name servers that servers may reach, and domains to search.

    `unreachable` are name servers of the host that servers do not reach, and `local` are all that it has.
    """

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    unreachable: tuple[str, ...] = ()
    local: tuple[str, ...] = ()


# nft objects of one table in the JSON of libnftables-json(5), as `nft -j list table` prints them, without
# handles, counters' values and the metainfo; in a canonical order. {"inet": (…), "bridge": (…)}
Tables = Mapping[str, tuple[Mapping[str, Any], ...]]


class ObservedNetwork(Struct, frozen=True):
    """A network that the instance has: its record on disk, and its own bridge if that exists."""

    name: str
    owner: str | None
    applied: Mapping[str, Any] | None
    link: HostLink | None = None


class SeenNetworks(Struct, frozen=True):
    """What the kernel has for the networks of an instance.

    `links` are all links of the host by name, `routes` those of its main table, `proxies` the neighbors that
    it answers for: (address in CIDR notation, link). `interfaces` those of each
    running server (lo is left out), by server and by name in the server. `tables` are the instance's nft
    tables, by family. `sysctls` are {path below /proc/sys: value}. `names` are the managed parts of the
    files that each running server has mounted, see `WantedNetworks.names`; `unnamed` are those that were
    started without interfaces, which have only /etc/hosts. `resolver` is that of the host.
    `foreign` are descriptions of rulesets of others that drop forwarded packets. `others` are interfaces of
    servers of other instances, by instance, if they can be in the way.
    """

    networks: Mapping[str, ObservedNetwork] = field(default_factory=dict)
    links: Mapping[str, HostLink] = field(default_factory=dict)
    routes: tuple[HostRoute, ...] = ()
    proxies: frozenset[tuple[str, str]] = frozenset()
    interfaces: Mapping[str, Mapping[str, Interface]] = field(default_factory=dict)
    tables: Tables = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    unnamed: frozenset[str] = frozenset()
    resolver: Resolver = Resolver()
    listeners: tuple[Listener, ...] = ()
    foreign: tuple[str, ...] = ()
    others: Mapping[str, tuple[Member, ...]] = field(default_factory=dict)
    lacking: Mapping[str, str] = field(default_factory=dict)  # {feature: why}: "nft", "ipvlan", "ifb"…


class Published(Struct, frozen=True):
    """A published port, or a range of as many ports on both sides."""

    protocol: Literal["tcp", "udp"]
    host_ip: str  # "" for all addresses of both families
    host_ports: tuple[int, int]  # first, last
    ports: tuple[int, int]
    addresses: tuple[str, ...]  # of the server, without prefix length; one of each family at most


class Opening(Struct, frozen=True):
    """One rule of a firewall, with names resolved: `peers` are subnets in CIDR notation, () for everybody;
    `ports` are ranges, () for all. `protocol` is "tcp", "udp", "icmp" or "any"."""

    protocol: str
    ports: tuple[tuple[int, int], ...]
    peers: tuple[str, ...]


class Member(Struct, frozen=True):
    """A server's interface as the firewall sees it: who may send from it, and what is open.

    `ingress` and `egress`: None for no restriction.
    """

    server: str
    link: str
    network: str
    mac: str
    addresses: tuple[str, ...]  # without prefix length
    ingress: tuple[Opening, ...] | None = None
    egress: tuple[Opening, ...] | None = None
    published: tuple[Published, ...] = ()


class FirewallNetwork(Struct, frozen=True):
    """A network as the firewall sees it. `link` is its bridge ("" for routed); `borrowed`: vsprov did not
    create it, so others than servers may be on it."""

    name: str
    link: str
    subnets: tuple[str, ...]
    gateways: tuple[str, ...]  # the host's addresses in it, without prefix length
    nat: bool
    isolated: bool
    host_access: bool
    routed: bool = False
    borrowed: bool = False


class WantedNetworks(Struct, frozen=True):
    """What the networks of an instance should be.

    `bridges` are the bridges to create, by network. `pools` are the intermediate devices of pools, by link;
    `ingress` is the rate that servers share. `interfaces` are those of each server that should run, by
    name in the server. `tables` is the firewall. `sysctls` {path: value}. `names` are the managed parts of
    each server's files: {server: {"hosts", "resolv.conf" or "hostname": text}}. `addresses` are the addresses
    of each server to record: {server: {interface: (CIDR, …)}}.
    """

    bridges: Mapping[str, HostLink] = field(default_factory=dict)
    pools: Mapping[str, HostLink] = field(default_factory=dict)
    interfaces: Mapping[str, Mapping[str, Interface]] = field(default_factory=dict)
    tables: Tables = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    addresses: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
