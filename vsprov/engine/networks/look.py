"""Observe what the kernel has for the networks of an instance. Read-only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress

from vsprov.engine.look.networked import had_interfaces, is_networked
from vsprov.kernel.firewall import Listing
from vsprov.kernel.links import machine, probe
from vsprov.kernel.links import observe as links
from vsprov.model import fields
from vsprov.model.kinds.network import Network
from vsprov.model.kinds.quota import Quota
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.model.values.ports import port_range
from vsprov.plan.network import naming
from vsprov.plan.network.desired import names as names_of_servers
from vsprov.plan.network.desired import sysctls
from vsprov.plan.network.state import HostLink, HostRoute, Listener, ObservedNetwork, Resolver, SeenNetworks
from vsprov.plan.observed import ObservedServer
from vsprov.store import names_files, recorded
from vsprov.store.instance import Instance
from vsprov.store.recorded import Record

RESOLV_CONF, UPSTREAM = "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"  # systemd-resolved.service(8)
LARGEST_RESOLV_CONF = 64 << 10


def networks(
    instance: Instance, servers: Mapping[str, ObservedServer], wanted: tuple[Object, ...], listing: Listing
) -> SeenNetworks:
    """What there is for the networks of an instance and of `wanted`."""
    records = recorded.observe(instance, "Network")
    host = links.host()
    pids = _connected(instance.name, servers, wanted, host.links)
    inner = links.interfaces_of(pids.values(), host)
    with_names = {
        name: names_files.read(f"{instance.servers}/{name}")
        for name, server in servers.items()
        if server.init and (name in pids or had_interfaces(server))
    }
    nft = listing.finish(with_others=_can_collide(wanted, records))
    return SeenNetworks(
        networks=_networks(instance.name, records, host.links),
        links=host.links,
        routes=host.routes,
        proxies=host.proxies,
        interfaces={name: inner[pid] for name, pid in pids.items() if pid in inner},
        tables=nft.tables,
        sysctls=_sysctls(records, host.links, host.routes),
        names=with_names,
        unnamed=frozenset(
            name
            for name, found in with_names.items()
            if len(found) < len(names_files.TARGETS)
            and not names_files.are_complete(f"{instance.servers}/{name}")
        ),
        resolver=_resolver(),
        listeners=_listeners(wanted),
        foreign=nft.foreign,
        others=nft.others,
        lacking=_lacking(wanted, nft.lacking),
    )


def _can_collide(wanted: Iterable[Object], records: Mapping[str, Record]) -> bool:
    """Whether servers of other instances can have the same ports of the host, or the same addresses."""
    specs = [want.spec for want in wanted]
    if any(isinstance(spec, Server) and spec.ports for spec in specs):
        return True
    networks = [fields.write(spec) for spec in specs if isinstance(spec, Network)]
    networks += [record.applied["spec"] for record in records.values() if record.applied]
    return any(spec.get("bridge") or spec.get("type") == "routed" for spec in networks)


def _lacking(wanted: Iterable[Object], nft: str) -> dict[str, str]:
    """What this host lacks of what is wanted: {kind of link, "tbf", "htb" or "nft": why}."""
    types = {want.spec.type for want in wanted if isinstance(want.spec, Network)}
    kinds: list[str] = [kind for kind in ("macvlan", "ipvlan") if kind in types]
    limited = [
        want.spec
        for want in wanted
        if isinstance(want.spec, Server | Quota)
        and ("network.egress" in want.spec.resources or "network.ingress" in want.spec.resources)
    ]
    if limited:
        kinds += ["tbf", "ifb"]
    if any(isinstance(spec, Quota) and spec.scope == "pool" for spec in limited):
        kinds.append("htb")
    return {**probe.lacking(kinds), **({"nft": nft} if nft else {})}


def _listeners(wanted: Iterable[Object]) -> tuple[Listener, ...]:
    """The sockets of the host, if ports of it are to be published.

    Their processes are known only if a socket is in the way: looking for them takes a while.
    """
    ports = [port for want in wanted if isinstance(want.spec, Server) for port in want.spec.ports]
    if not ports:
        return ()
    ranges = [port_range(port.host_port) for port in ports]
    found = machine.listeners()
    clash = any(first <= one.port <= last for one in found for first, last in ranges)
    return machine.listeners(with_processes=True) if clash else found


def _networks(
    instance: str, records: Mapping[str, Record], links: Mapping[str, HostLink]
) -> dict[str, ObservedNetwork]:
    by_alias = {link.alias: link for link in links.values() if link.kind == "bridge"}
    return {
        name: ObservedNetwork(
            name,
            str(record.owner) if record.owner else None,
            record.applied,
            by_alias.get(naming.network_alias(instance, name)),
        )
        for name, record in records.items()
    }


def _connected(
    instance: str,
    servers: Mapping[str, ObservedServer],
    wanted: Iterable[Object],
    links: Mapping[str, HostLink],
) -> dict[str, int]:
    """{server: pid of its init} of the running servers with a network namespace that may have interfaces:
    by what is recorded, by what is wanted, or because a link of the host has their mark.
    """
    named = {want.name for want in wanted if want.kind == "Server" and is_networked(want)}
    named |= {name for owner, name in map(naming.owner_of, _aliases(links)) if owner == instance}
    ours = os.stat("/proc/self/ns/net").st_ino
    found = {}
    for name, seen in servers.items():
        if seen.init and (name in named or seen.applied is None or had_interfaces(seen)):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                if os.stat(f"/proc/{seen.init.pid}/ns/net").st_ino != ours:
                    found[name] = seen.init.pid
    return found


def _aliases(links: Mapping[str, HostLink]) -> set[str]:
    return {link.alias for link in links.values()}


def _resolver() -> Resolver:
    """The name servers of the host, and those of its systemd-resolved."""
    texts = []
    for path in (RESOLV_CONF, UPSTREAM):
        try:
            with open(path, errors="surrogateescape") as file:
                texts.append(file.read(LARGEST_RESOLV_CONF))
        except OSError:  # hosts need not have one
            texts.append("")
    return names_of_servers.parse_resolver(*texts)


def _sysctls(
    records: Mapping[str, Record], links: Mapping[str, HostLink], routes: Iterable[HostRoute]
) -> dict[str, str]:
    """{path below /proc/sys: value} of those that networks may change, or have changed."""
    bridges = {link.name for link in links.values() if link.kind == "bridge"}
    addressed = {link.name for link in links.values() if link.addresses}
    paths = dict.fromkeys(sysctls.candidates(sorted(bridges | addressed | {route.link for route in routes})))
    for record in records.values():
        paths |= dict.fromkeys((record.applied or {}).get("sysctls", {}))
    found = {}
    for path in paths:
        with suppress(FileNotFoundError), open(f"/proc/sys/{path}") as file:
            found[path] = file.read().strip()
    return found
