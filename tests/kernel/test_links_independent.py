"""What vsprov writes is what pyroute2 reads, and what pyroute2 writes is what vsprov reads.

The two share no code: a number that is wrong in vsprov's encoder and in its decoder alike is found here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from msgspec.structs import replace
from pyroute2 import IPRoute

from tests.kernel import independent
from tests.kernel.networks import BRIDGE, OURS, Lan, Net, interface, lan
from tests.kernel.test_links_kinds import MACVLAN, ROUTED
from vsprov.kernel.links import host, interfaces, observe
from vsprov.plan.network.state import HostLink, Interface

pytestmark = pytest.mark.requires("ip", "bridge", "veth")
POOLS = {"vqtestegress": 80_000_000, "vqtestingress": 160_000_000}


@pytest.fixture
def at() -> Iterator[Lan]:
    with lan() as made:
        yield made


def check(at: Lan, servers: Mapping[Net, Interface | None]) -> dict[str, HostLink]:
    """Compare everything about the host and servers, which have one interface or none; the host's links."""
    seen = observe.host()
    links = {name: link for name, link in seen.links.items() if name != "lo"}
    with independent.inside(at.host.pid) as ip:
        assert independent.host_links(ip) == links
        assert independent.host_routes(ip) == frozenset(seen.routes)
        assert independent.proxy_neighbors(ip) == seen.proxies
        for server, wanted in servers.items():
            both = {wanted.name: wanted} if wanted else {}
            assert observe.interfaces(server.pid) == both
            with independent.inside(server.pid) as inner:
                assert independent.interfaces(ip, inner) == both
    return links


# -- written by vsprov


def test_pyroute2_reads_the_bridges_and_interfaces_that_were_made_and_changed(at: Lan) -> None:
    host.make_bridge(BRIDGE)
    plain, special = at.server(), at.server()
    first, second = interface(1), interface(2, port_isolated=True, hairpin=True, mtu=1450)
    interfaces.make_interface(plain.pid, first)
    interfaces.make_interface(special.pid, second)
    links = check(at, {plain: first, special: second})
    assert replace(links["vbtest"], index=0) == BRIDGE
    changed = replace(
        second,
        mac="02:00:00:00:00:77",
        mtu=1300,
        altname="another-name-of-more-than-15-bytes",
        link_altname="t.another.readable",
        addresses=frozenset(["10.9.0.77/24", "fd09::77/64"]),
        port_isolated=False,
        hairpin=False,
    )
    interfaces.change_interface(special.pid, changed, second)
    host.change_link(replace(BRIDGE, mtu=1450, altnames=frozenset(["t.other"])), host.host_link("vbtest"))
    links = check(at, {plain: first, special: changed})
    assert (links["vbtest"].mtu, links["vbtest"].altnames) == (1450, {"t.other"})
    interfaces.remove_interface(special.pid, changed)
    assert check(at, {plain: first, special: None}).keys() == {"vbtest", "vstest1"}


@pytest.mark.requires("macvlan")
def test_pyroute2_reads_routed_interfaces_with_their_proxies_and_macvlans(at: Lan) -> None:
    other = at.other()
    with independent.inside(at.host.pid) as ip:
        make_uplink(ip, other)
    routed, beside = at.server(), at.server()
    interfaces.make_interface(routed.pid, ROUTED)
    interfaces.make_interface(beside.pid, replace(MACVLAN, mode="private"))
    links = check(at, {routed: ROUTED, beside: replace(MACVLAN, mode="private")})
    assert links["vstest1"].addresses == {"169.254.0.1/32", "fe80::1/128"}
    interfaces.remove_interface(routed.pid, ROUTED)
    assert check(at, {routed: None}).keys() == {"up0"}


@pytest.mark.requires("ifb", "tbf", "htb")
def test_pyroute2_reads_the_rates_of_interfaces_and_pools(at: Lan) -> None:
    host.make_bridge(BRIDGE)
    for name, rate in POOLS.items():
        host.make_pool(HostLink(name, "ifb", "vsprov:t:quota/team", ingress=rate))
    alone, first, second = at.server(), at.server(), at.server()
    pooled = {"egress_pool": "vqtestegress", "ingress_pool": "vqtestingress"}
    wanted = {
        alone: interface(1, egress=8_000_000, ingress=24_000_000),
        first: interface(2, share=1, **pooled),
        second: interface(3, share=7, egress=5_000_000, ingress=6_000_000, **pooled),
    }
    for server, one in wanted.items():
        interfaces.make_interface(server.pid, one)
    links = check(at, wanted)
    assert {name: (links[name].ingress, links[name].shares) for name in POOLS} == {
        name: (rate, {1: "vstest2", 7: "vstest3"}) for name, rate in POOLS.items()
    }
    more = interface(1, egress=16_000_000)
    interfaces.change_interface(alone.pid, more, wanted[alone])
    host.change_pool(HostLink("vqtestegress", "ifb", ingress=40_000_000), links["vqtestegress"])
    assert check(at, {**wanted, alone: more})["vqtestegress"].ingress == 40_000_000


# -- written by pyroute2


def make_uplink(ip: IPRoute, other: Net) -> int:
    """A link of the host to another machine."""
    ip.link("add", ifname="up0", kind="veth", peer={"ifname": "eth0", "net_ns_pid": other.pid})
    (index,) = ip.link_lookup(ifname="up0")
    ip.link("set", index=index, state="up")
    return int(index)


