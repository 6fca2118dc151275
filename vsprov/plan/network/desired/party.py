"""The servers that have to do with networks, as planning sees them."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from vsprov.model.kinds.network import Network
from vsprov.model.kinds.server import Server
from vsprov.plan.network import naming
from vsprov.plan.network.state import Member, SeenNetworks


class Party(Struct, frozen=True):
    """A server that networks have to do with; `listed`: it is among the wanted objects, not only recorded.

    `recorded` are the addresses that its interfaces were given, `formerly` is the first name of a server that
    was renamed.
    """

    name: str
    spec: Server
    running: bool
    listed: bool
    recorded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    formerly: str = ""


def uses_host(spec: Server, networks: Mapping[str, Network]) -> bool:
    """Whether a server shares the network stack of the host."""
    return any(one.network in networks and networks[one.network].type == "host" for one in spec.interfaces)


def other_server(seen: SeenNetworks, instance: str, member: Member) -> str:
    """What to call a server of another instance."""
    link = seen.links.get(member.link)
    server = naming.owner_of(link.alias)[1] if link else ""
    return f"Server/{server} of instance {instance}" if server else f"a server of instance {instance}"
