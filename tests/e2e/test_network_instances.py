"""Two instances on one host: what they cannot both have is found, and named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.networks import HOST, NetworkLab, idle, network, network_lab
from tests.instance import own_instance
from tests.lab import Lab
from tests.world import HOST4, UPLINK

LAN = network("lan", "10.20.0.0/24", "fd20::/64")
PEER = network("lan", "10.30.0.0/24", "fd30::/64")
PORTS = ("8080:80", f"{HOST4}:9000-9010:9000-9010/udp", "7000-7002:80-82")


@pytest.fixture(scope="module")
def net() -> Iterator[NetworkLab]:
    """An instance with servers, beside which tests have another."""
    with network_lab() as made:
        made.host("ip", "link", "add", "shared", "type", "bridge")
        made.host("ip", "link", "set", "shared", "up")
        made.lab.converge(
            HOST,
            LAN,
            network("hidden", "10.40.0.0/24", gateway=False),
            network("own", type="routed", parent=UPLINK),
            network("street", "10.50.0.0/29", bridge="shared", gateway=False),
            idle("web", "lan", ports=list(PORTS)),
            idle("one", {"name": "eth0", "network": "own", "addresses": ["192.0.2.50", "2001:db8::50"]}),
            idle("two", "street"),
        )
        yield made
        made.lab.vsprov("destroy", "-y", "--all")
        made.host("ip", "link", "delete", "shared")


@contextmanager
def another(net: NetworkLab) -> Iterator[Lab]:
    with own_instance(network=net.world.host) as instance:
        yield Lab(instance)


@pytest.mark.parametrize(
    "port",
    ["8080:1", f"{HOST4}:8080:80", "8000-8100:8000-8100", f"{HOST4}:9010:1/udp", "9005:9005/udp", "7001:81"],
)
def test_a_port_that_another_instance_publishes_is_refused(net: NetworkLab, port: str) -> None:
    with another(net) as other:
        told = other.refused(HOST, PEER, idle("site", "lan", ports=[port]))
    assert f"of the host is published by Server/web of instance {net.lab.vsprov.name}" in told
    assert "choose another hostPort or hostIP" in told


def test_other_ports_and_addresses_are_published_beside_those_of_another_instance(net: NetworkLab) -> None:
    free = ["8081:80", "8080:80/udp", "127.0.0.1:9000-9010:9000-9010/udp", f"{HOST4}:9011:9000/udp"]
    with another(net) as other:
        other.converge(HOST, PEER, idle("site", "lan", ports=free))
        ports: dict[str, Any] = {"ports": [*PORTS, "8081:81"]}
        told = net.lab.refused(HOST, LAN, idle("web", "lan", **ports))
        assert f"8081/tcp of the host is published by Server/site of instance {other.vsprov.name}" in told


@pytest.mark.parametrize("subnet", ["10.20.0.128/25", "10.0.0.0/8", "fd20::/64"])
def test_a_subnet_that_overlaps_one_of_another_instance_is_refused(net: NetworkLab, subnet: str) -> None:
    with another(net) as other:
        told = other.refused(network("mine", subnet))
        assert "which the host reaches by" in told
        assert f"network lan of instance {net.lab.vsprov.name}" in told


def test_bridges_without_an_address_of_the_host_may_have_the_same_subnet(net: NetworkLab) -> None:
    with another(net) as other:
        other.converge(network("mine", "10.40.0.0/24", gateway=False))


@pytest.mark.parametrize("address", ["192.0.2.50", "2001:db8::50"])
def test_an_address_that_another_instance_routes_is_refused(net: NetworkLab, address: str) -> None:
    with another(net) as other:
        site = idle("site", {"name": "eth0", "network": "own", "addresses": [address]})
        told = other.refused(HOST, network("own", type="routed", parent=UPLINK), site)
    assert f"{address} is already an address of Server/one of instance {net.lab.vsprov.name}" in told


def test_servers_of_two_instances_on_one_bridge_have_different_addresses(net: NetworkLab) -> None:
    street = network("street", "10.50.0.0/29", bridge="shared", gateway=False)
    mine = net.lab.vsprov("get", "server", "two", "-o", "json").stdout
    with another(net) as other:
        other.converge(HOST, street, idle("two", "street"), idle("three", "street"))
        given = [
            one
            for name in ("two", "three")
            for one in other.vsprov("get", "server", name, "-o", "json").stdout.split('"')
            if one.startswith("10.50.0.")
        ]
        taken = {one for one in mine.split('"') if one.startswith("10.50.0.")}
        assert len(set(given)) == 2 and not taken & set(given)
        static = idle(
            "four", {"name": "eth0", "network": "street", "addresses": [taken.pop().partition("/")[0]]}
        )
        told = other.refused(HOST, street, static)
        assert f"is already an address of Server/two of instance {net.lab.vsprov.name}" in told
