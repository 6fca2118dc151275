"""Checks of the firewalls of servers and networks, and of the peers that they name."""

from __future__ import annotations

from collections.abc import Iterator

from vsprov.errors import Problem
from vsprov.manifest.checks.view import ManifestView
from vsprov.manifest.resolve import Item
from vsprov.model.fields import Path
from vsprov.model.kinds.network import Firewall, Network, Rule
from vsprov.model.kinds.server import Server
from vsprov.model.suggest import did_you_mean
from vsprov.model.values.addresses import is_name

DIRECTIONS = ("ingress", "egress")


def rules_of(firewall: Firewall) -> Iterator[tuple[Path, Rule]]:
    """(path, rule) of each rule of a firewall in a spec."""
    for direction in DIRECTIONS:
        for i, rule in enumerate(getattr(firewall, direction) or ()):
            yield ("spec", "firewall", direction, i), rule


def firewall_rules(item: Item, firewall: Firewall) -> Iterator[Problem]:
    """Rules with ports of a protocol that has none, and rules that are there twice."""
    seen: dict[tuple[Path, Rule], Path] = {}
    for path, rule in rules_of(firewall):
        if rule.ports and rule.protocol not in ("tcp", "udp"):
            message = f"ports do not apply to protocol {rule.protocol}"
            yield item.problem((*path, "ports"), message, "write protocol: tcp or protocol: udp")
        first = seen.setdefault((path[:-1], rule), path)
        if first != path:
            yield item.problem(path, f"duplicate rule, the same as {first[-2]}[{first[-1]}]", warning=True)


def ambiguous_peers(view: ManifestView) -> Iterator[Problem]:
    """Peers that name both a server and a network."""
    both = view.names("Server") & view.names("Network")
    for item, path, name in _peers(view):
        if name in both:
            message = f"{name} is the name of a server and of a network"
            yield item.problem(path, message, "rename one of them, or write addresses")


def unknown_peers(view: ManifestView) -> Iterator[Problem]:
    """Peers that the manifest does not define. Where the instance is known, the plan checks them."""
    if view.images is not None:
        return
    known = view.names("Server") | view.names("Network")
    for item, path, name in _peers(view):
        if name not in known:
            close = did_you_mean(name, known)
            message = (
                f"server or network {name} is not defined here; apply requires it in the instance{close}"
            )
            yield item.problem(path, message, warning=True)


def _peers(view: ManifestView) -> Iterator[tuple[Item, Path, str]]:
    """(item, path, name) of each name of a server or network in a firewall."""
    for item, server in view.all(Server):
        yield from _peers_of(item, server.firewall)
    for item, network in view.all(Network):
        yield from _peers_of(item, network.firewall)


def _peers_of(item: Item, firewall: Firewall) -> Iterator[tuple[Item, Path, str]]:
    for path, rule in rules_of(firewall):
        for k, peer in enumerate(rule.peers):
            if is_name(peer):
                yield item, (*path, "peers", k), peer
