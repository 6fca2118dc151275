"""Interfaces of kinds other than veths on a bridge: routed, macvlan and ipvlan."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from tests.kernel.networks import OURS, Lan, Net, exchange, lan
from vsprov.kernel.links import host, interfaces, machine, observe
from vsprov.plan.network.state import HostRoute, Interface, Route

pytestmark = pytest.mark.requires("ip", "veth")
ROUTED = Interface(
    "eth0",
    "veth",
    "02:00:00:00:00:01",
    1500,
    frozenset(["10.20.0.5/32", "fd20::5/128"]),
    frozenset([Route("default", "169.254.0.1", 4), Route("default", "fe80::1", 6)]),
    link="vstest1",
    alias=OURS,
    host_routes=frozenset(["10.20.0.5/32", "fd20::5/128"]),
    proxy="up0",
)
MACVLAN = Interface(
    "eth0",
    "macvlan",
    "02:00:00:00:00:01",
    1500,
    frozenset(["10.20.0.5/24", "fd20::5/64"]),
    frozenset([Route("default", "10.20.0.1", 4), Route("default", "fd20::1", 6)]),
    altname="a-name-of-more-than-15-bytes",
    alias=OURS,
    parent="up0",
    mode="bridge",
)


@pytest.fixture
def world() -> Iterator[tuple[Lan, Net]]:
    """A host that is connected by `up0` to another machine, 10.20.0.1 and fd20::1."""
    with lan() as at:
        outside = at.other()
        for net in (at.host, outside):
            net.run("sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad")
        at.host.ip(f"link add up0 type veth peer name eth0 netns {outside.pid}")
        for net, link, number in ((at.host, "up0", 2), (outside, "eth0", 1)):
            net.ip(f"link set {link} up")
            net.ip(f"address add 10.20.0.{number}/24 dev {link}")
            net.ip(f"address add fd20::{number}/64 dev {link} nodad")
        for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/up0/proxy_ndp"):
            machine.set_sysctl(f"net/{path}", "1")
        machine.set_sysctl("net/ipv4/neigh/up0/proxy_delay", "0")
        yield at, outside


@pytest.mark.vm_subset
def test_a_routed_server_has_its_addresses_in_the_network_outside(world: tuple[Lan, Net]) -> None:
    at, outside = world
    server, second = at.server(), at.server()
    other = replace(
        ROUTED,
        link="vstest2",
        addresses=frozenset(["10.20.0.6/32", "fd20::6/128"]),
        host_routes=frozenset(["10.20.0.6/32", "fd20::6/128"]),
    )
    interfaces.make_interface(server.pid, ROUTED)
    interfaces.make_interface(second.pid, other)
    assert observe.interfaces_of([server.pid, second.pid]) == {
        server.pid: {"eth0": ROUTED},
        second.pid: {"eth0": other},
    }
    assert observe.host().proxies == {(address, "up0") for address in ROUTED.host_routes | other.host_routes}
    assert HostRoute("10.20.0.5/32", "vstest1") in observe.host_routes()
    assert exchange(server, outside, "10.20.0.5") == "10.20.0.1"
    assert exchange(server, outside, "fd20::5") == "fd20::1"
    assert exchange(outside, server, "10.20.0.1") == "10.20.0.5"
    assert exchange(outside, server, "fd20::1") == "fd20::5"
    assert exchange(second, server, "10.20.0.6") == "10.20.0.5"
    assert exchange(second, server, "fd20::6") == "fd20::5"
    interfaces.remove_interface(server.pid, ROUTED)
    assert observe.host().proxies == {(address, "up0") for address in other.host_routes}
    for address in other.host_routes:
        host.remove_proxy(address, "up0")
        host.remove_proxy(address, "up0")
        host.remove_proxy(address, "nolink")
    assert observe.host().proxies == frozenset()


@pytest.mark.parametrize(
    ("done", "fields"),
    [
        ("route del 10.20.0.5 dev vstest1", {"host_routes": frozenset(["fd20::5/128"])}),
        ("-6 route del fd20::5 dev vstest1", {"host_routes": frozenset(["10.20.0.5/32"])}),
        ("neighbour del proxy 10.20.0.5 dev up0", {"proxy": ""}),
        pytest.param("neighbour del proxy fd20::5 dev up0", {"proxy": ""}, marks=pytest.mark.vm_subset),
        ("address del 169.254.0.1/32 dev vstest1", {"host_routes": frozenset(["fd20::5/128"])}),
        ("address del fe80::1/128 dev vstest1", {"host_routes": frozenset(["10.20.0.5/32"])}),
        ("link set vstest1 down", {"link_up": False, "host_routes": frozenset(), "proxy": ""}),
    ],
)
def test_what_is_done_to_a_routed_interface_is_repaired(
    world: tuple[Lan, Net], done: str, fields: dict[str, object]
) -> None:
    at, outside = world
    server = at.server()
    interfaces.make_interface(server.pid, ROUTED)
    at.host.ip(done)
    seen = observe.interfaces(server.pid)["eth0"]
    assert seen == replace(ROUTED, **fields)  # type: ignore[arg-type]
    interfaces.change_interface(server.pid, ROUTED, seen)
    assert observe.interfaces(server.pid) == {"eth0": ROUTED}
    assert exchange(server, outside, "10.20.0.5") == "10.20.0.1"
    assert exchange(server, outside, "fd20::5") == "fd20::1"


def test_a_routed_interface_gets_other_addresses_live(world: tuple[Lan, Net]) -> None:
    at, outside = world
    server = at.server()
    interfaces.make_interface(server.pid, ROUTED)
    moved = frozenset(["10.20.0.9/32"])
    routes = frozenset([Route("default", "169.254.0.1", 4)])
    wanted = replace(ROUTED, addresses=moved, host_routes=moved, routes=routes)
    interfaces.change_interface(server.pid, wanted, ROUTED)
    assert observe.interfaces(server.pid) == {"eth0": wanted}
    assert observe.host().proxies == {("10.20.0.9/32", "up0")}
    assert exchange(server, outside, "10.20.0.9") == "10.20.0.1"


@pytest.mark.vm_subset
@pytest.mark.requires("macvlan")
def test_a_macvlan_is_a_machine_of_its_own_on_the_network_of_its_parent(world: tuple[Lan, Net]) -> None:
    at, outside = world
    server = at.server()
    interfaces.make_interface(server.pid, MACVLAN)
    assert observe.interfaces(server.pid) == {"eth0": MACVLAN}
    assert exchange(outside, server, "10.20.0.1") == "10.20.0.5"
    assert exchange(server, outside, "fd20::5") == "fd20::1"
    assert at.host.names() == ["up0"]
    interfaces.make_interface(at.server().pid, replace(MACVLAN, mac="02:00:00:00:00:02", mode="private"))
    interfaces.remove_interface(server.pid, MACVLAN)
    interfaces.remove_interface(server.pid, MACVLAN)
    assert observe.interfaces(server.pid) == {}


@pytest.mark.requires("macvlan")
@pytest.mark.parametrize(
    "done",
    [
        "link set eth0 down",
        "link set eth0 down; link set eth0 name foo; link set foo up",
        "link set eth0 address 02:00:00:00:00:77",
        "link set eth0 alias other",
        "link set eth0 mtu 1300",
        "address flush dev eth0",
        "link set eth0 type macvlan mode private",
    ],
)
def test_what_a_server_does_to_its_macvlan_is_repaired(world: tuple[Lan, Net], done: str) -> None:
    at, outside = world
    server = at.server()
    interfaces.make_interface(server.pid, MACVLAN)
    for words in done.split(";"):
        server.ip(words)
    (seen,) = observe.interfaces(server.pid).values()
    assert seen != MACVLAN
    interfaces.change_interface(server.pid, MACVLAN, seen)
    assert observe.interfaces(server.pid) == {"eth0": MACVLAN}
    assert exchange(outside, server, "10.20.0.1") == "10.20.0.5"
    assert exchange(outside, server, "fd20::1") == "fd20::5"


@pytest.mark.requires("macvlan")
def test_a_macvlan_that_cannot_be_made_leaves_nothing(world: tuple[Lan, Net]) -> None:
    at, _ = world
    server = at.server()
    with pytest.raises(OSError, match="No such device: 'link nolink'"):
        interfaces.make_interface(server.pid, replace(MACVLAN, parent="nolink"))
    with pytest.raises(OSError, match="has no mode l2: 'create link eth0'"):
        interfaces.make_interface(server.pid, replace(MACVLAN, mode="l2"))
    with pytest.raises(OSError, match="limit eth0") as caught:
        interfaces.make_interface(server.pid, replace(MACVLAN, egress=8_000_000))
    assert caught.value.errno == errno.EOPNOTSUPP
    interfaces.make_interface(server.pid, MACVLAN)
    with pytest.raises(OSError, match="the server has made a link of this name"):
        interfaces.make_interface(server.pid, MACVLAN)
    assert server.names() == ["eth0"]


@pytest.mark.vm_subset
@pytest.mark.requires("ipvlan")
@pytest.mark.parametrize("mode", ["l2", "l3"])
def test_an_ipvlan_shares_the_address_of_its_parent(world: tuple[Lan, Net], mode: str) -> None:
    at, outside = world
    server = at.server()
    wanted = replace(MACVLAN, kind="ipvlan", mac="", mode=mode)
    interfaces.make_interface(server.pid, wanted)
    if mode == "l3":  # nobody answers ARP for it
        outside.ip("route add 10.20.0.5 via 10.20.0.2")
    assert observe.interfaces(server.pid) == {"eth0": wanted}
    assert exchange(outside, server, "10.20.0.1") == "10.20.0.5"
