"""The spec of a network, and the keys of a server that belong to its networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec.structs import replace

from vsprov.model.fields import Section, many, one, strings, value
from vsprov.model.values import addresses, dns, interfaces, patterns, ports

Protocol = Literal["tcp", "udp", "icmp", "any"]


class Rule(Section):
    """One opening of a firewall: traffic that matches all of its keys is allowed."""

    protocol: Protocol = value("any", doc="tcp, udp, icmp (ICMPv6 as well), or any.")
    ports: tuple[str, ...] = strings(
        doc='For tcp and udp: destination ports and ranges, "80" or "8000-8080". Defaults to all.',
        schema=ports.PORTS,
        each=ports.parse_ports,
    )
    peers: tuple[str, ...] = strings(
        doc="The other side: addresses, subnets, or names of servers and networks of this instance. "
        "Defaults to everybody.",
        schema=addresses.PEERS,
        each=addresses.parse_peer,
    )


def rule_text(rule: Mapping[str, Any]) -> str:
    """The map of a rule in short: "tcp 80,443 with lan"."""
    ports, peers = (",".join(rule.get(key, ())) for key in ("ports", "peers"))
    return " ".join(
        [rule.get("protocol", "any"), *([ports] if ports else []), *([f"with {peers}"] if peers else [])]
    )


class Firewall(Section):
    """What is allowed to and from a server. A direction that is not set is not restricted; an empty list
    allows nothing. Answers to what was allowed are always allowed.
    """

    ingress: tuple[Rule, ...] | None = many(
        Rule,
        text=rule_text,
        optional=True,
        doc="What may reach the server. Not set: everything that the network allows.",
    )
    egress: tuple[Rule, ...] | None = many(
        Rule,
        text=rule_text,
        optional=True,
        doc="What the server may reach. Not set: everything that the network allows.",
    )


class Dns(Section):
    """The contents of /etc/resolv.conf; resolv.conf(5)."""

    nameservers: tuple[str, ...] = strings(
        doc="Addresses of name servers, at most 3. Defaults to those of the host that servers can reach.",
        schema=dns.NAMESERVERS,
        each=addresses.parse_address,
    )
    search: tuple[str, ...] = strings(
        doc="Domains to search for names without a dot.",
        schema=dns.DOMAINS,
        each=dns.parse_domain,
    )
    options: tuple[str, ...] = strings(doc="Options of the resolver, such as ndots:2.", schema=dns.OPTIONS)


class Network(Section):
    """The desired state of a network."""

    type: Literal["bridge", "macvlan", "ipvlan", "routed", "host"] = value(
        "bridge",
        doc="bridge: a switch on the host that servers are connected to. macvlan, ipvlan: interfaces of "
        "their own on a link of the host (`parent`). routed: the host routes each address to its server. "
        "host: servers use the network stack of the host, without any isolation.",
    )
    subnets: tuple[str, ...] = strings(
        doc="The subnets of the network, IPv4 and IPv6, from which servers get their addresses.",
        schema=addresses.SUBNETS,
        each=addresses.parse_subnet,
    )
    bridge: str | None = value(
        None,
        doc="For bridge: an existing bridge of the host to use instead of creating one. It is never changed.",
        schema=interfaces.LINK,
        parse=interfaces.parse_link,
    )
    parent: str | None = value(
        None,
        doc="For macvlan and ipvlan: the link of the host that the interfaces are on. For routed: the link "
        "to the network for whose addresses the host answers (proxy ARP and neighbor discovery).",
        schema=interfaces.LINK,
        parse=interfaces.parse_link,
    )
    mode: Literal["bridge", "private", "vepa", "l2", "l3"] | None = value(
        None,
        doc="For macvlan: bridge (default), private or vepa. For ipvlan: l2 (default) or l3, in which "
        "nobody answers ARP for the servers, so others need routes to them through the host.",
    )
    gateway: bool = value(
        True,
        doc="For bridge: the host has the first address of each subnet and is the default gateway of the "
        "servers. For macvlan and ipvlan: the first address of each subnet is the gateway, which is not the "
        "host.",
    )
    nat: bool = value(
        True,
        doc="For bridge and routed: servers reach other networks with the address of the host (masquerade).",
    )
    isolated: bool = value(False, doc="Servers of the network cannot reach each other.")
    host_access: bool = value(False, doc="Servers may reach all services of the host, not only ICMP.")
    mtu: int | None = value(
        None, doc="Largest packet in bytes. Defaults to that of the parent, or 1500.", schema=interfaces.MTU
    )
    domain: str | None = value(
        None,
        doc="Domain of the names of servers, in addition to the short names.",
        schema=dns.DOMAIN,
        parse=dns.parse_domain,
    )
    firewall: Firewall = one(Firewall, Firewall(), doc="Firewall of every server of the network.")


# The modes of the types that have any; the first is the default.
MODES: Mapping[str, tuple[str, ...]] = {"macvlan": ("bridge", "private", "vepa"), "ipvlan": ("l2", "l3")}


def is_filtered(network: Network) -> bool:
    """Whether the packets of its servers pass through the host, which can filter and translate them."""
    return network.type in ("bridge", "routed")


def without_inapplicable(network: Network) -> Network:
    """The network without the defaults that do not apply to its type: the host translates nothing."""
    gateway = network.gateway and network.type != "host"
    nat = network.nat and is_filtered(network) and (gateway or network.type == "routed")
    return replace(network, gateway=gateway, nat=nat)


class Route(Section):
    """A route of a server."""

    to: str = value(
        doc="Destination: a subnet, or default.",
        schema=addresses.DESTINATION,
        parse=addresses.parse_destination,
    )
    via: str = value(
        doc="Address of the next hop, in a subnet of the interface.",
        schema=addresses.ADDRESS,
        parse=addresses.parse_address,
    )


class Interface(Section):
    """A network interface of a server."""

    name: str = value(
        doc="Name of the interface in the server. One of more than 15 bytes becomes an alternative name.",
        schema=interfaces.INTERFACE,
        parse=interfaces.parse_interface_name,
    )
    network: str = value(doc="Network that it is connected to.", schema=patterns.NAME, refers="Network")
    addresses: tuple[str, ...] = strings(
        ("auto",),
        doc="Addresses with or without prefix length. auto: a free address of each subnet in which no other "
        "address is set here. It stays the same as long as the server exists.",
        schema=addresses.ADDRESSES,
        each=addresses.parse_interface_address,
    )
    mac: str | None = value(
        None,
        doc="MAC address. Defaults to one derived from the names.",
        schema=interfaces.MAC,
        parse=interfaces.parse_mac,
    )
    mtu: int | None = value(None, doc="Defaults to that of the network.", schema=interfaces.MTU)
    gateway: bool = value(True, doc="Use the gateway of the network for the default route.")
    routes: tuple[Route, ...] = many(Route, by="to", doc="Additional routes.")


class Port(Section):
    """A port of the host that leads to a server. Also written as in Docker: "127.0.0.1:8080:80/tcp"."""

    host_port: str = value(
        doc='Port or range of the host, "8080" or "8000-8010".',
        schema=ports.PORT,
        parse=ports.parse_ports,
    )
    port: str | None = value(
        None,
        doc="Port or range of the server, as many as of the host. Defaults to those of the host.",
        schema=ports.PORT,
        parse=ports.parse_ports,
    )
    protocol: Literal["tcp", "udp"] = value("tcp", doc="tcp or udp.")
    host_ip: str | None = value(
        None,
        name="hostIP",
        doc="Address of the host; 0.0.0.0 or :: for all of one family. Defaults to all of its addresses.",
        schema=addresses.ADDRESS,
        parse=addresses.parse_host_address,
    )


def expand_port(given: Any) -> Any:
    """The map of a port in the short form [HOSTIP:]HOSTPORT[:PORT][/PROTOCOL]; a map as it is."""
    return ports.split_port(given) if isinstance(given, str | int) else given


def port_text(port: Mapping[str, Any]) -> str:
    """The short form of the map of a port: "127.0.0.1:8080:80/tcp"."""
    address = port.get("hostIP", "")
    where = f"[{address}]:" if ":" in address else f"{address}:" if address else ""
    inner = f":{port['port']}" if "port" in port else ""
    return f"{where}{port['hostPort']}{inner}/{port.get('protocol', 'tcp')}"
