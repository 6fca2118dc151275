"""What the networks of an instance should be, as a whole."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from vsprov.model.kinds.network import Network
from vsprov.plan.network.desired.addresses import Assignment
from vsprov.plan.network.desired.party import Party
from vsprov.plan.network.state import Member, SeenNetworks, WantedNetworks


class Desired(Struct, frozen=True):
    """The wanted state of all networks, and what it was computed from.

    `links` are the bridges by network, `names_of_links` the names of networks and pools by their link, and
    `members` what the firewall knows of servers. `befores` are values of sysctls from before the first
    network, which every network records, and `restore` those that no network needs any more. `rates` are
    those of pools, by direction.
    """

    seen: SeenNetworks
    networks: Mapping[str, Network]
    parties: Mapping[str, Party]
    wanted: WantedNetworks
    assignment: Assignment
    links: Mapping[str, str]
    names_of_links: Mapping[str, str]
    members: tuple[Member, ...]
    befores: Mapping[str, str]
    restore: Mapping[str, str]
    rates: Mapping[str, Mapping[str, int]]
