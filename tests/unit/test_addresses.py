"""Addresses, subnets, ports and names of interfaces: canonical forms, and what is refused with which hint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.effort import examples
from vsprov.manifest.fits import compiled
from vsprov.model.kinds.network import expand_port
from vsprov.model.values import addresses, interfaces, ports
from vsprov.model.values.patterns import Schema
from vsprov.model.values.units import UnitError

ITEMS = {
    name: schema["items"]
    for name, schema in (
        ("ADDRESSES", addresses.ADDRESSES),
        ("SUBNETS", addresses.SUBNETS),
        ("PEERS", addresses.PEERS),
        ("PORTS", ports.PORTS),
    )
}
PARSERS: list[tuple[Callable[[Any], str], Schema]] = [
    (addresses.parse_address, addresses.ADDRESS),
    (addresses.parse_host_address, addresses.ADDRESS),
    (addresses.parse_interface_address, ITEMS["ADDRESSES"]),
    (addresses.parse_subnet, ITEMS["SUBNETS"]),
    (addresses.parse_destination, addresses.DESTINATION),
    (addresses.parse_peer, ITEMS["PEERS"]),
    (ports.parse_ports, ports.PORT),
    (interfaces.parse_mac, interfaces.MAC),
    (interfaces.parse_interface_name, interfaces.INTERFACE),
    (interfaces.parse_link, interfaces.LINK),
]
of_each_parser = pytest.mark.parametrize(
    ("parse", "schema"), PARSERS, ids=lambda one: getattr(one, "__name__", "")
)

BYTE = st.integers(0, 255).map(str)
FOUR = st.lists(BYTE, min_size=4, max_size=4).map(".".join) | st.ip_addresses(v=4).map(str)
SIX = st.ip_addresses(v=6).flatmap(lambda one: st.sampled_from([str(one), one.exploded, str(one).upper()]))
WORDS = st.sampled_from(
    [
        *(
            "auto",
            "default",
            "any",
            "*",
            "lan",
            "eth0",
            "lo",
            "-",
            "..",
            "a/b",
            "a b",
            "x" * 130,
            "x" * 16,
            "ä",
        ),
        *(
            "10.0.0",
            "010.0.0.1",
            "1e3",
            "0x7f.1",
            "10.0.0.1/8",
            "10.0.0.0/8",
            "0.0.0.0/0",
            "::/0",
            "10.0.0.0/08",
        ),
        *("fe80::1%eth0", "[::1]", "::ffff:10.0.0.1", "::ffff:0:0/96", "fd20::/64", "FD20::1/64", "1::2::3"),
        *("80", "80-90", "90-80", "0", "65536", "80,90", " 80", "８０", "8_0", "-1", "80-", "1-99999999999"),
        *(
            "02:00:00:00:00:01",
            "02-00-00-00-00-01",
            "0200.0000.0001",
            "03:00:00:00:00:01",
            "02:00:00:00:00:0G",
        ),
    ]
)
PARTS = st.one_of(
    WORDS, FOUR, SIX, st.text(max_size=6), st.builds("{}/{}".format, FOUR | SIX, st.integers(0, 130))
)


@of_each_parser
@examples(100)
@given(data=st.data())
def test_what_is_kept_is_canonical_and_fits_the_schema_and_the_rest_is_refused_in_words(
    parse: Callable[[Any], str], schema: Schema, data: st.DataObject
) -> None:
    raw = data.draw(PARTS)
    try:
        kept = parse(raw)
    except UnitError as error:
        assert str(error) and "\n" not in str(error)
        return
    assert parse(kept) == kept
    assert compiled(schema["pattern"]).search(kept)
    assert compiled(schema["pattern"]).search(raw)


@examples(100)
@given(st.lists(PARTS | st.sampled_from(["tcp", "udp", "TCP"]), max_size=4), st.data())
def test_any_short_form_of_a_port_becomes_a_map_or_is_refused_in_words(
    parts: list[str], data: st.DataObject
) -> None:
    text = "".join(part + data.draw(st.sampled_from([":", "/", "", "]:"])) for part in parts)
    try:
        found = expand_port(text)
    except UnitError as error:
        assert str(error)
        return
    assert compiled(ports.SHORT_PORT["pattern"]).search(text)
    assert set(found) <= {"hostPort", "port", "protocol", "hostIP"}
    assert ports.parse_ports(found["hostPort"]) == found["hostPort"]


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (8080, {"hostPort": "8080"}),
        ("8080", {"hostPort": "8080"}),
        ("8080:80", {"hostPort": "8080", "port": "80"}),
        ("08080:80", {"hostPort": "8080", "port": "80"}),
        ("53:53/udp", {"hostPort": "53", "port": "53", "protocol": "udp"}),
        ("8000-8010:9000-9010", {"hostPort": "8000-8010", "port": "9000-9010"}),
        ("127.0.0.1:80", {"hostPort": "80", "hostIP": "127.0.0.1"}),
        (
            "127.0.0.1:8080:80/tcp",
            {"hostPort": "8080", "port": "80", "protocol": "tcp", "hostIP": "127.0.0.1"},
        ),
        ("[fd20::11]:8080:80", {"hostPort": "8080", "port": "80", "hostIP": "fd20::11"}),
        ("[FD20:0::1]:80", {"hostPort": "80", "hostIP": "fd20::1"}),
        ("0.0.0.0:80:80", {"hostPort": "80", "port": "80", "hostIP": "0.0.0.0"}),
        ("[::]:80", {"hostPort": "80", "hostIP": "::"}),
    ],
)
def test_a_port_is_written_as_in_docker(raw: Any, kept: dict[str, str]) -> None:
    assert expand_port(raw) == kept
    assert raw == 8080 or compiled(ports.SHORT_PORT["pattern"]).search(raw)


@pytest.mark.parametrize(
    ("parse", "raw", "message", "hint"),
    [
        (
            addresses.parse_address,
            "010.0.0.1",
            "'010.0.0.1' is not an IP address",
            "omit leading zeros: 10.0.0.1",
        ),
        (
            addresses.parse_address,
            "10.0.0.1/8",
            "'10.0.0.1/8' is not an IP address",
            "omit the prefix length: 10.0.0.1",
        ),
        (addresses.parse_address, "[::1]", "'[::1]' is not an IP address", 'omit the brackets: "::1"'),
        (
            addresses.parse_address,
            "::ffff:1.2.3.4",
            "::ffff:1.2.3.4 is an IPv4 address in IPv6 notation",
            "write 1.2.3.4",
        ),
        (
            addresses.parse_address,
            "0.0.0.0",
            "0.0.0.0 does not identify a host",
            "write 10.20.0.11 or fd20::11",
        ),
        (
            addresses.parse_host_address,
            "ff02::1",
            "ff02::1 is a multicast address",
            "write 10.20.0.11 or fd20::11",
        ),
        (
            addresses.parse_host_address,
            "::1",
            "::1: the kernel does not forward from this address",
            "write 127.0.0.1",
        ),
        (addresses.parse_interface_address, "Auto", "'Auto' is not an IP address", "write auto"),
        (
            addresses.parse_interface_address,
            "10.0.0.1/",
            "'10.0.0.1/': the prefix length is a number up to 32",
            "write 10.0.0.1/24",
        ),
        (
            addresses.parse_interface_address,
            "fd20::1/129",
            "'fd20::1/129': the prefix length is a number up to 128",
            "write fd20::1/64",
        ),
        (addresses.parse_subnet, "FD20::1/64", "FD20::1/64 has host bits", "write fd20::/64"),
        (addresses.parse_subnet, "10.0.0.0", "'10.0.0.0' is not a subnet", "write 10.20.0.0/24 or fd20::/64"),
        (
            addresses.parse_subnet,
            "::/0",
            "::/0 overlaps ::/128, which networks cannot use",
            "write 10.20.0.0/24 or fd20::/64",
        ),
        (addresses.parse_destination, "10.0.0.1", "10.0.0.1 is not a subnet", "write 10.0.0.1/32"),
        (
            addresses.parse_peer,
            "*",
            "'*' is not an address, a subnet, or a name of a server or network",
            "omit peers for everybody",
        ),
        (
            interfaces.parse_mac,
            "02:00:00:00:00",
            "'02:00:00:00:00' is not a MAC address",
            'write "02:42:0a:14:00:0b"',
        ),
        (
            interfaces.parse_mac,
            "0200.0000.00aB",
            "'0200.0000.00aB' is not a MAC address",
            'write "02:00:00:00:00:ab"',
        ),
        (
            interfaces.parse_mac,
            "FF:FF:FF:FF:FF:FF",
            "FF:FF:FF:FF:FF:FF is a multicast address",
            'the lowest bit of the first byte must be 0: "fe:ff:ff:ff:ff:ff"',
        ),
        (ports.parse_ports, True, "True is not a port or a range of ports", 'write 8080 or "8000-8010"'),
        (ports.parse_ports, "90-80", "90-80 is not an ascending range", 'write "80-90"'),
        (
            interfaces.parse_link,
            "x" * 16,
            f"{'x' * 16} has 16 characters, at most 15",
            "use the name that `ip link` shows, not an alternative name",
        ),
        (interfaces.parse_interface_name, "x" * 128, f"{'x' * 57}... has 128 characters, at most 127", ""),
        (
            ports.split_port,
            "1::2:80:80",
            "'1::2:80:80' is not a port",
            'IPv6 addresses are in brackets: "[1::2]:80:80"',
        ),
    ],
)
def test_what_is_refused_says_how_to_write_it(
    parse: Callable[[Any], object], raw: Any, message: str, hint: str
) -> None:
    with pytest.raises(UnitError) as error:
        parse(raw)
    assert (str(error.value), error.value.hint) == (message, hint)


def test_a_number_too_long_to_print_is_refused() -> None:
    for parse in (ports.parse_ports, expand_port):
        with pytest.raises(UnitError, match="a number of 16610 bits"):
            parse(10**5000)


def test_subnets_that_no_host_can_be_in_are_refused() -> None:
    for subnet in (
        "127.0.0.0/24",
        "0.0.0.0/1",
        "169.254.0.0/16",
        "224.0.0.0/24",
        "fe80::/64",
        "ff00::/8",
        "8000::/1",
    ):
        with pytest.raises(UnitError, match="which networks cannot use"):
            addresses.parse_subnet(subnet)


def test_the_default_route_has_one_form() -> None:
    assert {addresses.parse_destination(text) for text in ("default", "0.0.0.0/0", "::/0")} == {"default"}


def test_a_peer_that_looks_like_a_number_may_be_a_name() -> None:
    assert [
        addresses.is_name(addresses.parse_peer(text))
        for text in ("10", "web-1", "10.0.0.1", "fd20::1", "0.0.0.0/0")
    ] == [
        *(True, True),
        *(False, False, False),
    ]
