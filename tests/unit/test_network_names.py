"""The texts of names: what servers know of each other, and of the name servers of the host."""

from __future__ import annotations

import pytest

from tests.unit.simulate_networks import RESOLVER
from vsprov.model.kinds.network import Dns, Interface, Network
from vsprov.model.kinds.server import Server
from vsprov.plan.network.desired import names
from vsprov.plan.network.desired.addresses import Assignment
from vsprov.plan.network.desired.party import Party
from vsprov.plan.network.state import Resolver
from vsprov.store.managed_file import BEGIN, END, managed, with_managed

NETWORKS = {
    "lan": Network(subnets=("10.20.0.0/24",), domain="lan.example"),
    "shut": Network(subnets=("10.22.0.0/24",), isolated=True),
    "stack": Network(type="host"),
}


def party(name: str, network: str, *addresses: str, hostname: str = "") -> Party:
    one = Interface(name="eth0", network=network, addresses=addresses)
    spec = Server(image="host", hostname=hostname or name, interfaces=(one,))
    return Party(name, spec, True, True)


def files(*parties: Party, resolver: Resolver = RESOLVER) -> dict[str, dict[str, str]]:
    given = {each.name: {"eth0": each.spec.interfaces[0].addresses} for each in parties}
    return names.files(parties, NETWORKS, Assignment(addresses=given), resolver)


def test_servers_of_a_network_share_a_text_and_other_hostnames_are_added() -> None:
    web, db = (
        party("web", "lan", "10.20.0.2/24"),
        party("db", "lan", "10.20.0.3/24", hostname="d.example.org"),
    )
    found = files(web, db)
    shared = "10.20.0.2\tweb.lan.example web\n10.20.0.3\tdb.lan.example db\n"
    assert found["web"] == {
        "hosts": shared,
        "resolv.conf": "nameserver 192.0.2.53\nsearch example.org\n",
        "hostname": "web\n",
    }
    assert found["db"]["hosts"] == f"10.20.0.3\td.example.org d\n{shared}"


def test_an_isolated_server_knows_itself_and_one_without_addresses_keeps_its_name() -> None:
    found = files(party("a", "shut", "10.22.0.2/24"), party("b", "shut", "10.22.0.3/24"), party("c", "lan"))
    assert [found[name]["hosts"] for name in "abc"] == ["10.22.0.2\ta\n", "10.22.0.3\tb\n", "127.0.1.1\tc\n"]
    assert found["c"]["resolv.conf"] == ""  # its DHCP server knows


STUB = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n"


@pytest.mark.parametrize(
    ("text", "upstream", "expected"),
    [
        (
            "nameserver 192.0.2.1\ndomain a\nsearch b c\n",
            "",
            Resolver(("192.0.2.1",), ("b", "c"), (), ("192.0.2.1",)),
        ),
        (
            STUB,
            "nameserver 192.0.2.1\nnameserver fe80::1%eth0\n",
            Resolver(("192.0.2.1",), (), (), ("127.0.0.53",)),
        ),
        (STUB, "", Resolver((), (), ("127.0.0.53",), ("127.0.0.53",))),
        ("# nameserver 192.0.2.1\nnameserver\n;\nnameserver ::1\n", "", Resolver((), (), ("::1",), ("::1",))),
    ],
)  # fmt: skip
def test_name_servers_that_servers_do_not_reach_are_replaced_or_named(
    text: str, upstream: str, expected: Resolver
) -> None:
    found = names.parse_resolver(text, upstream)
    assert found == expected
    assert bool(names.without_servers(found)) == (not expected.servers)


def test_a_server_on_the_stack_of_the_host_uses_its_resolver_and_asks_three_servers_at_most() -> None:
    local = names.parse_resolver(STUB, "nameserver 192.0.2.1\n")
    assert files(party("a", "stack"), resolver=local)["a"]["resolv.conf"] == "nameserver 127.0.0.53\n"
    dns = Dns(nameservers=("1.1.1.1",), options=("ndots:2",))
    assert names.resolv_conf(dns, Resolver()) == "nameserver 1.1.1.1\noptions ndots:2\n"


@pytest.mark.parametrize(
    ("text", "part", "others"),
    [
        ("", "", ""),
        ("mine", "", "mine\n"),
        (f"a\n{BEGIN}\nx\n{END}\nb\n", "x\n", "a\nb\n"),
        (f"{BEGIN}\nx\n# own\nb\n", "x\n", "# own\nb\n"),  # without its end
        (f"{BEGIN}\nx\n{END}\nb\n{BEGIN}\ny\n{END}\n", "x\ny\n", "b\n"),
        (f"{END}\nb\n", "", f"{END}\nb\n"),
    ],
)
def test_the_managed_part_is_found_and_replaced_whatever_a_server_wrote(
    text: str, part: str, others: str
) -> None:
    assert managed(text) == part
    assert with_managed(text, "") == others
    changed = with_managed(text, "new\n")
    assert managed(changed) == "new\n"
    assert with_managed(changed, "") == others
