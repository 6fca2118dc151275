"""Networks that are no bridges of vsprov: on links of the host, routed, and the host's own stack."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from threading import Timer

import pytest

from tests import world
from tests.e2e.networks import HOST, NetworkLab, echo, idle, network, network_lab
from tests.features import lacking, requires
from tests.lab import to_yaml, wait_until
from tests.world import HOST4, OUTSIDE, OUTSIDE6, PORT, UPLINK


def identity(net: NetworkLab) -> tuple[object, ...]:
    """What vsprov might change of the bridge `theirs`; its MAC address is that of a port."""
    link = world.links(net.world.host)["theirs"]
    return link["ifindex"], link["mtu"], world.addresses(link), link.get("ifalias"), link.get("altnames")


@pytest.fixture(scope="module")
def net() -> Iterator[NetworkLab]:
    with network_lab() as made, made.world.echo_outside():
        yield made


def ready(net: NetworkLab, name: str) -> None:
    wait_until(lambda: "ready" in net.lab.console(name))


def test_a_server_on_the_lan_by_macvlan_is_a_neighbor_of_the_world(net: NetworkLab) -> None:
    requires("macvlan")
    lan = network("street", "192.0.2.0/24", "2001:db8::/64", type="macvlan", parent=UPLINK, gateway=False)
    addresses = ["192.0.2.60", "2001:db8::60"]
    web = echo("web", {"name": "eth0", "network": "street", "addresses": addresses})
    net.lab.converge(HOST, lan, web)
    ready(net, "web")
    assert world.ask(net.world.outside, "tcp", "192.0.2.60") == OUTSIDE
    assert world.ask(net.world.outside, "udp", "2001:db8::60") == OUTSIDE6
    assert net.ask("web", "tcp", OUTSIDE) == "192.0.2.60"
    # The namespace of the ended server, which has the MAC address, lives on for a while.
    held = os.open(f"/proc/{net.lab.init('web').pid}/ns/net", os.O_RDONLY)
    release = Timer(1.5, os.close, [held])
    release.start()
    net.lab.vsprov("restart", "web")
    assert not release.is_alive()
    assert net.lab.is_settled(HOST, lan, web)
    net.lab.vsprov("destroy", "-y", "-", input=to_yaml(lan, web))


@pytest.mark.parametrize(
    "subnets", [("192.0.2.64/28", "2001:db8::640/124"), ()], ids=["subnets", "addresses"]
)
def test_a_routed_server_has_an_address_of_the_lan_without_being_on_it(
    net: NetworkLab, subnets: tuple[str, ...]
) -> None:
    lan = network("leased", *subnets, type="routed", parent=UPLINK, nat=False)
    web = echo("web", {"name": "eth0", "network": "leased", "addresses": ["192.0.2.70", "2001:db8::64a"]},
               firewall={"ingress": [{"protocol": "any"}]})  # fmt: skip
    net.lab.converge(HOST, lan, web)
    ready(net, "web")
    assert net.ask("web", "tcp", OUTSIDE) == "192.0.2.70"
    assert net.ask("web", "tcp", OUTSIDE6) == "2001:db8::64a"
    assert world.ask(net.world.outside, "tcp", "192.0.2.70") == OUTSIDE
    assert world.ask(net.world.outside, "tcp", "2001:db8::64a") == OUTSIDE6
    net.lab.vsprov("restart", "web")
    assert net.lab.is_settled(HOST, lan, web)
    net.lab.vsprov("destroy", "-y", "-", input=to_yaml(lan, web))


def test_the_host_no_longer_answers_for_a_routed_server_that_has_ended_by_itself(net: NetworkLab) -> None:
    lan = network("lan", type="routed", parent=UPLINK)
    web = idle("web", {"name": "eth0", "network": "lan", "addresses": ["192.0.2.70", "2001:db8::64a"]})
    theirs = "192.0.2.99 dev uplink proxy"
    net.host("ip", "neighbor", "add", "proxy", "192.0.2.99", "dev", UPLINK)

    def proxies() -> list[str]:
        return sorted(line.strip() for line in net.host("ip", "neighbor", "show", "proxy").splitlines())

    def end() -> None:
        net.lab.converge(HOST, lan, web)
        assert len(proxies()) == 3
        os.kill(net.lab.init("web").pid, signal.SIGKILL)
        wait_until(lambda: net.lab.processes("web") == [])

    end()
    told = net.lab.differences(HOST)
    assert [path for path in told if path.endswith("status/proxy")], told
    net.lab.converge(HOST)
    assert [" ".join(line.split()) for line in proxies()] == [theirs]
    end()
    net.lab.vsprov("destroy", "-y", "-", input=to_yaml(web, lan))
    assert [" ".join(line.split()) for line in proxies()] == [theirs]
    net.host("ip", "neighbor", "delete", "proxy", "192.0.2.99", "dev", UPLINK)


def test_a_server_on_the_hosts_own_network_shares_its_stack_and_the_plan_warns(net: NetworkLab) -> None:
    lan = network("all", type="host")
    del lan["spec"]["subnets"]
    web = echo("web", {"name": "host", "network": "all"})
    plan = net.lab.plan(HOST, lan, web)
    assert "network stack of the host" in json.dumps([change["notes"] for change in plan["resource_changes"]])
    net.lab.converge(HOST, lan, web)
    ready(net, "web")
    assert world.ask(net.world.outside, "tcp", HOST4) == OUTSIDE
    assert net.lab.run("web", "python3", "-c", "import os; print(os.listdir('/sys'))").stdout.strip() == "[]"
    assert net.inside("web").keys() >= {UPLINK}
    assert net.ask("web", "udp", OUTSIDE) == HOST4
    # To another network it has to be restarted, and then the port of the host is free.
    net.lab.converge(HOST, network("lan", "10.20.0.0/24"), echo("web", "lan"))
    assert world.ask(net.world.outside, "tcp", HOST4, PORT) == "refused"
    assert net.inside("web").keys() == {"eth0"}
    net.lab.vsprov("destroy", "-y", "--all")


def test_a_bridge_of_somebody_else_is_used_and_never_changed(net: NetworkLab) -> None:
    net.host("ip", "link", "add", "theirs", "type", "bridge")
    net.host("ip", "address", "add", "10.30.0.1/24", "dev", "theirs")
    net.host("ip", "link", "set", "theirs", "up")
    try:
        before = identity(net)
        lan = network("lan", "10.30.0.0/24", bridge="theirs", gateway=False)
        servers = (echo("a", "lan"), echo("b", "lan"))
        net.lab.converge(HOST, lan, *servers)
        ready(net, "b")
        (address,) = world.addresses(net.inside("b")["eth0"])
        assert net.ask("a", "tcp", address.partition("/")[0]) not in ("silence", "unreachable", "refused")
        net.lab.vsprov("destroy", "-y", "-", input=to_yaml(lan, *servers))
        assert identity(net) == before
    finally:
        net.host("ip", "link", "delete", "theirs")


@pytest.mark.vm_subset
def test_doctor_lists_the_kinds_of_links_that_the_kernel_lacks(net: NetworkLab) -> None:
    found = json.loads(net.lab.vsprov("doctor", "-o", "json").stdout)
    states = {one["feature"]: one["state"] for one in found["findings"]}
    for kind in ("bridge", "veth", "macvlan", "ipvlan", "ifb", "tbf"):
        assert states[f"network {kind}"] == ("degraded" if lacking(kind) else "ok"), kind
    assert states["nftables"] == "ok"
