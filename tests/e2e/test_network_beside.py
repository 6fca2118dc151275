"""Beside firewalls that drop what is forwarded: they are named, and what the plan says to do is enough."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import world
from tests.e2e.networks import HOST, NetworkLab, echo, network, network_lab
from tests.features import requires
from tests.lab import wait_until
from tests.world import HOST4, HOST6, OUTSIDE, OUTSIDE6

LAN = network("lan", "10.20.0.0/24", "fd20::/64")
WEB = echo("web", "lan", ports=["8080:7000"])
# What ufw 0.36.2 and firewalld 1.3.3 make on Debian 12 once enabled, and after the commands in the notes for
# a bridge BRIDGE. Without the lines about it, it is what they make before that.
RULESETS = Path(__file__).parent / "rulesets"
PROGRAMS = {
    "ufw.iptables": ("iptables-restore",),
    "ufw.ip6tables": ("ip6tables-restore",),
    "firewalld.nft": ("nft", "-f", "-"),
}
TABLES = {
    "ufw": ("chain FORWARD of table filter (ip)", "chain FORWARD of table filter (ip6)"),
    "firewalld": ("chain filter_FORWARD of table firewalld (inet)",),
}
ALLOW = {
    "ufw": "allow them: ufw route allow in on BRIDGE, ufw route allow out on BRIDGE",
    "firewalld": "add the bridges to a zone: firewall-cmd --zone=trusted --add-interface=BRIDGE",
}


@pytest.fixture(scope="module")
def net() -> Iterator[NetworkLab]:
    requires("iptables")
    with network_lab() as made:
        made.lab.converge(HOST, LAN, WEB)
        wait_until(lambda: "ready" in made.lab.console("web"))
        with made.world.echo_outside():
            yield made


def load(net: NetworkLab, firewall: str, bridge: str | None) -> None:
    """What the firewall makes when it allows a bridge, or before."""
    for name, command in PROGRAMS.items():
        if name.startswith(firewall):
            lines = RULESETS.joinpath(name).read_text().splitlines(keepends=True)
            text = "".join(line for line in lines if bridge or "BRIDGE" not in line)
            subprocess.run(
                world.within(net.world.host, *command),
                input=text.replace("BRIDGE", bridge or ""),
                text=True,
                check=True,
            )


def reached(net: NetworkLab) -> list[str]:
    """Who is seen by whom: the host outside by the server, and the server by the world outside."""
    to_outside = [(net.silent("web", "tcp", address), address) for address in (OUTSIDE, OUTSIDE6)]
    seconds = world.IMPATIENCE
    from_outside = [
        (world.ask(net.world.outside, "tcp", address, 8080, seconds) not in (OUTSIDE, OUTSIDE6), address)
        for address in (HOST4, HOST6)
    ]
    return [address for silent, address in (*to_outside, *from_outside) if not silent]


@pytest.mark.parametrize("firewall", ALLOW)
def test_a_firewall_that_drops_is_named_until_it_allows_the_bridge(net: NetworkLab, firewall: str) -> None:
    (bridge,) = (name for name in net.links() if name.startswith("vb"))
    before = world.snapshot(net.world.host)
    try:
        load(net, firewall, None)
        notes = net.lab.plan(HOST, LAN, WEB)["notes"]["Network/lan"]
        expected = [
            f"{firewall}: {table} drops forwarded packets; {ALLOW[firewall]}" for table in TABLES[firewall]
        ]
        assert notes == expected
        found = json.loads(net.lab.vsprov("doctor", "-o", "json", check=False).stdout)["findings"]
        assert any(ALLOW[firewall] in json.dumps(each) for each in found)
        assert not set(reached(net)) & {OUTSIDE, OUTSIDE6}
        net.host("nft", "delete", "table", "inet", "firewalld", check=False)
        load(net, firewall, bridge)
        assert "Network/lan" not in net.lab.plan(HOST, LAN, WEB)["notes"]
        assert reached(net) == [OUTSIDE, OUTSIDE6, HOST4, HOST6]
    finally:
        for table in ("inet firewalld", "ip filter", "ip6 filter"):
            net.host("nft", "delete", "table", *table.split(), check=False)
    world.assert_as(before, net.world.host)
