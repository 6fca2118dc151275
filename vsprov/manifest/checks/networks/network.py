"""Checks of single networks. Each is a function in `NETWORK_CHECKS` that yields the problems it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations

from vsprov.errors import Problem
from vsprov.manifest.checks.networks.firewall import firewall_rules
from vsprov.manifest.resolve import Item
from vsprov.model.fields import Path
from vsprov.model.kinds.network import MODES, Network, is_filtered
from vsprov.model.values.addresses import subnet_of
from vsprov.model.values.interfaces import LEAST_MTU_V6

SUBNETS: Path = ("spec", "subnets")
ALL = ("bridge", "macvlan", "ipvlan", "routed")
# The types that each key applies to, and what to do instead.
APPLIES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "subnets": (ALL, "servers have the addresses of the host"),
    "bridge": (("bridge",), ""),
    "parent": (("macvlan", "ipvlan", "routed"), "use bridge to name an existing bridge of the host"),
    "mode": (("macvlan", "ipvlan"), ""),
    "gateway": (ALL, ""),
    "nat": (("bridge", "routed"), "the packets of its servers do not pass through the host"),
    "isolated": (("bridge", "routed"), "macvlan has mode: private"),
    "hostAccess": (("bridge", "routed"), ""),
    "mtu": (ALL, ""),
    "domain": (ALL, ""),
}


def keys_of_type(item: Item, network: Network) -> Iterator[Problem]:
    """Keys that do not apply to the type of the network."""
    for key, (types, hint) in APPLIES.items():
        if network.type not in types and item.given(("spec", key)) not in (None, False, []):
            yield item.problem(
                ("spec", key), f"{key} does not apply to a network of type {network.type}", hint
            )
    for direction in ("ingress", "egress"):
        if not is_filtered(network) and getattr(network.firewall, direction) is not None:
            message = f"the host cannot filter the packets of a network of type {network.type}"
            yield item.problem(("spec", "firewall", direction), message, "use type bridge or routed")


def parent(item: Item, network: Network) -> Iterator[Problem]:
    """Networks without the link that they require."""
    if network.type in ("macvlan", "ipvlan") and network.parent is None:
        message = f"a network of type {network.type} requires a parent"
        yield item.problem(
            ("spec", "parent"), message, "parent: eth0, a link of the host that `ip link` shows"
        )


def mode(item: Item, network: Network) -> Iterator[Problem]:
    """Modes of another type."""
    modes = MODES.get(network.type, ())
    if network.mode is not None and modes and network.mode not in modes:
        message = f"{network.mode} is not a mode of {network.type}"
        yield item.problem(("spec", "mode"), message, f"write {' or '.join(modes)}")


def overlapping_subnets(item: Item, network: Network) -> Iterator[Problem]:
    """Subnets of the network that overlap."""
    subnets = [(i, subnet_of(text)) for i, text in enumerate(network.subnets)]
    for (first, one), (second, other) in combinations(subnets, 2):
        if one.version == other.version and one.overlaps(other):
            message = (
                f"{other} overlaps {one} (subnets[{first}])" if one != other else f"duplicate subnet {other}"
            )
            yield item.problem((*SUBNETS, second), message)


def small_subnets(item: Item, network: Network) -> Iterator[Problem]:
    """Subnets without an address for a server, besides those of the subnet itself and of the gateway."""
    if network.type == "routed":
        return
    for i, text in enumerate(network.subnets):
        subnet = subnet_of(text)
        if subnet.max_prefixlen - subnet.prefixlen < 2:
            hint = f"write a prefix length of at most {subnet.max_prefixlen - 2}"
            yield item.problem((*SUBNETS, i), f"{subnet} has no addresses for servers", hint)


def mtu(item: Item, network: Network) -> Iterator[Problem]:
    """RFC 8200: IPv6 requires an MTU of 1280."""
    six = any(subnet_of(text).version == 6 for text in network.subnets)
    if six and network.mtu is not None and network.mtu < LEAST_MTU_V6:
        message = f"{network.mtu} is too small for IPv6, which requires {LEAST_MTU_V6}"
        yield item.problem(("spec", "mtu"), message)


def host_stack(item: Item, network: Network) -> Iterator[Problem]:
    """Networks whose servers are not isolated from the host."""
    if network.type == "host":
        message = "servers of this network can use all addresses, ports and links of the host"
        yield item.problem(("spec", "type"), message, "use type bridge and publish ports", warning=True)


def rules(item: Item, network: Network) -> Iterator[Problem]:
    """Rules of the firewall that contradict themselves."""
    return firewall_rules(item, network.firewall)


NETWORK_CHECKS: tuple[Callable[[Item, Network], Iterator[Problem]], ...] = (
    keys_of_type,
    parent,
    mode,
    overlapping_subnets,
    small_subnets,
    mtu,
    host_stack,
    rules,
)
