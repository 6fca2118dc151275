"""Rates of interfaces: what is measured is what was asked, and what the kernel shows is what was wanted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from tests.effort import emulated
from tests.kernel.networks import BRIDGE, Lan, Net, interface, lan
from vsprov.kernel.links import host, interfaces, observe
from vsprov.plan.network import rates
from vsprov.plan.network.state import HostLink, Interface

pytestmark = pytest.mark.requires("ip", "bridge", "veth", "ifb", "tbf")
SECONDS = 1
MORE_THAN_32_BITS = 34_359_738_368  # of bytes per second


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Lan, Net, Net]]:
    with lan() as at:
        host.make_bridge(BRIDGE)
        server, peer = at.server(), at.server()
        interfaces.make_interface(server.pid, interface(1))
        interfaces.make_interface(peer.pid, interface(2))
        yield at, server, peer


def measured(server: Net, peer: Net, *options: str, port: int = 5201) -> float:
    """Bits per second from the server to the peer over TCP, as the receiver counts them."""
    at = ["--port", str(port)]
    command = ["iperf3", "--server", "--one-off", "--forceflush", "--bind", "10.9.0.12", *at]
    with peer.background(*command):
        words = ["iperf3", "--client", "10.9.0.12", "--json", "--time", str(SECONDS), *at, *options]
        shown: dict[str, Any] = json.loads(server.run(*words))
    return float(shown["end"]["sum_received"]["bits_per_second"])


@pytest.mark.requires("iperf3")
@pytest.mark.parametrize("rate", [40_000_000, 400_000_000])
def test_measured_rates_are_within_ten_percent(shared: tuple[Lan, Net, Net], rate: int) -> None:
    _, server, peer = shared
    before = observe.interfaces(server.pid)["eth0"]
    wanted = interface(1, egress=rate, ingress=rate // 2)
    interfaces.change_interface(server.pid, wanted, before)
    assert observe.interfaces(server.pid) == {"eth0": wanted}
    assert measured(server, peer) == pytest.approx(rate, rel=0.1)
    assert measured(server, peer, "--reverse") == pytest.approx(rate // 2, rel=0.1)


@pytest.mark.parametrize(
    "rate",
    emulated(
        [8, 9, 1_000_003, 100_000_000, 34_359_738_360, MORE_THAN_32_BITS, 100_000_000_000],
        {MORE_THAN_32_BITS},
    ),
)
def test_the_rate_that_the_kernel_shows_is_the_rounded_one(shared: tuple[Lan, Net, Net], rate: int) -> None:
    _, server, _ = shared
    before = observe.interfaces(server.pid)["eth0"]
    interfaces.change_interface(server.pid, replace(before, egress=rate, ingress=rate), before)
    after = observe.interfaces(server.pid)["eth0"]
    assert (after.egress, after.ingress) == (rates.round_rate(rate), rates.round_rate(rate))
    interfaces.change_interface(server.pid, replace(after, egress=None, ingress=None), after)
    assert observe.interfaces(server.pid) == {"eth0": interface(1)}


# -- pools

POOLS = {way: f"vqtest{way}" for way in ("egress", "ingress")}


def pool(way: str, rate: int) -> HostLink:
    """The intermediate device of a pool."""
    return HostLink(POOLS[way], "ifb", "vsprov:t:quota/team", ingress=rate)


def member(number: int, **more: Any) -> Interface:
    """An interface of a server in the pool."""
    pools = {f"{way}_pool": name for way, name in POOLS.items()}
    return interface(number, **{"share": number, **pools, **more})


@dataclass(frozen=True, slots=True)
class Team:
    """Three servers in a pool, of which the third has a limit of its own, and a peer outside of it."""

    at: Lan
    servers: list[Net]
    peer: Net

    def rates(self, *options: str) -> list[float]:
        """What each server exchanges with the peer at the same time, the first one by several connections."""
        many = [("--parallel", "4"), (), ()]
        with ThreadPoolExecutor() as threads:
            return list(
                threads.map(
                    lambda number: measured(
                        self.servers[number], self.peer, *options, *many[number], port=5201 + number
                    ),
                    range(3),
                )
            )


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    with lan() as at:
        host.make_bridge(BRIDGE)
        for way, rate in (("egress", 200_000_000), ("ingress", 100_000_000)):
            host.make_pool(pool(way, rate))
        servers = [at.server() for _ in range(3)]
        # "10.9.0.12", where the peer listens, is the second one's.
        wanted = [member(1), member(3), member(4, egress=20_000_000)]
        for server, one in zip(servers, wanted, strict=True):
            interfaces.make_interface(server.pid, one)
            assert observe.interfaces(server.pid) == {"eth0": one}
        peer = at.server()
        interfaces.make_interface(peer.pid, interface(2))
        yield Team(at, servers, peer)


pooled = pytest.mark.requires("htb")


@pooled
@pytest.mark.requires("iperf3")
def test_servers_share_the_rates_of_a_pool_equally_and_keep_their_own_limits(team: Team) -> None:
    assert measured(team.servers[0], team.peer) == pytest.approx(200_000_000, rel=0.1)
    first, second, limited = team.rates()
    # They do not start at the same moment, and on a busy machine one of them may have the rate to itself.
    assert 10_000_000 < limited < 22_000_000
    assert 160_000_000 < first + second + limited < 220_000_000
    assert first == pytest.approx(second, rel=0.4)
    received = team.rates("--reverse")
    assert 80_000_000 < sum(received) < 120_000_000
    assert received == pytest.approx([sum(received) / 3] * 3, rel=0.4)


@pytest.mark.vm_subset
@pooled
def test_a_running_server_enters_and_leaves_a_pool(team: Team) -> None:
    server, wanted = team.servers[0], member(1)
    for other in (
        interface(1),
        member(1),
        member(1, egress=8_000_000),
        member(1, egress_pool="", egress=9_000_000),
        interface(1, egress=9_000_000, ingress=7_000_000),
        member(1, ingress=7_000_000),
        member(1, ingress_pool=""),
        member(1),
    ):
        interfaces.change_interface(server.pid, other, wanted)
        assert observe.interfaces(server.pid) == {"eth0": other}
        wanted = other
    interfaces.change_interface(server.pid, member(1, share=9), wanted)
    for name in POOLS.values():
        assert observe.host_links()[name].shares == {1: "vstest1", 3: "vstest3", 4: "vstest4", 9: "vstest1"}
        host.remove_shares(name, [1])
        assert observe.host_links()[name].shares == {3: "vstest3", 4: "vstest4", 9: "vstest1"}
    assert observe.interfaces(server.pid) == {"eth0": member(1, share=9)}
    assert team.at.host.names() == [
        "vbtest",
        *POOLS.values(),
        *(f"vstest{number}" for number in (1, 2, 3, 4)),
    ]


@pooled
@pytest.mark.parametrize(
    "rate", emulated([8, 1_000_003, 34_359_738_360, MORE_THAN_32_BITS, 100_000_000_000], {MORE_THAN_32_BITS})
)
def test_the_rate_of_a_pool_is_the_rounded_one(team: Team, rate: int) -> None:
    before = observe.host_links()[POOLS["ingress"]]
    host.change_pool(pool("ingress", rates.round_rate(rate)), before)
    assert observe.host_links()[POOLS["ingress"]].ingress == rates.round_rate(rate)
    server, wanted = team.servers[2], member(4, egress=rates.round_rate(rate))
    interfaces.change_interface(server.pid, wanted, observe.interfaces(server.pid)["eth0"])
    assert observe.interfaces(server.pid) == {"eth0": wanted}


@pooled
@pytest.mark.parametrize(
    ("command", "left"),
    [
        ("qdisc del dev vqtestegress root", {"egress_pool": ""}),
        ("filter del dev vqtestegress parent 7671:", {"egress_pool": ""}),
        ("qdisc del dev vstest3 clsact", {"egress_pool": "", "ingress_pool": "", "share": 0}),
        ("filter del dev vstest3 egress", {"ingress_pool": ""}),
    ],
)
def test_what_was_deleted_is_seen_and_made_anew(team: Team, command: str, left: dict[str, Any]) -> None:
    server = team.servers[1]
    team.at.host.run("tc", *command.split())
    seen = observe.interfaces(server.pid)["eth0"]
    assert seen == replace(member(3), **left)
    found = observe.host_links()[POOLS["egress"]]
    if found.ingress is None:
        host.change_pool(pool("egress", 200_000_000), found)
    interfaces.change_interface(server.pid, member(3), seen)
    assert observe.interfaces(server.pid) == {"eth0": member(3)}
