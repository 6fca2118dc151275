"""Rates of interfaces: what is measured is what was asked, and what the kernel shows is what was wanted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.kernel.networks import BRIDGE, Lan, Net, interface, lan
from vsprov.kernel.links import host, interfaces, observe
from vsprov.plan.network import rates

pytestmark = pytest.mark.requires("ip", "bridge", "veth", "ifb", "tbf")
SECONDS = 1


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Lan, Net, Net]]:
    with lan() as at:
        host.make_bridge(BRIDGE)
        server, peer = at.server(), at.server()
        interfaces.make_interface(server.pid, interface(1))
        interfaces.make_interface(peer.pid, interface(2))
        yield at, server, peer


def measured(server: Net, peer: Net, *options: str) -> float:
    """Bits per second from the server to the peer over TCP, as the receiver counts them."""
    command = ["iperf3", "--server", "--one-off", "--forceflush", "--bind", "10.9.0.12"]
    with peer.background(*command):
        words = ["iperf3", "--client", "10.9.0.12", "--json", "--time", str(SECONDS), *options]
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


@pytest.mark.vm_subset
@pytest.mark.parametrize(
    "rate", [8, 9, 1_000_003, 100_000_000, 34_359_738_360, 34_359_738_368, 100_000_000_000]
)
def test_the_rate_that_the_kernel_shows_is_the_rounded_one(shared: tuple[Lan, Net, Net], rate: int) -> None:
    _, server, _ = shared
    before = observe.interfaces(server.pid)["eth0"]
    interfaces.change_interface(server.pid, replace(before, egress=rate, ingress=rate), before)
    after = observe.interfaces(server.pid)["eth0"]
    assert (after.egress, after.ingress) == (rates.round_rate(rate), rates.round_rate(rate))
    interfaces.change_interface(server.pid, replace(after, egress=None, ingress=None), after)
    assert observe.interfaces(server.pid) == {"eth0": interface(1)}
