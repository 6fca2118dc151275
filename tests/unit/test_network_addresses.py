"""Addresses, MAC addresses and names of links: stable, never twice, and within what the kernel accepts."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.effort import examples
from vsprov.plan.network import naming
from vsprov.plan.network.desired.addresses import Place, assign, gateway


def place(server: str, *given: str, subnets: tuple[str, ...] = ("10.20.0.0/24",), **more: object) -> Place:
    return Place(server, "eth0", "lan", given or ("auto",), subnets, **more)  # type: ignore[arg-type]


def test_an_address_does_not_depend_on_the_other_servers() -> None:
    alone = assign([place("web1")], {}).addresses["web1"]
    among = assign([place(f"web{i}") for i in range(5)], {}).addresses["web1"]
    assert alone == among == {"eth0": ("10.20.0.228/24",)}


@examples(50)
@given(st.sets(st.text("abcdef", min_size=1, max_size=3), max_size=29), st.integers(24, 27))
def test_no_address_is_given_twice_nor_one_that_is_reserved(servers: set[str], prefix: int) -> None:
    net = f"10.20.0.0/{prefix}"
    out = assign(
        [place(name, subnets=(net, "fd20::/120")) for name in sorted(servers)],
        {"the gateway": [gateway(net)]},
    )
    given = [ip_interface(text) for each in out.addresses.values() for text in each["eth0"]]
    assert len(set(given)) == len(given) == 2 * len(servers)
    forbidden = {ip_network(net)[0], ip_network(net)[1], ip_network(net)[-1], *ip_network("fd20::/127")}
    assert forbidden.isdisjoint(each.ip for each in given)
    assert {each.network for each in given} <= {ip_network(net), ip_network("fd20::/120")}


def test_an_address_once_given_stays_as_long_as_it_is_in_a_subnet() -> None:
    recorded = place("web1", recorded=("10.20.0.9/24",))
    assert assign([recorded], {}).addresses["web1"]["eth0"] == ("10.20.0.9/24",)
    moved = place("web1", recorded=("10.20.0.9/24",), subnets=("10.30.0.0/24",))
    assert assign([moved], {}).addresses["web1"]["eth0"][0].startswith("10.30.0.")


def test_a_static_address_is_taken_from_the_server_that_only_happens_to_have_it() -> None:
    out = assign([place("old", recorded=("10.20.0.9/24",)), place("new", "10.20.0.9")], {})
    assert out.addresses["new"]["eth0"] == ("10.20.0.9/24",)
    assert out.addresses["old"]["eth0"] != ("10.20.0.9/24",)
    assert out.refusals == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("10.20.0.5", "10.20.0.5 is already an address of Server/db1"),
        ("10.20.0.255", "10.20.0.255 is the broadcast address of subnet 10.20.0.0/24"),
        ("10.20.0.0", "10.20.0.0 is the network address of subnet 10.20.0.0/24"),
        ("10.21.0.5", "10.21.0.5 is in no subnet of network lan (10.20.0.0/24)"),
    ],
)
def test_addresses_that_a_server_cannot_have_are_refused(given: str, said: str) -> None:
    out = assign([place("web1", given)], {"Server/db1": ["10.20.0.5/24"]})
    assert [refusal.message for refusal in out.refusals] == [said]


def test_an_exhausted_subnet_is_named() -> None:
    out = assign([place(name, subnets=("10.20.0.0/29",)) for name in "abcdef"], {})
    assert [(r.place.server, r.message) for r in out.refusals] == [
        ("f", "no address is left in subnet 10.20.0.0/29 of network lan")
    ]


def test_both_addresses_of_a_link_between_two_hosts_can_be_used() -> None:
    out = assign([place(name, subnets=("10.20.0.0/31",)) for name in "ab"], {})
    assert sorted(each["eth0"][0] for each in out.addresses.values()) == ["10.20.0.0/31", "10.20.0.1/31"]


def test_a_static_address_replaces_the_automatic_one_of_its_subnet_only() -> None:
    subnets = ("10.20.0.0/24", "fd20::/64")
    (first, second) = assign([place("a", "auto", "10.20.0.7", subnets=subnets)], {}).addresses["a"]["eth0"]
    assert first == "10.20.0.7/24"
    assert ip_address(second.partition("/")[0]) in ip_network("fd20::/64")


@examples(100)
@given(st.text("ab-", min_size=1, max_size=63), st.text("cd", min_size=1, max_size=63))
def test_names_fit_and_marks_lead_back(instance: str, server: str) -> None:
    names = {naming.link_name(instance, server, "eth0"), naming.bridge_name(instance, server)}
    assert {len(name) for name in names} == {15}
    assert len(naming.altname(instance, server, "x" * 127)) <= 127
    assert naming.owner_of(naming.server_alias(instance, server)) == (instance, server)
    assert naming.owner_of(naming.network_alias(instance, server)) == (instance, f"network/{server}")


@pytest.mark.parametrize("alias", ["", "eth0", "vsprov", "vsprov:", "vsprov:x", "other:x:y"])
def test_an_alias_of_somebody_else_is_no_mark(alias: str) -> None:
    assert naming.owner_of(alias) == ("", "")


def test_a_long_name_of_an_interface_is_an_alternative_one() -> None:
    assert naming.inner_name("eth0") == ("eth0", "")
    name, alternative = naming.inner_name("storage-network-0")
    assert (len(name), alternative) == (15, "storage-network-0")
    assert naming.inner_name("storage-network-1")[0] != name


def test_a_mac_address_that_is_taken_moves_on_in_a_fixed_order() -> None:
    first = naming.mac((), "vsprov", "web1", "eth0")
    second = naming.mac({first}, "vsprov", "web1", "eth0")
    assert first.startswith("02:") and second.startswith("02:") and first != second
    assert second == naming.mac({first}, "vsprov", "web1", "eth0")
