"""Bridges and interfaces of servers, made on links of a namespace that plays the host."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from msgspec.structs import replace

from tests.effort import emulated
from tests.kernel.networks import BRIDGE, Lan, exchange, interface, lan, namespace
from vsprov.kernel.links import host, interfaces, machine, netlink, observe
from vsprov.plan.network.state import HostLink, HostRoute, Route

T = TypeVar("T")
pytestmark = pytest.mark.requires("ip", "bridge", "veth")


@pytest.fixture
def at() -> Iterator[Lan]:
    with lan() as made:
        yield made


def bridge() -> HostLink:
    return replace(host.host_link("vbtest"), index=0)


def in_host(at: Lan, work: Callable[[], T]) -> T:
    """Do it in another thread, which begins in the namespace of the machine."""
    with netlink.inside(at.host.pid):
        return work()


@pytest.mark.vm_subset
def test_a_bridge_is_observed_as_it_was_made_and_making_it_twice_changes_nothing(at: Lan) -> None:
    host.make_bridge(BRIDGE)
    index = host.host_link("vbtest").index
    host.make_bridge(BRIDGE)
    assert bridge() == BRIDGE
    assert host.host_link("vbtest").index == index
    assert set(observe.host_routes()) == {
        HostRoute("10.9.0.0/24", "vbtest"),
        HostRoute("fd09::/64", "vbtest"),
    }


@pytest.mark.vm_subset
def test_a_bridge_without_ipv6_has_no_link_local_address_and_one_with_it_has(at: Lan) -> None:
    host.make_bridge(replace(BRIDGE, addresses=frozenset(["10.9.0.1/24"])))
    assert "fe80" not in at.host.run("ip", "-6", "address", "show", "dev", "vbtest")
    host.change_link(BRIDGE, bridge())
    assert bridge() == BRIDGE
    assert "fe80::ff:fe00:99/64" in at.host.run("ip", "-6", "address", "show", "dev", "vbtest")


@pytest.mark.parametrize(
    "done",
    emulated([
        "link set vbtest down",
        "link set vbtest mtu 1300",
        "link set vbtest address 02:00:00:00:00:77",
        "link set vbtest alias other",
        "link property del dev vbtest altname t.network.lan.readable",
        "link property add dev vbtest altname another.long.alternative",
        "address del 10.9.0.1/24 dev vbtest",
        "address add 10.7.0.1/24 dev vbtest",
        "address flush dev vbtest",
        "route flush dev vbtest",
        "link set vbtest type bridge stp_state 1",
        "link set vbtest type bridge ageing_time 0",
        "link set vbtest type bridge no_linklocal_learn 0",
    ], {"address flush dev vbtest"}),
)  # fmt: skip
def test_what_was_done_to_a_bridge_by_hand_is_observed_and_repaired(at: Lan, done: str) -> None:
    host.make_bridge(BRIDGE)
    at.host.ip(done)
    seen = bridge()
    assert seen != BRIDGE
    host.change_link(BRIDGE, seen)
    assert bridge() == BRIDGE


@pytest.mark.requires("vlan_filtering")
def test_a_bridge_that_was_told_to_filter_vlans_by_hand_forwards_again(at: Lan) -> None:
    host.make_bridge(BRIDGE)
    at.host.ip("link set vbtest type bridge vlan_filtering 1")
    assert bridge().settings == {"vlan_filtering=1"}
    host.change_link(BRIDGE, bridge())
    assert bridge() == BRIDGE


def test_ipv6_that_was_disabled_by_hand_is_enabled(at: Lan) -> None:
    host.make_bridge(BRIDGE)
    at.host.run("sysctl", "-qw", "net.ipv6.conf.vbtest.disable_ipv6=1")
    host.change_link(BRIDGE, bridge())
    assert bridge() == BRIDGE


def test_a_bridge_of_somebody_else_is_not_taken_over(at: Lan) -> None:
    at.host.ip("link add vbtest type bridge")
    at.host.ip("link set vbtest alias somebody")
    before = at.host.show("link show vbtest")
    with pytest.raises(OSError, match="File exists: a link of kind bridge with alias 'somebody'") as caught:
        host.make_bridge(BRIDGE)
    assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, "create link vbtest")
    assert not host.remove_link("vbtest", BRIDGE.alias)
    assert at.host.show("link show vbtest") == before


@pytest.mark.vm_subset
def test_servers_on_a_bridge_talk_in_both_families_at_once(at: Lan) -> None:
    host.make_bridge(BRIDGE)
    one, two = at.server(), at.server()
    interfaces.make_interface(one.pid, interface(1))
    interfaces.make_interface(two.pid, interface(2))
    assert observe.interfaces_of([one.pid, two.pid]) == {
        one.pid: {"eth0": interface(1)},
        two.pid: {"eth0": interface(2)},
    }
    assert exchange(one, two, "10.9.0.11") == "10.9.0.12"
    assert exchange(one, two, "fd09::b") == "fd09::c"
    assert exchange(at.host, two, "10.9.0.1") == "10.9.0.12"
    assert exchange(at.host, two, "fd09::1") == "fd09::c"


@pytest.mark.vm_subset
def test_isolated_ports_reach_the_host_but_not_each_other(at: Lan) -> None:
    host.make_bridge(BRIDGE)
    one, two = at.server(), at.server()
    for number, server in enumerate((one, two), 1):
        interfaces.make_interface(server.pid, interface(number, port_isolated=True))
        assert observe.interfaces(server.pid)["eth0"].port_isolated
    assert exchange(at.host, two, "10.9.0.1") == "10.9.0.12"
    with pytest.raises(OSError, match="timed out"):
        exchange(one, two, "10.9.0.11", seconds=0.3)
    interfaces.change_interface(one.pid, interface(1), observe.interfaces(one.pid)["eth0"])
    assert exchange(one, two, "10.9.0.11") == "10.9.0.12"


def test_the_end_on_the_host_has_no_link_local_address(at: Lan) -> None:
    host.make_bridge(BRIDGE)
    interfaces.make_interface(at.server().pid, interface())
    assert "inet6" not in at.host.run("ip", "address", "show", "dev", "vstest1")


def test_a_hop_outside_of_the_subnets_and_more_routes_work(at: Lan) -> None:
    host.make_bridge(BRIDGE)
    server = at.server()
    routes = frozenset(
        [
            Route("default", "192.0.2.1", 4),
            Route("10.50.0.0/16", "10.9.0.1", 4),
            Route("10.51.0.0/16", "", 4),
            Route("fd50::/48", "fe80::1", 6),
            Route("fd51::/48", "", 6),
        ]
    )
    wanted = interface(routes=routes)
    interfaces.make_interface(server.pid, wanted)
    assert observe.interfaces(server.pid) == {"eth0": wanted}


def test_an_interface_of_a_dying_namespace_is_replaced(at: Lan) -> None:
    host.make_bridge(BRIDGE)
    old, new = at.server(), at.server()
    wanted = interface(egress=8_000_000)
    interfaces.make_interface(old.pid, wanted)
    interfaces.make_interface(new.pid, wanted)
    assert observe.interfaces_of([old.pid, new.pid]) == {old.pid: {}, new.pid: {"eth0": wanted}}


@pytest.mark.parametrize("name", ["vstest1", "vftest1"])
def test_a_link_of_somebody_else_with_the_name_of_ours_is_not_touched(at: Lan, name: str) -> None:
    host.make_bridge(BRIDGE)
    server = at.server()
    at.host.ip(f"link add {name} type veth peer theirs")
    before = at.host.show(f"link show {name}")
    with pytest.raises(OSError, match="File exists: a link of kind veth with no alias") as caught:
        interfaces.make_interface(server.pid, interface(egress=8_000_000))
    assert caught.value.filename == f"create link {name}"
    interfaces.remove_interface(server.pid, interface())
    assert at.host.show(f"link show {name}") == before
    assert at.host.names() == sorted([name, "theirs", "vbtest"])
    assert server.names() == []


def test_an_interface_that_cannot_be_made_leaves_nothing(at: Lan) -> None:
    host.make_bridge(BRIDGE)
    server = at.server()
    server.ip("link add eth0 type bridge")
    with pytest.raises(OSError, match="File exists: the server has made a link of this name"):
        interfaces.make_interface(server.pid, interface())
    server.ip("link del eth0")
    with pytest.raises(OSError, match=r"No such device: 'link nobridge'"):
        interfaces.make_interface(server.pid, interface(parent="nobridge"))
    with pytest.raises(OSError, match=r"Cannot assign requested address|Invalid argument"):
        interfaces.make_interface(server.pid, interface(mac="ff:ff:ff:ff:ff:ff"))
    with pytest.raises(OSError, match=r"'add route to 10.1.0.0/16 via 127.0.0.1 on eth0'"):
        routes = frozenset([Route("10.1.0.0/16", "127.0.0.1", 4)])
        interfaces.make_interface(server.pid, interface(routes=routes, egress=8_000_000))
    with pytest.raises(OSError, match="alternative name"):
        interfaces.make_interface(server.pid, interface(link_altname="t.network.lan.readable"))
    assert (at.host.names(), server.names()) == (["vbtest"], [])


def test_a_process_that_does_not_exist_is_an_error_or_nothing(at: Lan) -> None:
    with namespace() as gone:
        pid = gone.pid
    with pytest.raises(ProcessLookupError, match=f"process {pid}"):
        interfaces.make_interface(pid, interface())
    with pytest.raises(ProcessLookupError):
        interfaces.change_interface(pid, interface(), interface())
    interfaces.remove_interface(pid, interface())
    assert observe.interfaces(pid) == {}


def test_removed_interfaces_leave_nothing_and_links_go_with_their_namespace(at: Lan) -> None:
    host.make_bridge(BRIDGE)
    server = at.server()
    wanted = interface(egress=8_000_000, ingress=8_000_000)
    interfaces.make_interface(server.pid, wanted)
    interfaces.remove_interface(server.pid, wanted)
    interfaces.remove_interface(server.pid, wanted)
    assert (at.host.names(), server.names()) == (["vbtest"], [])
    with namespace() as short:
        interfaces.make_interface(short.pid, interface())
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(in_host, at, lambda: host.wait_gone(["vstest1", "never"], 0.3))
            at.host.ip("link set vstest1 nomaster")
        assert waiting.result() == {"vstest1"}
    assert host.wait_gone(["vstest1"], 10) == frozenset()
    assert at.host.names() == ["vbtest"]


def test_two_hundred_rounds_leave_nothing(at: Lan) -> None:
    host.make_bridge(BRIDGE)
    server = at.server()
    fds = len(os.listdir("/proc/self/fd"))
    for _ in range(200):
        interfaces.make_interface(server.pid, interface())
        interfaces.remove_interface(server.pid, interface())
    assert (at.host.names(), server.names()) == (["vbtest"], [])
    assert len(os.listdir("/proc/self/fd")) == fds
    host.remove_link("vbtest", BRIDGE.alias)
    assert at.host.names() == []


@pytest.mark.vm_subset
def test_sockets_that_occupy_ports_are_found_with_their_processes(at: Lan) -> None:
    program = (
        "import socket; a = socket.create_server(('127.0.0.1', 81)); "
        "b = socket.create_server(('::', 82), family=socket.AF_INET6, dualstack_ipv6=True); "
        "c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); c.bind(('', 83)); "
        "d = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); d.setsockopt(41, 26, 1); d.bind(('::', 84)); "
        "print(flush=True); import sys; sys.stdin.read()"
    )
    with at.host.background("python3", "-c", program):
        found = machine.listeners(with_processes=True)
    assert [(one.protocol, one.address, one.port) for one in found] == [
        ("tcp", "127.0.0.1", 81),
        ("tcp", "0.0.0.0", 82),
        ("tcp", "::", 82),
        ("udp", "0.0.0.0", 83),
        ("udp", "::", 84),
    ]
    assert {one.process for one in found} == {"python3"}
    assert machine.listeners() == ()


def test_sysctls_are_those_of_the_namespace(at: Lan) -> None:
    assert machine.read_sysctl("net/ipv4/conf/nolink/forwarding") is None
    machine.set_sysctl("net/ipv4/ip_forward", "1")
    assert machine.read_sysctl("net/ipv4/ip_forward") == "1"
    with pytest.raises(FileNotFoundError):
        machine.set_sysctl("net/ipv4/conf/nolink/forwarding", "1")
