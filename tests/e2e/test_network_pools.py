"""Servers share the rates of their pool, and what belongs to it is repaired, moves and goes with them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.networks import HOST, NetworkLab, echo, idle, network
from tests.lab import Document, pool

pytestmark = pytest.mark.requires("ifb", "tbf", "htb")
LAN = network("lan", "10.20.0.0/24")


@pytest.fixture
def net(shared_net: NetworkLab) -> NetworkLab:
    """A pool with rates and two servers in it, and one without."""
    shared_net.lab.converge(*documents())
    return shared_net


def documents(*pools: Document, **of_web: Any) -> tuple[Document, ...]:
    team = pools or (pool("team", network={"egress": "40Mbit", "ingress": "80Mbit"}),)
    web = idle("web", "lan", **{"quota": "team", **of_web})
    return (HOST, LAN, *team, web, echo("db", "lan", quota="team"), idle("free", "lan"))


def devices(net: NetworkLab, of: str = "team") -> list[str]:
    """The intermediate devices of a pool."""
    mark = f":quota/{of}"
    return sorted(name for name, link in net.links().items() if link["ifalias"].endswith(mark))


def rates(net: NetworkLab, of: str = "team") -> list[str]:
    """The rates of a pool, as tc(8) shows them."""
    shown = [
        net.host("tc", "class", "show", "dev", name, "classid", "7671:ffff") for name in devices(net, of)
    ]
    return sorted(text.partition(" ceil ")[2].split()[0] for text in shown)


def shares(net: NetworkLab, of: str = "team") -> int:
    shown = [net.host("tc", "class", "show", "dev", name) for name in devices(net, of)]
    return sum(line.count("parent 7671:ffff") for text in shown for line in text.splitlines())


def test_rates_of_a_pool_change_while_its_servers_run(net: NetworkLab) -> None:
    assert (rates(net), shares(net)) == (["40Mbit", "80Mbit"], 4)
    init = net.lab.init("team/web")
    changed = documents(pool("team", network={"egress": "20Mbit"}))
    told = net.lab.differences(*changed)
    assert {cost for _, _, cost in told.values()} == {"live"}, told
    net.lab.converge(*changed)
    assert (rates(net), shares(net)) == (["20Mbit"], 2)
    net.lab.converge(*documents(pool("team")))
    assert devices(net) == []
    net.lab.converge(*documents())
    assert (rates(net), shares(net)) == (["40Mbit", "80Mbit"], 4)
    assert net.lab.init("team/web") == init


def test_the_rate_changes_for_servers_outside_the_manifest(net: NetworkLab) -> None:
    alone = pool("team", network={"ingress": "10Mbit"})
    net.lab.converge(alone)
    assert (rates(net), shares(net)) == (["10Mbit"], 2)
    assert net.lab.is_settled(*documents(alone))


@pytest.mark.parametrize("what", ["device", "queue", "redirection", "rate", "class"])
def test_what_was_deleted_by_hand_is_repaired(net: NetworkLab, what: str) -> None:
    device = devices(net)[0]
    member = next(name for name, link in net.links().items() if link["ifalias"].endswith(":web"))
    command = {
        "device": f"ip link del {device}",
        "queue": f"tc qdisc del dev {device} root",
        "redirection": f"tc qdisc del dev {member} clsact",
        "rate": f"tc class change dev {device} classid 7671:ffff htb rate 1mbit ceil 1mbit",
        "class": f"tc filter del dev {device} parent 7671:",
    }[what]
    net.host(*command.split())
    assert net.lab.plan(*documents())["resource_changes"]
    net.lab.converge(*documents())
    assert (rates(net), shares(net)) == (["40Mbit", "80Mbit"], 4)


def test_shares_move_with_a_server_and_go_with_the_last_one(net: NetworkLab) -> None:
    both = (
        pool("team", network={"egress": "40Mbit"}),
        pool("other", network={"egress": "30Mbit"}),
    )
    net.lab.converge(*documents(*both, quota="other"))
    assert (rates(net), shares(net)) == (["40Mbit"], 1)
    assert (rates(net, "other"), shares(net, "other")) == (["30Mbit"], 1)
    net.lab.vsprov("stop", "web")
    assert devices(net, "other") == []
    net.lab.vsprov("start", "web")
    assert (rates(net, "other"), shares(net, "other")) == (["30Mbit"], 1)
    net.lab.converge(*documents(*both, quota="other"))
    net.lab.vsprov("destroy", "-y", "-", input=json.dumps(idle("web", "lan", quota="other")))
    assert devices(net, "other") == []
    net.lab.converge(*documents())
    net.lab.vsprov("destroy", "--all", "-y")
    assert net.links() == {}
