"""Random servers, networks and firewalls: nft lists what was computed, and any state leads to any other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.effort import examples
from tests.features import requires
from tests.kernel.networks import lan
from vsprov.kernel import firewall
from vsprov.plan.network import ruleset
from vsprov.plan.network.state import FirewallNetwork, Member, Opening, Published, Tables

NAMES = ("m", "n", "o", "p")
HOST_ADDRESSES = ("", "0.0.0.0", "::", "127.0.0.1", "192.0.2.1", "2001:db8::1")
PORTS = st.integers(1, 65535)
State = tuple[list[FirewallNetwork], list[Member]]


@pytest.fixture(scope="module", autouse=True)
def host() -> Iterator[None]:
    requires("root", "ip", "nft", "nft_bridge")
    with lan():
        yield


def ends(of: Sequence[int]) -> tuple[int, int]:
    return min(of), max(of)


RANGES = st.one_of(PORTS.map(lambda port: (port, port)), st.tuples(PORTS, PORTS).map(ends))
PEERS = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
        lambda net: str(ip_network(net, strict=False)) if net[0] >= 0 else ""
    ),
    st.tuples(st.integers(2**32, 2**128 - 1), st.integers(0, 128)).map(
        lambda net: str(ip_network(net, strict=False))
    ),
    st.sampled_from(["10.0.0.0/24", "10.0.0.11/32", "10.0.0.0/25", "fd00::/64", "fd00::b/128"]),
)


@st.composite
def openings(draw: st.DrawFn) -> Opening:
    protocol = draw(st.sampled_from(["tcp", "udp", "icmp", "any"]))
    ports = draw(st.lists(RANGES, max_size=3)) if protocol in ("tcp", "udp") else []
    return Opening(protocol, tuple(ports), tuple(draw(st.lists(PEERS, max_size=3))))


FIREWALLS = st.one_of(st.none(), st.lists(openings(), max_size=3).map(tuple))


@st.composite
def networks(draw: st.DrawFn) -> list[FirewallNetwork]:
    out = []
    for number, name in enumerate(draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3))):
        subnets = draw(
            st.sampled_from(
                [
                    (f"10.{number}.0.0/24",),
                    (f"fd0{number}::/64",),
                    (f"10.{number}.0.0/24", f"fd0{number}::/64"),
                ]
            )
        )
        gateways = tuple(subnet.replace(".0/24", ".1").replace("::/64", "::1") for subnet in subnets)
        nat, isolated, access, routed, borrowed = draw(st.tuples(*[st.booleans()] * 5))
        link = "" if routed else f"br{name}" if borrowed else f"vb{name}"
        out.append(
            FirewallNetwork(
                name, link, subnets, () if routed or draw(st.booleans()) else gateways,
                nat, isolated, access, routed, borrowed and not routed,
            )
        )  # fmt: skip
    return out


@st.composite
def states(draw: st.DrawFn) -> State:
    """Networks with servers, whose published ports do not clash."""
    nets = draw(networks())
    members: list[Member] = []
    free = draw(st.integers(1, 1000))
    for number in range(draw(st.integers(0, 4)) if nets else 0):
        net = draw(st.sampled_from(nets))
        own = tuple(
            subnet.replace(".0/24", f".{number + 10}").replace("::/64", f"::{number + 10}")
            for subnet in net.subnets
        )
        published = []
        for _ in range(draw(st.integers(0, 3))):
            length, inner = draw(st.integers(0, 20)), draw(st.integers(1, 60000))
            address = draw(st.sampled_from(HOST_ADDRESSES))
            protocol = draw(st.sampled_from(["tcp", "udp"]))
            published.append(
                Published(protocol, address, (free, free + length), (inner, inner + length), own)  # type: ignore[arg-type]
            )
            free += length + draw(st.integers(1, 3))
        members.append(
            Member(
                f"s{number}", f"vs{number}", net.name, f"02:00:00:00:00:{number:02x}", own,
                draw(FIREWALLS), draw(FIREWALLS), tuple(published),
            )
        )  # fmt: skip
    return nets, members


def lead_to(wanted: Tables) -> None:
    widen, _, narrow, why = ruleset.changes(wanted, firewall.read("test"))
    firewall.run(widen)
    firewall.run(narrow)
    assert firewall.read("test") == wanted
    assert bool(widen or narrow) == bool(why)


def listed() -> list[str]:
    """What nft lists, whatever the order of elements."""
    return sorted(firewall._nft("list ruleset").replace(",", "\n").split())


@examples(12)
@given(st.lists(states(), min_size=1, max_size=3))
def test_each_state_of_the_firewall_leads_to_any_other(steps: list[State]) -> None:
    tables = [ruleset.tables("test", *state) for state in steps]
    for wanted in tables:
        lead_to(wanted)
    changed = listed()
    lead_to({})
    assert listed() == []
    lead_to(tables[-1])
    assert listed() == changed
    lead_to({})


def test_a_thousand_ports_and_openings_are_loaded_at_once_and_half_of_them_removed() -> None:
    nets = [FirewallNetwork("m", "vbm", ("10.0.0.0/16", "fd00::/64"), ("10.0.0.1",), True, False, False)]
    members = []
    for number in range(10, 1010):
        own = (f"10.0.{number // 250}.{number % 250}", f"fd00::{number}")
        port = Published("tcp", "", (number, number), (80, 80), own)
        opening = Opening("tcp", ((80, 80), (8000, 8000 + number)), (f"10.1.{number // 250}.0/24",))
        mac = f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
        members.append(Member(f"s{number}", f"vs{number}", "m", mac, own, (opening,), published=(port,)))
    wanted = ruleset.tables("test", nets, members)
    widen, _, narrow, _ = ruleset.changes(wanted, {})
    assert narrow == []
    firewall.run(widen)
    assert firewall.read("test") == wanted
    fewer = ruleset.tables("test", nets, members[::2])
    lead_to(fewer)
    lead_to(wanted)
    lead_to({})