def make_veth(ip: IPRoute, server: Net, wanted: Interface) -> int:
    """The host's end of an interface, with its name and mark; its index."""
    peer = {
        "ifname": wanted.name,
        "address": wanted.mac,
        "mtu": wanted.mtu,
        "net_ns_pid": server.pid,
    }
    ip.link("add", ifname=wanted.link, kind="veth", mtu=wanted.mtu, peer=peer)
    (index,) = ip.link_lookup(ifname=wanted.link)
    ip.link("set", index=index, ifalias=wanted.alias)
    if wanted.link_altname:
        ip.link("property_add", index=index, altname=wanted.link_altname)
    return int(index)


def finish(server: Net, wanted: Interface) -> None:
    """Configure the end of an interface that is in the server."""
    with independent.inside(server.pid) as ip:
        (index,) = ip.link_lookup(ifname=wanted.name)
        if wanted.altname:
            ip.link("property_add", index=index, altname=wanted.altname)
        ip.link("set", index=index, state="up")
        for text in sorted(wanted.addresses):
            address, _, prefix = text.partition("/")
            flags = {"flags": 2} if ":" in text else {}  # IFA_F_NODAD
            ip.addr("add", index=index, address=address, prefixlen=int(prefix), **flags)
        for route in wanted.routes:
            family = independent.NUMBERS[route.family]
            ip.route("add", dst=route.to, gateway=route.via, oif=index, family=family, flags=4)  # onlink


def test_a_bridge_and_an_interface_that_pyroute2_makes_are_observed(at: Lan) -> None:
    server = at.server()
    wanted = interface(
        1, port_isolated=True, hairpin=True, settings=frozenset({"learning=0", "neigh_suppress=1"})
    )
    with independent.inside(at.host.pid) as ip:
        ip.link("add", ifname="vbtest", kind="bridge", address=BRIDGE.mac)
        (bridge,) = ip.link_lookup(ifname="vbtest")
        ip.link("set", index=bridge, ifalias=BRIDGE.alias, state="up")
        ip.link("property_add", index=bridge, altname="t.network.lan.readable")
        ip.addr("add", index=bridge, address="10.9.0.1", prefixlen=24)
        ip.addr("add", index=bridge, address="fd09::1", prefixlen=64)
        index = make_veth(ip, server, wanted)
        ip.link("set", index=index, master=bridge, state="up")
        ip.brport("set", index=index, isolated=1, mode=1, learning=0, neigh_suppress=1)
    at.host.ip("link set vbtest type bridge no_linklocal_learn 1")
    finish(server, wanted)
    links = check(at, {server: wanted})
    assert replace(links["vbtest"], index=0) == replace(BRIDGE, mtu=1400)  # that of its port


@pytest.mark.requires("macvlan")
def test_routed_interfaces_and_macvlans_that_pyroute2_makes_are_observed(at: Lan) -> None:
    routed, beside = at.server(), at.server()
    with independent.inside(at.host.pid) as ip:
        uplink = make_uplink(ip, at.other())
        index = make_veth(ip, routed, ROUTED)
        ip.link("set", index=index, state="up")
        for address, prefix in (("169.254.0.1", 32), ("fe80::1", 128)):
            ip.addr("add", index=index, address=address, prefixlen=prefix)
        for to in ROUTED.host_routes:
            ip.route("add", dst=to, oif=index, scope=253 if "." in to else 0)  # link
            ip.neigh("add", dst=to.partition("/")[0], ifindex=uplink, flags=independent.PROXY)
        ip.link(
            "add",
            ifname=MACVLAN.name,
            kind="macvlan",
            link=uplink,
            macvlan_mode="bridge",
            address=MACVLAN.mac,
            net_ns_pid=beside.pid,
        )
    with independent.inside(beside.pid) as ip:
        ip.link("set", index=ip.link_lookup(ifname=MACVLAN.name)[0], ifalias=OURS)
    finish(routed, ROUTED)
    finish(beside, MACVLAN)
    check(at, {routed: ROUTED, beside: MACVLAN})


@pytest.mark.requires("ifb", "tbf")
def test_rates_that_pyroute2_sets_are_observed(at: Lan) -> None:
    host.make_bridge(BRIDGE)
    server = at.server()
    interfaces.make_interface(server.pid, interface(1))
    with independent.inside(at.host.pid) as ip:
        (index,) = ip.link_lookup(ifname="vstest1")
        ip.tc("add", "tbf", index, handle="1:", rate="24mbit", burst=100_000, limit=100_000)
        ip.link("add", ifname="vftest1", kind="ifb")
        (shaper,) = ip.link_lookup(ifname="vftest1")
        ip.link("set", index=shaper, ifalias=OURS, state="up")
        ip.tc("add", "tbf", shaper, handle="1:", rate="8mbit", burst=100_000, limit=100_000)
        ip.tc("add", "ingress", index)
        redirect = {"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": shaper}
        ip.tc(
            "add-filter",
            "u32",
            index,
            parent=0xFFFF0000,
            protocol=3,
            target=0x10000,
            keys=["0x0/0x0+0"],
            action=redirect,
        )
    check(at, {server: interface(1, egress=8_000_000, ingress=24_000_000)})
