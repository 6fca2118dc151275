"""What a server, or somebody on the host, does to an interface is observed and repaired."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import fields

from tests.effort import emulated
from tests.kernel.networks import BRIDGE, Lan, Net, exchange, interface, lan, namespace
from vsprov.kernel.links import host, interfaces, observe, read
from vsprov.plan.network.state import Interface

pytestmark = pytest.mark.requires("ip", "bridge", "veth", "ifb", "tbf")
WANTED = interface(1, egress=80_000_000, ingress=40_000_000)

# What is done in the server, as its root, and the fields that then differ.
INSIDE = {
    "ip link set eth0 down": "addresses routes up",
    "ip link set eth0 down; ip link set eth0 name foo": "addresses name routes up",
    # Before Linux 6.2 a link has to be down to be renamed.
    "ip link set eth0 down; ip link set eth0 name $(printf '\\377'); ip link set $(printf '\\377') up": (
        "addresses name routes"
    ),
    "ip link set eth0 mtu 1300": "mtu",
    "ip link set eth0 address 02:00:00:00:00:77": "mac",
    "ip link property del dev eth0 altname a-name-of-more-than-15-bytes": "altname",
    "ip link property add dev eth0 altname an-earlier-alternative": "altname",
    "ip address del 10.9.0.11/24 dev eth0": "addresses routes",
    "ip address del fd09::b/64 dev eth0": "addresses",
    "ip address flush dev eth0": "addresses routes",
    "ip address add 10.8.0.1/16 dev eth0": "addresses",
    "ip address del 10.9.0.11/24 dev eth0; ip address add 10.9.0.50/24 dev eth0": "addresses routes",
    "ip address add fd08::1/64 dev eth0": "addresses",
    "ip route flush dev eth0": "addresses routes",
    "ip route del 10.9.0.0/24 dev eth0": "addresses",
    "ip -6 route del fd09::/64 dev eth0": "addresses",
    "ip route add 10.77.0.0/16 via 10.9.0.99": "routes",
    "ip route replace default via 10.9.0.99": "routes",
    "ip -6 route replace fd77::/48 via fd09::99": "routes",
    "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6": "addresses routes",
}
ON_HOST = {
    "ip link set vstest1 down": "link_up",
    "ip link set vstest1 alias other": "alias",
    "ip link set vstest1 nomaster": "parent",
    "ip link set vstest1 type bridge_slave isolated on": "port_isolated",
    "ip link set vstest1 type bridge_slave hairpin on": "hairpin",
    "ip link set vstest1 type bridge_slave learning off": "settings",
    "ip link set vstest1 type bridge_slave flood off mcast_flood off bcast_flood off": "settings",
    "ip link set vstest1 type bridge_slave neigh_suppress on locked on": "settings",
    "ip link property del dev vstest1 altname t.web1.readable": "link_altname",
    "tc qdisc del dev vstest1 root": "ingress",
    "tc qdisc replace dev vstest1 root tbf rate 1mbit burst 10k latency 10ms": "ingress",
    "tc qdisc del dev vstest1 ingress": "egress",
    "tc filter del dev vstest1 ingress": "egress",
    "tc qdisc del dev vftest1 root": "egress",
    "tc qdisc replace dev vftest1 root tbf rate 1mbit burst 10k latency 10ms": "egress",
    "ip link del vftest1": "egress",
}
EMULATED = {
    "ip link set eth0 down; ip link set eth0 name $(printf '\\377'); ip link set $(printf '\\377') up",
    "ip -6 route replace fd77::/48 via fd09::99",
    "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6",
    "ip link property del dev vstest1 altname t.web1.readable",
    "tc filter del dev vstest1 ingress",
    "tc qdisc replace dev vftest1 root tbf rate 1mbit burst 10k latency 10ms",
}


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Lan, Net, Net]]:
    with lan() as at:
        host.make_bridge(BRIDGE)
        peer = at.server()
        interfaces.make_interface(peer.pid, interface(2))
        yield at, at.server(), peer


def differences(one: Interface, other: Interface) -> str:
    names = [field.name for field in fields(Interface)]
    return " ".join(sorted(name for name in names if getattr(one, name) != getattr(other, name)))


def check(server: Net, peer: Net, differ: str) -> None:
    """Something differs from WANTED; the repair restores it, with traffic in both families."""
    (seen,) = observe.interfaces(server.pid).values()
    assert differences(seen, WANTED) == differ
    interfaces.change_interface(server.pid, WANTED, seen)
    assert observe.interfaces(server.pid) == {"eth0": WANTED}
    assert exchange(server, peer, "10.9.0.11") == "10.9.0.12"
    assert exchange(server, peer, "fd09::b") == "fd09::c"
    interfaces.change_interface(server.pid, WANTED, WANTED)
    assert observe.interfaces(server.pid) == {"eth0": WANTED}


@pytest.mark.parametrize("done", emulated(INSIDE, EMULATED & INSIDE.keys()))
def test_what_a_server_does_to_its_interface_is_repaired(shared: tuple[Lan, Net, Net], done: str) -> None:
    _, server, peer = shared
    interfaces.make_interface(server.pid, WANTED)
    server.run("nsenter", "--user", "--target", str(server.pid), "sh", "-ec", done)
    check(server, peer, INSIDE[done])


@pytest.mark.parametrize("done", emulated(ON_HOST, EMULATED & ON_HOST.keys()))
def test_what_is_done_on_the_host_is_repaired(shared: tuple[Lan, Net, Net], done: str) -> None:
    at, server, peer = shared
    interfaces.make_interface(server.pid, WANTED)
    at.host.run("sh", "-ec", done)
    check(server, peer, ON_HOST[done])


@pytest.mark.parametrize(
    "done",
    emulated(
        ["ip link del eth0", "ip link set eth0 netns {}", "ip link del vstest1"],
        {"ip link set eth0 netns {}"},
    ),
)
def test_an_interface_that_has_gone_is_made_anew(shared: tuple[Lan, Net, Net], done: str) -> None:
    at, server, peer = shared
    interfaces.make_interface(server.pid, WANTED)
    with namespace() as elsewhere:
        where = at.host if "vstest1" in done else server
        where.run(*done.format(elsewhere.pid).split())
        assert observe.interfaces(server.pid) == {}
        interfaces.make_interface(server.pid, WANTED)
        assert observe.interfaces_of([server.pid, elsewhere.pid]) == {
            server.pid: {"eth0": WANTED},
            elsewhere.pid: {},
        }
    assert exchange(server, peer, "10.9.0.11") == "10.9.0.12"


@pytest.mark.vm_subset
def test_links_that_a_server_makes_are_not_taken_for_ours(shared: tuple[Lan, Net, Net]) -> None:
    _, server, _ = shared
    interfaces.make_interface(server.pid, WANTED)
    host_index = host.host_link("vstest1").index
    with namespace() as inner:
        # A pair whose other end has the index of ours in another namespace.
        server.ip(f"link add own type veth peer name x netns {inner.pid} index {host_index}")
        server.ip("link add link eth0 name over type macvlan")
        seen = observe.interfaces(server.pid)
        assert (seen["own"].link, seen["own"].alias, seen["over"].parent) == ("", "", "")
        assert seen["eth0"] == WANTED


def test_a_server_with_many_routes_does_not_hold_up_the_observation(shared: tuple[Lan, Net, Net]) -> None:
    _, server, _ = shared
    interfaces.make_interface(server.pid, WANTED)
    lines = r'{printf "route add 10.100.%d.%d/32 dev eth0\n", $1 / 256, $1 % 256}'
    server.run("sh", "-c", f"seq 4096 | awk '{lines}' | ip -batch -")
    seen = observe.interfaces(server.pid)["eth0"]
    assert read.LIMIT - 100 < len(seen.routes) < read.LIMIT + 600
    while (seen := observe.interfaces(server.pid)["eth0"]) != WANTED:
        interfaces.change_interface(server.pid, WANTED, seen)
