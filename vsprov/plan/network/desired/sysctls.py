"""The sysctls of the host that networks need: forwarding on their bridges and on the links to the world.

IPv4 forwards what comes in on a link with `conf/LINK/forwarding`. IPv6 does so since Linux 6.17 with
`conf/LINK/force_forwarding`; before, only `conf/all/forwarding` decides, with which the host ignores router
advertisements, unless `accept_ra` is 2 (Documentation/networking/ip-sysctl.rst).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from vsprov.model.kinds.network import Network
from vsprov.model.values.addresses import AUTO
from vsprov.plan.network import naming
from vsprov.plan.network.desired import addresses
from vsprov.plan.network.desired.party import Party
from vsprov.plan.network.state import Interface, SeenNetworks

V4, V6 = "net/ipv4/conf", "net/ipv6/conf"
ALL_V6, FORCE_ALL = f"{V6}/all/forwarding", f"{V6}/all/force_forwarding"


def uplinks(seen: SeenNetworks) -> list[str]:
    """The links of the host with a default route."""
    return sorted({route.link for route in seen.routes if route.to == "default" and route.link})


def of_link(link: str) -> tuple[str, ...]:
    """The sysctls of a link that a network may change; the observation reads those that exist."""
    return (
        f"{V4}/{link}/forwarding",
        f"{V4}/{link}/route_localnet",
        f"{V6}/{link}/forwarding",
        f"{V6}/{link}/force_forwarding",
        f"{V6}/{link}/accept_ra",
        f"{V6}/{link}/proxy_ndp",
    )


def forwarding(seen: SeenNetworks) -> tuple[str, ...]:
    """The sysctls, with {} for the link, that let the host forward what comes in on a link."""
    force = (f"{V6}/{{}}/force_forwarding",) if FORCE_ALL in seen.sysctls else ()
    return (f"{V4}/{{}}/forwarding", *force)


def candidates(links: Iterable[str]) -> tuple[str, ...]:
    """All paths below /proc/sys to observe: for `links`, the bridges of networks and the uplinks."""
    return (ALL_V6, FORCE_ALL, *(path for link in links for path in of_link(link)))


def wanted(
    bridges: Iterable[str],
    outside: Iterable[str],
    families: Iterable[int],
    local: Iterable[str],
    proxies: Iterable[str],
    seen: SeenNetworks,
) -> dict[str, str]:
    """{path: value} for the bridges of networks and the links to the world (`outside`).

    `families` are those of the networks. On the links `local`, ports of loopback addresses are published:
    the kernel drops packets from 127.0.0.0/8 that leave on a link without route_localnet. On the links
    `proxies`, the host answers for addresses of servers: to neighbor solicitations only as a router.
    """
    links = [*bridges, *outside]
    out: dict[str, str] = {}
    if 4 in families:
        out |= {f"{V4}/{link}/forwarding": "1" for link in links}
        out |= {f"{V4}/{link}/route_localnet": "1" for link in local}
    if 6 in families:
        if FORCE_ALL in seen.sysctls:
            out |= {f"{V6}/{link}/force_forwarding": "1" for link in links}
        else:
            out[ALL_V6] = "1"
            accepting = (link for link in outside if seen.sysctls.get(f"{V6}/{link}/accept_ra") in ("1", "2"))
            out |= {f"{V6}/{link}/accept_ra": "2" for link in accepting}
        for link in proxies:
            out |= {f"{V6}/{link}/{name}": "1" for name in ("forwarding", "proxy_ndp")}
            if seen.sysctls.get(f"{V6}/{link}/accept_ra") in ("1", "2"):
                out[f"{V6}/{link}/accept_ra"] = "2"
    return {path: value for path, value in out.items() if _exists(path, seen)}


def withdrawn(own: Iterable[str], seen: SeenNetworks) -> dict[str, str]:
    """{path: value} of what ports that are not published any more have left on the bridges of vsprov."""
    paths = (f"{V4}/{link}/route_localnet" for link in own)
    return {path: "0" for path in paths if seen.sysctls.get(path, "0") != "0"}


def _exists(path: str, seen: SeenNetworks) -> bool:
    """Whether a sysctl exists, or will with the link that it is of."""
    link = path.split("/")[3]
    return path in seen.sysctls or (link != "all" and link not in seen.links)


def before(
    wanted_now: Mapping[str, str], recorded: Mapping[str, str], seen: SeenNetworks, own: Iterable[str]
) -> dict[str, str]:
    """The values to restore with the last network: those recorded, or those of now that networks change.

    Sysctls of the links `own` go with them.
    """
    gone = set(own)
    return {
        path: recorded.get(path, seen.sysctls.get(path, "0"))
        for path, value in wanted_now.items()
        if path.split("/")[3] not in gone and (path in recorded or seen.sysctls.get(path) != value)
    }


def unneeded(
    wanted_now: Mapping[str, str], recorded: Mapping[str, str], seen: SeenNetworks
) -> dict[str, str]:
    """{path: value} of recorded sysctls that no network needs any more and that differ from before."""
    return {
        path: value
        for path, value in recorded.items()
        if path not in wanted_now and seen.sysctls.get(path, value) != value
    }


def needed(
    networks: Mapping[str, Network], links: Mapping[str, str], parties: Collection[Party], seen: SeenNetworks
) -> dict[str, str]:
    """{path: value} for all networks that the host forwards for."""
    forwarding = {
        name: spec
        for name, spec in networks.items()
        if spec.type == "routed" or (name in links and _host_is_gateway(spec, seen))
    }
    published = {port.host_ip for party in parties if party.running for port in party.spec.ports}
    if not forwarding:
        return {}
    bridges = [links[name] for name in forwarding if name in links]
    hosts = {text for text in published if text}
    listening = [
        link.name
        for link in seen.links.values()
        if any(addresses.without_prefix(text) in hosts for text in link.addresses)
    ]
    proxies = sorted({spec.parent for spec in forwarding.values() if spec.type == "routed" and spec.parent})
    outside = {*uplinks(seen), *listening, *proxies} - {"lo", *bridges}
    # A routed network needs no subnets if its servers' addresses are in the manifest.
    used = [text for spec in forwarding.values() for text in spec.subnets]
    for party in parties:
        own = (one for one in party.spec.interfaces if party.running and one.network in forwarding)
        used += [text for one in own for text in one.addresses if text != AUTO]
    families = {addresses.family(text) for text in used}
    local = bridges if published else ()
    return wanted(bridges, sorted(outside), families, local, proxies, seen)


def _host_is_gateway(spec: Network, seen: SeenNetworks) -> bool:
    """Whether the host forwards what servers of a bridge send to its gateway."""
    if not spec.gateway:
        return False
    link = seen.links.get(spec.bridge) if spec.bridge else None
    if not spec.bridge:
        return True
    own = {addresses.without_prefix(text) for text in link.addresses} if link else set()
    return any(addresses.gateway(text) in own for text in spec.subnets)


def routed_links(interfaces: Mapping[str, Mapping[str, Interface]], seen: SeenNetworks) -> set[str]:
    """The host's ends of existing interfaces on routed networks; new ones are created with forwarding."""
    each = (one for inner in interfaces.values() for one in inner.values())
    return {one.link for one in each if one.link and not one.parent and one.link in seen.links}


def recorded(seen: SeenNetworks) -> dict[str, str]:
    """The values of sysctls from before the first network, from the records of all networks."""
    out: dict[str, str] = {}
    for network in seen.networks.values():
        out |= (network.applied or {}).get("sysctls", {})
    return out


def is_shared(instance: str, seen: SeenNetworks) -> bool:
    """Whether another instance has links on this host: it needs the same sysctls, and found them set."""
    return any(naming.owner_of(link.alias)[0] not in ("", instance) for link in seen.links.values())
