"""Networks change while their servers run, and what was changed by hand is shown and repaired."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests import world
from tests.e2e.networks import HOST, NetworkLab, echo, idle, network, network_lab
from tests.instance import own_instance
from tests.lab import Document, Lab, pool, wait_until
from tests.world import HOST4, OUTSIDE, PORT, UPLINK

LAN = network("lan", "10.20.0.0/24", "fd20::/64")
BACK = network("back", "10.21.0.0/24")
WEB = echo("web", "lan")


@pytest.fixture
def net(shared_net: NetworkLab) -> NetworkLab:
    """A lab with a network and a server on it, at least."""
    shared_net.lab.converge(HOST, LAN, WEB)
    return shared_net


def eth(net: NetworkLab, name: str = "eth0", server: str = "web") -> set[str]:
    return world.addresses(net.inside(server)[name])


def live(
    net: NetworkLab, *documents: Document, costs: set[str] | None = None
) -> dict[str, tuple[Any, Any, str]]:
    """Converge without a restart of web; what the plan had said."""
    init = net.lab.init("web")
    told = net.lab.differences(*documents)
    assert {cost for _, _, cost in told.values()} <= (costs or {"live", "none"}), told
    net.lab.converge(*documents)
    assert net.lab.init("web") == init
    return told


def test_interfaces_are_added_and_removed_while_the_server_runs(net: NetworkLab) -> None:
    both = echo("web", "lan", {"name": "eth1", "network": "back", "gateway": False})
    assert "Server/web /spec/interfaces/eth1" in "".join(live(net, HOST, LAN, BACK, both))
    assert set(net.inside("web")) == {"eth0", "eth1"}
    assert len(eth(net, "eth1")) == 1
    live(net, HOST, LAN, BACK, echo("web", {"name": "eth1", "network": "back", "gateway": False}))
    assert set(net.inside("web")) == {"eth1"}
    live(net, HOST, LAN, BACK, idle("web", command=tuple(WEB["spec"]["init"]["command"])))
    assert net.inside("web") == {}
    net.lab.vsprov("destroy", "-y", "-", input=json.dumps(BACK))


def test_addresses_mtu_and_mac_change_while_the_server_runs(net: NetworkLab) -> None:
    other = {"name": "eth0", "network": "lan", "addresses": ["10.20.0.77", "fd20::77"], "mtu": 1400,
             "mac": "02:00:00:00:00:77"}  # fmt: skip
    live(net, HOST, LAN, echo("web", other))
    link = net.inside("web")["eth0"]
    assert world.addresses(link) == {"10.20.0.77/24", "fd20::77/64"}
    assert (link["mtu"], link["address"]) == (1400, "02:00:00:00:00:77")
    net.lab.apply(HOST, LAN, WEB, idle("peer", "lan"))
    assert net.ask("peer", "tcp", sorted(eth(net))[0].partition("/")[0]) != "silence"
    net.lab.vsprov("destroy", "-y", "-", input=json.dumps(idle("peer", "lan")))


def test_ports_are_published_and_withdrawn_while_the_server_runs(net: NetworkLab) -> None:
    live(net, HOST, LAN, echo("web", "lan", ports=["8080:7000"]))
    assert world.ask(net.world.outside, "tcp", HOST4, 8080) == OUTSIDE
    live(net, HOST, LAN, echo("web", "lan", ports=["8081:7000"]))
    assert world.ask(net.world.outside, "tcp", HOST4, 8081) == OUTSIDE
    assert world.ask(net.world.outside, "tcp", HOST4, 8080) == "refused"
    status = json.loads(net.lab.vsprov("get", "server", "web", "-o", "json").stdout)["status"]
    assert [port["hostPort"] for port in status["ports"]] == ["8081"]


def test_addresses_stay_over_restarts_and_of_all_others(net: NetworkLab) -> None:
    before = eth(net)
    net.lab.vsprov("restart", "web")
    assert eth(net) == before
    crowd = [idle(f"s{number}", "lan") for number in range(4)]
    net.lab.converge(HOST, LAN, WEB, *crowd)
    assert eth(net) == before
    others = [eth(net, server=f"s{number}") for number in range(4)]
    assert len({*before}.union(*others)) == 10  # two each, none twice
    net.lab.vsprov("stop", "s1")
    net.lab.vsprov("start", "s1")
    assert eth(net, server="s1") == others[1]
    net.lab.apply(HOST, LAN, WEB, flags=("--prune",))
    assert net.lab.is_settled(HOST, LAN, WEB)


def test_status_shows_interfaces_addresses_and_the_network_its_servers(net: NetworkLab) -> None:
    status = json.loads(net.lab.vsprov("get", "server", "web", "-o", "json").stdout)["status"]
    assert set(status["addresses"]) == eth(net)
    (one,) = status["interfaces"]
    link = net.inside("web")["eth0"]
    assert (one["name"], one["network"], one["mac"], one["mtu"], one["up"]) == (
        "eth0",
        "lan",
        link["address"],
        1500,
        True,
    )
    assert set(net.links()) >= {one["link"]}
    status = json.loads(net.lab.vsprov("get", "network", "lan", "-o", "json").stdout)["status"]
    assert status["servers"] == ["web"]
    assert status["addresses"] == ["10.20.0.1/24", "fd20::1/64"]
    assert net.links()[status["link"]]["linkinfo"]["info_kind"] == "bridge"


ETH0 = "/spec/interfaces/eth0"
# What is done, where, and the keys that the plan then shows.
DRIFT = {
    "the server's link is down": ("web", "ip link set eth0 down", "/status/interfaces/eth0/up"),
    "an address is missing": (
        "web", "ip address delete {address} dev eth0", f"{ETH0}/addresses, {ETH0}/routes"),
    "an address too many": ("web", "ip address add 10.20.0.250/24 dev eth0", f"{ETH0}/addresses"),
    "the mac address": ("web", "ip link set eth0 address 02:11:22:33:44:55", f"{ETH0}/mac"),
    "the mtu": ("web", "ip link set eth0 mtu 1300", f"{ETH0}/mtu"),
    "the default route": ("web", "ip route delete default", f"{ETH0}/routes"),
    "the name": (
        "web", "ip link set eth0 down; ip link set eth0 name wan; ip link set wan up",
        f"/status/interfaces/eth0/name, {ETH0}/addresses, {ETH0}/routes"),
    "the link is deleted": ("web", "ip link delete eth0", ETH0),
    "the host's end is down": ("host", "ip link set {link} down", "/status/interfaces/eth0/hostUp"),
    "the host's end is in no bridge": ("host", "ip link set {link} nomaster", f"{ETH0}/network"),
    "the host's end is gone": ("host", "ip link delete {link}", ETH0),
    "the bridge is down": ("host", "ip link set {bridge} down", "/status/link"),
    "the bridge sends the packets of each server to all": (
        "host",
        "ip link set {bridge} type bridge ageing_time 0; ip link set {link} type bridge_slave learning off",
        "/status/settings, /status/interfaces/eth0/port"),
    "the bridge has no address": ("host", "ip address delete 10.20.0.1/24 dev {bridge}", "/status/addresses"),
    "the bridge is gone": ("host", "ip link delete {bridge}", f"/status/link, {ETH0}/network"),
    "the firewall is flushed": ("host", "nft flush ruleset", "/firewall, /firewall"),
    "the host forwards nothing": (
        "host", "echo 0 > /proc/sys/net/ipv4/conf/uplink/forwarding",
        "/sysctls/net/ipv4/conf/uplink/forwarding"),
    "the bridge forwards nothing": (
        "host", "echo 0 > /proc/sys/net/ipv4/conf/{bridge}/forwarding",
        "/Network~1lan: status/ipv4/forwarding"),
}  # fmt: skip


@pytest.mark.parametrize("what", DRIFT)
def test_what_was_changed_by_hand_is_shown_and_repaired(net: NetworkLab, what: str) -> None:
    where, script, keys = DRIFT[what]
    init = net.lab.init("web")
    bridge = next(name for name, link in net.links().items() if link["linkinfo"]["info_kind"] == "bridge")
    link = next(name for name, link in net.links().items() if link["linkinfo"]["info_kind"] == "veth")
    v4 = next(address for address in eth(net) if "." in address)
    script = script.format(link=link, bridge=bridge, address=v4)
    before = world.snapshot(net.world.host)
    if where == "host":
        net.host("sh", "-c", script)
    else:
        subprocess.run(["nsenter", f"--net=/proc/{init.pid}/ns/net", "sh", "-ec", script], check=True)
    plan = net.lab.plan(HOST, LAN, WEB)
    assert plan["problems"] == []
    assert [path["path"] for each in plan["resource_changes"] for path in each["paths"]] == keys.split(", ")
    net.lab.converge(HOST, LAN, WEB)
    assert net.lab.init("web") == init
    assert eth(net) >= {v4} and len(eth(net)) == 2
    world.assert_as(before, net.world.host)
    assert net.ask("web", "tcp", OUTSIDE, PORT) == "refused"  # it is there, and nobody listens


def test_a_server_that_is_killed_is_started_again_with_its_network(net: NetworkLab) -> None:
    before = eth(net)
    subprocess.run(["kill", "-9", str(net.lab.init("web").pid)], check=True)
    wait_until(lambda: net.lab.processes("web") == [])
    net.lab.converge(HOST, LAN, WEB)
    assert eth(net) == before


def test_a_link_of_somebody_else_is_named_and_left_alone(net: NetworkLab) -> None:
    link = next(name for name, each in net.links().items() if each["linkinfo"]["info_kind"] == "veth")
    net.lab.vsprov("stop", "web")
    wait_until(lambda: link not in world.links(net.world.host))
    net.host("ip", "link", "add", link, "type", "bridge")
    try:
        told = net.lab.refused(HOST, LAN, WEB)
        assert f"link {link}" in told
        assert world.links(net.world.host)[link]["linkinfo"]["info_kind"] == "bridge"
    finally:
        net.host("ip", "link", "delete", link)


@pytest.mark.parametrize("done", ["link set {link} type bridge_slave isolated on", "link delete {bridge}"])
def test_an_apply_of_a_network_repairs_how_servers_outside_the_manifest_are_connected(
    net: NetworkLab, done: str
) -> None:
    """But nothing that is theirs, as with limits."""
    init = net.lab.init("web")
    kinds = {link["linkinfo"]["info_kind"]: name for name, link in net.links().items()}
    net.host("ip", *done.format(link=kinds["veth"], bridge=kinds["bridge"]).split())
    strange = ["ip", "address", "add", "10.20.0.250/24", "dev", "eth0"]
    subprocess.run(["nsenter", f"--net=/proc/{init.pid}/ns/net", *strange], check=True)
    net.lab.converge(LAN)
    link = world.links(net.world.host)[kinds["veth"]]
    assert (link["master"], link["linkinfo"]["info_slave_data"]["isolated"]) == (kinds["bridge"], False)
    assert "10.20.0.250/24" in eth(net)
    net.lab.converge(HOST, LAN, WEB)
    assert "10.20.0.250/24" not in eth(net)
    assert net.lab.init("web") == init


@pytest.mark.requires("ifb", "htb")
@pytest.mark.parametrize("kind", ["bridge", "ifb"])
def test_a_link_whose_mark_was_changed_by_hand_is_one_problem_that_says_what_to_do(
    net: NetworkLab, kind: str
) -> None:
    documents = (HOST, LAN, pool("team", network={"ingress": "30Mbit"}), echo("web", "lan", quota="team"))
    net.lab.converge(*documents)
    name, mark = next(
        (name, link["ifalias"]) for name, link in net.links().items() if link["linkinfo"]["info_kind"] == kind
    )
    net.host("ip", "link", "set", name, "alias", "other")
    told = net.lab.refused(*documents)
    assert told.count("vsprov: ") == 1 and f"link {name} exists and is not its" in told
    net.host("sh", "-c", told.partition("restore that: ")[2].partition(";")[0])
    assert net.links()[name]["ifalias"] == mark
    assert net.lab.is_settled(*documents)
    net.lab.converge(HOST, LAN, WEB)
    net.lab.vsprov("destroy", "-y", "-", input=json.dumps(pool("team")))


def test_a_subnet_that_goes_although_a_server_outside_the_manifest_uses_it_is_pointed_out(
    net: NetworkLab,
) -> None:
    def notes(*documents: Document) -> list[str]:
        changes = net.lab.plan(*documents)["resource_changes"]
        return [note for each in changes if each["address"] == "Network/lan" for note in each["notes"]]

    kept = next(text for text in eth(net) if "." in text)
    told = f"Server/web, which is not in the manifest, keeps {kept} of a subnet that goes"
    assert notes(network("lan", "10.23.0.0/24", "fd20::/64")) == [told]
    assert notes(network("lan", "10.20.0.0/24", "fd20::/64", "fd21::/64")) == []


def test_forwarding_stays_while_another_instance_has_networks() -> None:
    with network_lab() as net:
        with own_instance(network=net.world.host) as other:
            Lab(other).converge(network("far", "10.29.0.0/24", "fd29::/64"))
            net.lab.converge(LAN)
        assert net.lab.is_settled(LAN)
        assert net.host("sysctl", "-n", f"net.ipv4.conf.{UPLINK}.forwarding") == "1\n"
        # The first instance knew how it had been, and is gone.
        for name in (f"ipv4.conf.{UPLINK}.forwarding", f"ipv6.conf.{UPLINK}.force_forwarding"):
            net.host("sysctl", "-qw", f"net.{name}=0", check=False)
        net.host("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0")
