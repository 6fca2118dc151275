"""The nft tables of an instance on the real kernel: nft lists exactly what was computed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.effort import emulated
from tests.features import requires
from tests.kernel.networks import lan
from vsprov.kernel import firewall
from vsprov.plan.network import ruleset
from vsprov.plan.network.state import FirewallNetwork, Member, Opening, Published, Tables

NETWORKS = (
    FirewallNetwork("lan", "vblan", ("10.20.0.0/24", "fd20::/64"), ("10.20.0.1",), True, False, False),
    FirewallNetwork("r", "", ("10.30.0.0/24", "fd30::/64"), (), False, False, True, routed=True),
    FirewallNetwork("x", "br0", ("192.168.0.0/24",), (), True, True, False, borrowed=True),
)
OVERLAPPING = (
    Opening("tcp", ((80, 90), (85, 100)), ("10.20.0.0/24", "10.20.0.11/32", "fd20::/64")),
    Opening("icmp", (), ()),
    Opening("any", (), ("10.20.0.128/25",)),
)
MEMBERS = (
    Member(
        "web", "vsweb", "lan", "02:00:00:00:00:0a", ("10.20.0.11", "fd20::11"),
        published=(
            Published("tcp", "", (8080, 8080), (80, 80), ("10.20.0.11", "fd20::11")),
            Published("udp", "127.0.0.1", (90, 99), (190, 199), ("10.20.0.11",)),
            Published("udp", "", (190, 199), (190, 199), ("10.20.0.11",)),
        ),
    ),
    Member("db", "vsdb", "lan", "02:00:00:00:00:0b", ("10.20.0.12", "fd20::12"), OVERLAPPING, ()),
    Member("far", "vsfar", "r", "02:00:00:00:00:0c", ("10.30.0.12", "fd30::12"), None, OVERLAPPING),
    Member("guest", "vsguest", "x", "02:00:00:00:00:0d", ("192.168.0.12",)),
)  # fmt: skip


@pytest.fixture(autouse=True)
def host() -> Iterator[None]:
    requires("root", "ip", "nft", "nft_bridge")
    with lan():
        yield


def apply(wanted: Tables) -> tuple[ruleset.Commands, ruleset.Commands]:
    widen, undo, narrow, _ = ruleset.changes(wanted, firewall.read("test"))
    firewall.run(widen)
    firewall.run(narrow)
    assert firewall.read("test") == wanted
    return widen, undo


@pytest.mark.parametrize("count", emulated(range(1, len(MEMBERS) + 1), {len(MEMBERS)}))
def test_what_is_written_is_what_nft_lists_and_elements_come_and_go(count: int) -> None:
    fewer = ruleset.tables("test", NETWORKS, MEMBERS[: count - 1])
    more = ruleset.tables("test", NETWORKS, MEMBERS[:count])
    apply(fewer)
    added, undo = apply(more)
    assert {kind for each in added for of in each.values() for kind in of} == {"element"}
    firewall.run(undo)
    assert firewall.read("test") == fewer
    apply({})


@pytest.mark.parametrize(
    "by_hand",
    ["flush ruleset", "flush chain bridge vsprov-test sent", "insert rule inet vsprov-test forward accept",
     "delete table inet vsprov-test", "flush set inet vsprov-test inside"],
)  # fmt: skip
def test_what_was_changed_by_hand_is_repaired(by_hand: str) -> None:
    wanted = ruleset.tables("test", NETWORKS, MEMBERS)
    apply(wanted)
    firewall._nft(*by_hand.split())
    assert firewall.read("test") != wanted
    apply(wanted)


def test_a_table_with_flags_is_read_and_an_own_one_repaired() -> None:
    """nft 1.0.6 prints the flags of a table wrongly, sometimes not in JSON."""
    wanted = ruleset.tables("test", NETWORKS, MEMBERS)
    apply(wanted)
    for name in ("other", "another", "vsprov-test"):
        firewall._nft(f"add table inet {name} {{ flags dormant; }}")
    assert firewall.read("test")["inet"] != wanted["inet"]
    apply(wanted)
    assert "dormant" not in firewall._nft("list table inet vsprov-test")


@pytest.mark.parametrize("flags", ['"some text"', '"two\nlines"', '"\x01', "", '"a", "b"', '["dormant"]'])
def test_whatever_nft_prints_as_the_flags_of_a_table_is_read(flags: str) -> None:
    row = '{"table": {"family": "inet", "name": "%s", "handle": 1%s}}'
    rows = ", ".join([row % ("a", ""), row % ("b", f', "flags": {flags}'), row % ("c", "")])
    found = firewall._parse(f'{{"nftables": [{rows}]}}')
    assert [each["table"]["name"] for each in found] == ["a", "b", "c"]
    cut = f'{{"nftables": [{row % ("a", "")}, {(row % ("b", ""))[:-2]}, "flags": \n'
    assert [each["table"]["name"] for each in firewall._parse(cut)] == ["a", "b"]


def test_a_ruleset_of_others_that_drops_is_found_until_it_has_a_rule_for_our_links() -> None:
    firewall._nft("add table ip filter")
    firewall._nft("add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }")
    firewall._nft("add chain ip filter DOCKER-USER")
    apply(ruleset.tables("test", NETWORKS, MEMBERS))
    (found,) = firewall.observe("test").foreign
    assert found.startswith("Docker: ") and "iptables -I DOCKER-USER -i vb+" in found
    firewall._nft("add rule ip filter DOCKER-USER iifname vb* accept")
    assert firewall.observe("test").foreign == ()
