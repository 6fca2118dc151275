"""The names that each server knows: the managed parts of its /etc/hosts, /etc/resolv.conf and /etc/hostname.

Only servers with interfaces have these files. All of it is pure: what the host's resolver uses is observed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from vsprov.model.kinds.network import Dns, Network
from vsprov.plan.network.desired import addresses
from vsprov.plan.network.desired.addresses import Assignment
from vsprov.plan.network.desired.party import Party
from vsprov.plan.network.state import Resolver

HOSTS, RESOLV_CONF, HOSTNAME = "hosts", "resolv.conf", "hostname"
OWN = "127.0.1.1"  # hosts(5) of Debian: the name of a host without a permanent address
LARGEST_NUMBER_OF_SERVERS = 3  # MAXNS of resolv.conf(5)


def files(
    parties: Iterable[Party], networks: Mapping[str, Network], assignment: Assignment, resolver: Resolver
) -> dict[str, dict[str, str]]:
    """{server: {file: its managed part}} of every server with interfaces, also of those that are stopped.

    The address of a server stays when it stops, so that its peers do not have to be told.
    """
    hosts = _Hosts(networks, assignment)
    parties = tuple(parties)
    for party in parties:
        hosts.add(party)
    return {party.name: _files_of(party, networks, hosts, resolver) for party in parties}


def _files_of(
    party: Party, networks: Mapping[str, Network], hosts: _Hosts, resolver: Resolver
) -> dict[str, str]:
    types = {networks[one.network].type for one in party.spec.interfaces if one.network in networks}
    alone = "host" not in types and not any(one.addresses for one in party.spec.interfaces)
    dns = party.spec.dns
    return {
        HOSTS: hosts.text(party),
        # A server that gets its addresses from a DHCP server gets its name servers there, too.
        RESOLV_CONF: "" if alone and dns == Dns() else resolv_conf(dns, resolver, on_host="host" in types),
        HOSTNAME: f"{party.spec.hostname}\n",
    }


class _Hosts:
    """The lines of /etc/hosts. Servers on the same networks share one text: there are many of them."""

    def __init__(self, networks: Mapping[str, Network], assignment: Assignment) -> None:
        self._networks = networks
        self._assignment = assignment
        self._lines: dict[str, list[str]] = {}  # of each network
        self._texts: dict[tuple[str, ...], str] = {}

    def add(self, party: Party) -> None:
        """Make a server known to the others on its networks."""
        for network, address, names in self._places(party):
            self._lines.setdefault(network, []).append(f"{address}\t{names}\n")

    def text(self, party: Party) -> str:
        """The names that a server knows: its own first, if they are not among those of its networks."""
        places = list(self._places(party))
        shared = tuple(dict.fromkeys(name for name, *_ in places if not self._networks[name].isolated))
        if shared not in self._texts:
            self._texts[shared] = "".join(line for name in shared for line in self._lines[name])
        own = hostnames(party.spec.hostname)
        lines = []
        for network, address, names in places:
            known = names.split(" ") if network in shared else []
            if added := [name for name in (*own, *names.split(" ")) if name not in known]:
                lines.append(f"{address}\t{' '.join(dict.fromkeys(added))}\n")
        if not places:
            lines.append(f"{OWN}\t{' '.join(own)}\n")
        return "".join(lines) + self._texts[shared]

    def _places(self, party: Party) -> Iterator[tuple[str, str, str]]:
        """(network, address, names there) of each address of a server."""
        for one in party.spec.interfaces:
            network = self._networks.get(one.network)
            if network is None or network.type == "host":
                continue
            names = f"{party.name}.{network.domain} {party.name}" if network.domain else party.name
            for text in self._assignment.addresses.get(party.name, {}).get(one.name, ()):
                yield one.network, addresses.without_prefix(text), names


def hostnames(hostname: str) -> list[str]:
    """A hostname, and its short form if it has a domain."""
    return list(dict.fromkeys([hostname, hostname.partition(".")[0]]))


def resolv_conf(dns: Dns, resolver: Resolver, *, on_host: bool = False) -> str:
    """The lines of /etc/resolv.conf: what the server asks for, else what the host uses.

    `on_host`: the server shares the network stack of the host, and so reaches all that the host does.
    """
    used = dns.nameservers or (resolver.local or resolver.servers if on_host else resolver.servers)
    search = dns.search or resolver.search
    lines = [f"nameserver {server}" for server in used[:LARGEST_NUMBER_OF_SERVERS]]
    lines += [f"search {' '.join(search)}"] if search else []
    lines += [f"options {' '.join(dns.options)}"] if dns.options else []
    return "".join(f"{line}\n" for line in lines)


def parse_resolver(text: str, upstream: str = "") -> Resolver:
    """What the host's /etc/resolv.conf says. `upstream` is /run/systemd/resolve/resolv.conf, "" if absent.

    Servers do not reach the loopback addresses of the host. For systemd-resolved's there are the servers that
    it asks itself.
    """
    local, search = _parse(text)
    servers, unreachable = [], []
    for server in local:
        if _is_stub(server) and upstream:
            servers += [each for each in _parse(upstream)[0] if _is_reachable(each)]
        elif _is_reachable(server):
            servers.append(server)
        else:
            unreachable.append(server)
    return Resolver(
        tuple(dict.fromkeys(servers)),
        tuple(search),
        tuple(unreachable),
        tuple(local),
    )


def _parse(text: str) -> tuple[list[str], list[str]]:
    """(name servers, search domains) of a resolv.conf; the last search or domain line counts."""
    servers: list[str] = []
    search: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = [word for word in words[1:] if word != "."]
    return servers, search


def _is_stub(server: str) -> bool:
    return server in ("127.0.0.53", "127.0.0.54")  # systemd-resolved.service(8)


def _is_reachable(server: str) -> bool:
    """Whether a server may be able to send to it: it is no address of the host's loopback, or of one link."""
    with suppress(ValueError):
        address = ipaddress.ip_address(server)
        return not (address.is_loopback or address.is_link_local or address.is_unspecified)
    return False


def without_servers(resolver: Resolver) -> str:
    """Why servers cannot use the name servers of the host; "" if they can."""
    if resolver.servers:
        return ""
    if not resolver.unreachable:
        return "the host has no name servers; set dns.nameservers"
    some = ", ".join(resolver.unreachable)
    return f"servers do not reach the name servers of the host ({some}); set dns.nameservers"
