"""Bridges and interfaces of servers, made on links of a namespace that plays the host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.kernel.networks import Lan, exchange, lan
from vsprov.kernel.links import host, interfaces, observe
from vsprov.plan.network.state import HostLink, HostRoute, Interface, Route

pytestmark = [pytest.mark.vm_subset, pytest.mark.requires("ip", "bridge", "veth")]
OURS = "vsprov:t:web"
BRIDGE = HostLink(
    "vbtest",
    "bridge",
    "vsprov:t:network/lan",
    frozenset(["t.network.lan.readable"]),
    "02:00:00:00:00:99",
    1500,
    addresses=frozenset(["10.9.0.1/24", "fd09::1/64"]),
)


def interface(number: int = 1) -> Interface:
    return Interface(
        "eth0",
        "veth",
        f"02:00:00:00:00:{number:02x}",
        1400,
        frozenset([f"10.9.0.{number + 10}/24", f"fd09::{number + 10:x}/64"]),
        frozenset([Route("default", "10.9.0.1", 4), Route("default", "fd09::1", 6)]),
        altname="a-name-of-more-than-15-bytes",
        link=f"vstest{number}",
        alias=OURS,
        link_altname=f"t.web{number}.readable",
        parent="vbtest",
    )


def wanted_bridge(seen: HostLink) -> HostLink:
    return replace(seen, index=0)


@pytest.fixture
def at() -> Iterator[Lan]:
    with lan() as made:
        yield made


def test_a_bridge_is_observed_as_it_was_made_and_making_it_twice_changes_nothing(at: Lan) -> None:
    host.make_bridge(BRIDGE)
    index = host.host_link("vbtest").index
    host.make_bridge(BRIDGE)
    seen = host.host_link("vbtest")
    assert wanted_bridge(seen) == BRIDGE
    assert seen.index == index
    assert set(observe.host_routes()) == {
        HostRoute("10.9.0.0/24", "vbtest"),
        HostRoute("fd09::/64", "vbtest"),
    }


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
