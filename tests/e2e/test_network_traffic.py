"""Servers on bridges talk with each other and with the world, and only with whom they may."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests import world
from tests.e2e.networks import HOST, NetworkLab, echo, idle, network, network_lab
from tests.effort import emulated
from tests.lab import wait_until
from tests.world import FAR, HOST4, HOST6, IMPATIENCE, OUTSIDE, OUTSIDE6, PORT

V4, V6 = "10.20.0", "fd20:"
LAN = network("lan", f"{V4}.0/24", f"{V6}:/64")
BACK = network("back", "10.21.0.0/24", "fd21::/64", nat=False)
CELLS = network("cells", "10.22.0.0/24", "fd22::/64", isolated=True)
# Asks db at once, by its own address, which waits for nothing. As long as db does not listen, it asks again.
FIRST = f"""
import socket, subprocess, sys
for address, own in (("{V4}.20", "{V4}.30"), ("{V6}:20", "{V6}:30")):
    one = None
    while one is None:
        try:
            one = socket.create_connection((address, {PORT}), 20, (own, 0))
        except ConnectionRefusedError:
            pass
    print("answer", one.recv(100).decode(), flush=True)
import time
time.sleep(1e6)
"""


def at(
    name: str, number: int, net: str = "lan", v4: str = V4, v6: str = V6, **more: object
) -> dict[str, object]:
    return {"name": name, "network": net, "addresses": [f"{v4}.{number}", f"{v6}:{number}"], **more}


DOCUMENTS = (
    HOST, LAN, BACK, CELLS,
    echo("web", at("eth0", 10), listens=(PORT, 7002),
         ports=["8080:7000", "8080:7000/udp", "127.0.0.1:8081:7000", "8090-8092:7001-7003",
                "0.0.0.0:8084:7000", "[::]:8086:7000"]),
    echo("db", at("eth0", 20), at("eth1", 20, "back", "10.21.0", "fd21:", gateway=False)),
    idle("first", at("eth0", 30), command=("python3", "-c", FIRST), dependsOn=[{"name": "db"}]),
    echo("store", at("eth0", 30, "back", "10.21.0", "fd21:")),
    echo("cell1", at("eth0", 10, "cells", "10.22.0", "fd22:")),
    echo("cell2", at("eth0", 20, "cells", "10.22.0", "fd22:")),
)  # fmt: skip


@pytest.fixture(scope="module")
def net() -> Iterator[NetworkLab]:
    with network_lab() as made:
        made.lab.converge(*DOCUMENTS)
        for name in ("web", "db", "store", "cell1", "cell2"):
            wait_until(lambda name=name: "ready" in made.lab.console(name))
        with made.world.echo_outside(PORT):
            yield made


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize(("address", "own"), [(f"{V4}.20", f"{V4}.10"), (f"{V6}:20", f"{V6}:10")])
def test_servers_of_a_network_talk(net: NetworkLab, protocol: str, address: str, own: str) -> None:
    assert net.ask("web", protocol, address) == own


def test_an_address_is_usable_when_the_first_instruction_runs(net: NetworkLab) -> None:
    wait_until(lambda: net.lab.console("first").count("answer") == 2)
    assert net.lab.console("first").split() == ["answer", f"{V4}.30", "answer", f"{V6}:30"]


@pytest.mark.parametrize("protocol", emulated(["tcp", "udp"], {"tcp"}))
@pytest.mark.parametrize(("address", "source"), [(OUTSIDE, HOST4), (OUTSIDE6, HOST6), (FAR, HOST4)])
def test_servers_reach_the_world_with_the_address_of_the_host(
    net: NetworkLab, protocol: str, address: str, source: str
) -> None:
    assert net.ask("web", protocol, address) == source


def test_a_network_without_nat_does_not_pretend(net: NetworkLab) -> None:
    assert net.silent("store", "tcp", OUTSIDE)  # nobody outside knows the way back


@pytest.mark.parametrize("protocol", emulated(["tcp", "udp"], {"udp"}))
@pytest.mark.parametrize(("address", "own"), [(HOST4, OUTSIDE), (HOST6, OUTSIDE6)])
def test_a_published_port_is_reached_from_outside_and_the_source_is_kept(
    net: NetworkLab, protocol: str, address: str, own: str
) -> None:
    assert world.ask(net.world.outside, protocol, address, 8080) == own


def test_a_range_of_ports_is_published_one_by_one(net: NetworkLab) -> None:
    assert world.ask(net.world.outside, "tcp", HOST4, 8091) == OUTSIDE  # 7002
    assert world.ask(net.world.outside, "tcp", HOST4, 8090) == "refused"  # nobody is on 7001


def test_a_port_of_one_address_of_the_host_is_not_on_the_others(net: NetworkLab) -> None:
    assert world.ask(net.world.outside, "tcp", HOST4, 8081, IMPATIENCE) in ("refused", "silence")
    assert world.ask(net.world.host, "tcp", "127.0.0.1", 8081) not in ("refused", "silence", "unreachable")


def test_a_port_of_all_addresses_of_one_family_is_on_each_of_them(net: NetworkLab) -> None:
    for address, own, port, other in ((HOST4, OUTSIDE, 8084, 8086), (HOST6, OUTSIDE6, 8086, 8084)):
        assert world.ask(net.world.outside, "tcp", address, port) == own
        assert world.ask(net.world.outside, "tcp", address, other, IMPATIENCE) in ("refused", "silence")


def test_a_published_port_on_the_loopback_address_of_ipv6_is_refused_at_once(net: NetworkLab) -> None:
    """Clients that ask for localhost go on with 127.0.0.1, instead of waiting for minutes."""
    assert world.ask(net.world.host, "tcp", "::1", 8080) == "refused"


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("address", ["127.0.0.1", HOST4, HOST6, f"{V4}.1", f"{V6}:1"])
def test_a_published_port_is_reached_from_the_host_itself(
    net: NetworkLab, protocol: str, address: str
) -> None:
    assert world.ask(net.world.host, protocol, address, 8080) not in ("refused", "silence", "unreachable")


@pytest.mark.parametrize("server", ["web", "db"])
@pytest.mark.parametrize("address", [HOST4, HOST6])
def test_a_published_port_is_reached_from_the_server_itself_and_its_peers(
    net: NetworkLab, server: str, address: str
) -> None:
    assert net.ask(server, "tcp", address, 8080) not in ("refused", "silence", "unreachable")


def test_only_published_ports_are_reached_from_outside(net: NetworkLab) -> None:
    world.run(net.world.outside, "ip", "route", "add", f"{V4}.0/24", "via", HOST4)
    world.run(net.world.outside, "ip", "-6", "route", "add", f"{V6}:/64", "via", HOST6)
    for address in (f"{V4}.10", f"{V4}.20", f"{V6}:10"):
        assert world.ask(net.world.outside, "tcp", address, PORT, IMPATIENCE) == "silence"
    # the destination of a published port is no secret, but the port is that of the host
    assert world.ask(net.world.outside, "tcp", f"{V4}.10", 8080, IMPATIENCE) == "silence"


def test_networks_do_not_reach_each_other_but_a_server_on_both_does(net: NetworkLab) -> None:
    assert net.silent("web", "tcp", "10.21.0.30")
    assert net.silent("web", "tcp", "fd21::30")
    assert net.silent("store", "tcp", f"{V4}.10")
    assert net.ask("db", "tcp", "10.21.0.30") == "10.21.0.20"
    assert net.ask("store", "udp", "fd21::20") == "fd21::30"


def test_servers_of_an_isolated_network_reach_the_world_only(net: NetworkLab) -> None:
    assert net.silent("cell1", "tcp", "10.22.0.20")
    assert net.silent("cell1", "udp", "fd22::20")
    assert net.ask("cell1", "tcp", OUTSIDE) == HOST4


def test_services_of_the_host_are_not_reached_but_it_answers_pings(net: NetworkLab) -> None:
    command = world.within(net.world.host, "python3", "-c", world.ECHO, str(PORT))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        try:
            assert host.stdout and host.stdout.readline() == "ready\n"
            for address in (f"{V4}.1", f"{V6}:1", HOST4, HOST6):
                assert net.silent("web", "tcp", address)
            assert world.ask(net.world.host, "tcp", "127.0.0.1") == "127.0.0.1"
        finally:
            host.kill()
    assert world.ping(net.lab.init("web").pid, f"{V4}.1") and world.ping(net.lab.init("web").pid, f"{V6}:1")


@pytest.mark.parametrize("user", ["0:0", "65534:65534", "0:65535"])
def test_every_user_of_a_server_can_ping_without_net_raw(net: NetworkLab, user: str) -> None:
    script = """
import socket, sys
for address in sys.argv[1:]:
    six = ":" in address
    family, protocol = (socket.AF_INET6, 58) if six else (socket.AF_INET, 1)  # ICMPv6, ICMP
    try:
        socket.socket(family, socket.SOCK_RAW, protocol)
    except PermissionError:
        print("not raw", end=" ")
    with socket.socket(family, socket.SOCK_DGRAM, protocol) as one:
        one.settimeout(10)
        one.sendto(bytes([128 if six else 8, 0, 0, 0, 0, 0, 0, 1]), (address, 0))
        print(one.recv(100)[0])
"""
    addresses = (f"{V4}.20", f"{V6}:20", OUTSIDE, OUTSIDE6)
    done = net.lab.vsprov("exec", "web", "--user", user, "--", "python3", "-c", script, *addresses)
    assert done.stdout.splitlines() == ["not raw 0", "not raw 129"] * 2


def test_exec_and_shell_run_in_the_network_of_the_server(net: NetworkLab) -> None:
    script = f"import socket; s = socket.create_connection(('{V4}.20', {PORT})); print(s.getsockname()[0])"
    assert net.lab.run("web", "python3", "-c", script).stdout.strip() == f"{V4}.10"
