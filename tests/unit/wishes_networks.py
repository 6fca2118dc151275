"""Random networks, interfaces and ports to want, and random things that happen to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.simulate import World
from vsprov.model.kinds.network import (
    Dns,
    Firewall,
    Interface,
    Network,
    Port,
    Route,
    Rule,
    without_inapplicable,
)
from vsprov.plan.network import naming
from vsprov.plan.network.state import HostLink

Draw = Callable[..., Any]
SHARED: list[dict[str, int]] = [
    {},
    {"network.egress": 20_000_000, "network.ingress": 30_000_000},
    {"network.ingress": 8_000},
]  # rates of pools


@st.composite
def networks(draw: st.DrawFn, names: str) -> dict[str, Network]:
    """Networks of the set whose servers have these names; subnets go by the name."""
    out = {}
    for name in draw(st.lists(st.sampled_from(["m", "n", "o"]), max_size=2, unique=True)):
        number = ord(names[0]) + ord(name) % 3
        subnets = (f"10.{number}.0.0/24", *([f"fd{number:02x}::/64"] if draw(st.booleans()) else []))
        kind: dict[str, Any] = draw(
            st.sampled_from(
                [
                    {},
                    {},
                    {"isolated": True, "mtu": 1400},
                    {"gateway": False, "nat": False},
                    {"bridge": "br0"},
                    {"firewall": Firewall(ingress=(Rule(protocol="tcp", ports=("80",)),))},
                    {"type": "routed"},
                    {"type": "routed", "parent": "lan0", "nat": False},
                    {"type": "macvlan", "parent": "lan0"},
                    {"type": "host", "subnets": ()},
                ]
            )
        )
        out[f"{names[0]}-{name}"] = without_inapplicable(Network(**{"subnets": subnets, **kind}))
    return out


@st.composite
def connections(draw: st.DrawFn, server: str, available: Mapping[str, Network]) -> dict[str, Any]:
    """The keys of a server that belong to its networks."""
    chosen = draw(st.lists(st.sampled_from(sorted(available)), unique=True)) if available else []
    hosts = [name for name in chosen if available[name].type == "host"]
    if not chosen or hosts:
        return {"interfaces": (Interface(name="eth0", network=hosts[0]),)} if hosts else {}
    prefix = {name: available[name].subnets[0].rpartition(".")[0] for name in chosen}
    interfaces = tuple(
        Interface(
            name=draw(st.sampled_from([f"eth{i}", f"eth{i}", f"an-interface-with-name{i}"])),
            network=name,
            addresses=draw(st.sampled_from([("auto",), ("auto",), (f"{prefix[name]}.{ord(server)}",)])),
            mac=draw(st.sampled_from([None, None, f"02:00:00:00:{i:02x}:{ord(server):02x}"])),
            gateway=i == 0,
            routes=draw(st.sampled_from([(), (Route(to="10.200.0.0/16", via=f"{prefix[name]}.1"),)])),
        )
        for i, name in enumerate(chosen)
    )
    ports = (Port(host_port=str(8000 + ord(server)), port="80"),)
    filtered = any(available[name].type != "macvlan" for name in chosen)
    return {
        "interfaces": interfaces,
        "ports": draw(st.sampled_from([(), ports])) if filtered else (),
        "dns": draw(st.sampled_from([Dns(), Dns(nameservers=("192.0.2.53",))])),
        "firewall": draw(st.sampled_from([Firewall(), Firewall(egress=())])) if filtered else Firewall(),
    }


# -- drift


def _interface(draw: Draw, world: World) -> None:
    """The root of a guest changes an interface."""
    guests = [guest for guest in world.networks.guests.values() if guest.interfaces]
    if guests:
        guest = draw(st.sampled_from(guests))
        found = guest.interfaces.pop(draw(st.sampled_from(sorted(guest.interfaces))))
        change: dict[str, Any] = draw(
            st.sampled_from(
                [{"name": "renamed"}, {"up": False, "routes": frozenset()}, {"mtu": 1300}, {"altname": "x"},
                 {"mac": "02:00:00:00:00:99"}, {"addresses": frozenset()}, {"link_up": False}, {"parent": ""},
                 {"addresses": frozenset(["10.9.9.9/8"])}, {"port_isolated": True}, None]
            )
        )  # fmt: skip
        if change is not None:
            if found.kind == "macvlan":
                change = {key: value for key, value in change.items() if key in ("up", "mtu", "addresses")}
            if found.host_routes and "parent" in change:
                change = {}
            found = replace(found, **change)
            guest.interfaces[found.name] = found


def _own_interface(draw: Draw, world: World) -> None:
    """The root of a guest creates an interface of its own, even with a name of ours."""
    if world.networks.guests:
        guest = world.networks.guests[draw(st.sampled_from(sorted(world.networks.guests)))]
        name = draw(st.sampled_from(["eth0", "eth1", "docker0"]))
        if name not in guest.interfaces:
            from vsprov.plan.network.state import Interface as Seen

            guest.interfaces[name] = Seen(name, "bridge", "02:00:00:00:00:77", 1500)


def _bridge(draw: Draw, world: World) -> None:
    """Somebody changes or deletes a bridge; its ports are then without one."""
    links = world.networks.links
    ours = [name for name, link in links.items() if naming.owner_of(link.alias)[0]]
    if ours:
        name = draw(st.sampled_from(sorted(ours)))
        change: dict[str, Any] | None = draw(
            st.sampled_from([{"up": False}, {"mtu": 1300}, {"addresses": frozenset()}, None])
        )
        if change is not None:
            links[name] = replace(links[name], **change)
            return
        world.networks.vanish(name)
        for guest in world.networks.guests.values():
            guest.interfaces = {
                key: replace(each, parent="", port_isolated=False) if each.parent == name else each
                for key, each in guest.interfaces.items()
            }


def damage_pool(draw: Draw, world: World) -> None:
    """Somebody deletes the intermediate device of a pool, its queue or a class, or sets it down."""
    pools = [link for link in world.networks.links.values() if link.name.startswith(naming.POOL_LINK)]
    if pools:
        link = draw(st.sampled_from(sorted(pools, key=lambda link: link.name)))
        numbers = sorted(link.shares)
        match draw(st.sampled_from(["link", "queue", "class", "down", "rate"])):
            case "down":
                world.networks.links[link.name] = replace(link, up=False)
            case "rate":
                world.networks.links[link.name] = replace(link, ingress=8000)
            case "class":
                world.networks.part(link.name, numbers[:1])
            case what:
                world.networks.part(link.name, numbers)
                world.networks.links[link.name] = replace(link, ingress=None, shares={})
                if what == "link":
                    world.networks.vanish(link.name)


def _sysctl(draw: Draw, world: World) -> None:
    path = draw(st.sampled_from(sorted(world.networks.sysctls)))
    world.networks.sysctls[path] = draw(st.sampled_from(["0", "1"]))


def _names(draw: Draw, world: World) -> None:
    guests = [guest for guest in world.networks.guests.values() if guest.names]
    if guests:
        guest = draw(st.sampled_from(guests))
        assert guest.names is not None
        guest.names[draw(st.sampled_from(sorted(guest.names)))] = "10.0.0.1 evil\n"


def _record(draw: Draw, world: World) -> None:
    """The record of a network is damaged; its owner mark is still there."""
    records = world.networks.records
    if records:
        name = draw(st.sampled_from(sorted(records)))
        records[name] = (records[name][0], "")


def _leftover(draw: Draw, world: World) -> None:
    """Links of servers and networks that are gone, and of others."""
    name, kind, alias = draw(
        st.sampled_from(
            [
                ("vsgone", "veth", "vsprov:vsprov:gone"),
                ("vbgone", "bridge", "vsprov:vsprov:network/gone"),
                ("vbother", "bridge", "vsprov:other:network/lan"),
            ]
        )
    )
    world.networks.links[name] = HostLink(name, kind, alias)
    world.networks.appear(name)


DRIFTS = (_interface, _interface, _own_interface, _bridge, damage_pool, _sysctl, _names, _record, _leftover)
