"""What planning a server needs to know of its networks, and the steps at its start and end."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from vsprov.plan.builder import PlanBuilder
from vsprov.plan.network import naming
from vsprov.plan.network.desired import sysctls
from vsprov.plan.network.desired.party import uses_host
from vsprov.plan.network.desired.result import Desired
from vsprov.plan.network.state import Interface
from vsprov.plan.network.steps import MakeInterface, RemoveInterface, SetSysctl, WriteNames
from vsprov.plan.steps import Step


class ServerNetwork(Struct, frozen=True):
    """What planning a server needs to know of its networks.

    `alias` is the mark of its links; the server may have interfaces of its own without it. `wanted` are its
    interfaces by name in the server if it should run, `seen` those that it has. `names_of_links` are the
    names of networks and pools by their link on the host. `addresses` are to be recorded, `names` are the
    texts of its files. `on_host` and `was_on_host` are whether it shares the network stack of the host.
    `forwarding` are sysctls to set for links that are on no bridge, with {} for the link.
    """

    alias: str = ""
    wanted: Mapping[str, Interface] = field(default_factory=dict)
    seen: Mapping[str, Interface] = field(default_factory=dict)
    names_of_links: Mapping[str, str] = field(default_factory=dict)
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    on_host: bool = False
    was_on_host: bool = False
    forwarding: tuple[str, ...] = ()

    def before_start(self, server: str) -> list[Step]:
        """The step that writes the names that the server knows, into its directory."""
        files = tuple((server, name, text, "") for name, text in self.names.items())
        return [WriteNames(files)] if files else []

    def at_gate(self, server: str) -> list[Step]:
        """The steps that create the interfaces of the server, whose init waits at its gate."""
        return [step for each in self.wanted.values() for step in self.make(server, each)]

    def make(self, server: str, interface: Interface) -> list[Step]:
        """The steps that create an interface; what comes in on a routed one is forwarded."""
        routed = interface.link and not interface.parent
        paths = [path.format(interface.link) for path in (self.forwarding if routed else ())]
        return [MakeInterface(server, interface), *(SetSysctl(path, "1", "0") for path in paths)]

    def after_stop(self, server: str) -> list[Step]:
        """The steps that remove what does not go with the server's network namespace: proxy neighbors."""
        proxied = (each for each in self.seen.values() if each.proxy and each.alias == self.alias)
        return [RemoveInterface(server, each) for each in proxied]


def after_rename(instance: str, desired: Desired, old: str) -> list[Step]:
    """`ServerNetwork.after_stop` of a server that has stopped to get another name."""
    seen = desired.seen.interfaces.get(old, {})
    return ServerNetwork(naming.server_alias(instance, old), seen=seen).after_stop(old)


def of_server(builder: PlanBuilder, desired: Desired, name: str) -> ServerNetwork | None:
    """What planning a server needs to know of its networks; None if it has no interfaces and had none."""
    party = desired.parties.get(name)
    seen = builder.observed.servers.get(name)
    recorded = seen.applied["spec"].get("interfaces", ()) if seen and seen.applied else ()
    former = {one["network"] for one in recorded}
    if party is None and not former:
        return None
    on_host = {
        network.name
        for network in desired.seen.networks.values()
        if network.applied and network.applied["spec"].get("type") == "host"
    }
    return ServerNetwork(
        naming.server_alias(builder.wanted.instance, name),
        desired.wanted.interfaces.get(name, {}),
        desired.seen.interfaces.get(name, {}),
        desired.names_of_links,
        desired.wanted.addresses.get(name, {}),
        desired.wanted.names.get(name, {}),
        bool(party and uses_host(party.spec, desired.networks)),
        not former.isdisjoint(on_host),
        sysctls.forwarding(desired.seen),
    )
