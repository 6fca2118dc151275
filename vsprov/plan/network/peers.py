"""The names that each server knows: its own, and those of the servers on its networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vsprov.model.kinds.network import Network
from vsprov.plan.network import addresses
from vsprov.plan.network.addresses import Assignment
from vsprov.plan.network.party import Party


def files(
    parties: Iterable[Party], networks: Mapping[str, Network], assignment: Assignment
) -> dict[str, dict[str, str]]:
    """{server: {"hosts": the managed part of /etc/hosts}} of every server, also of those that are stopped.

    The address of a server stays when it stops, so that its peers do not have to be told.
    """
    lines: dict[str, list[str]] = {}  # of each network
    networks_of: dict[str, list[str]] = {}
    for party in parties:
        for one in party.spec.interfaces:
            network = networks.get(one.network)
            if network is None or network.type == "host":
                continue
            networks_of.setdefault(party.name, []).append(one.network)
            names = [f"{party.name}.{network.domain}"] if network.domain else []
            for text in assignment.addresses.get(party.name, {}).get(one.name, ()):
                line = " ".join([addresses.without_prefix(text), *names, party.name])
                lines.setdefault(one.network, []).append(line)
    texts: dict[tuple[str, ...], str] = {}
    out = {}
    for server, own in networks_of.items():
        key = tuple(dict.fromkeys(own))
        if key not in texts:
            texts[key] = "".join(f"{line}\n" for name in key for line in lines.get(name, ()))
        out[server] = {"hosts": texts[key]}
    return out
