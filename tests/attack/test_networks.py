"""Hostile servers and neighbors against the network: on real links, with the counters that prove it."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.attack.test_spoofing import checksum, counters, frame, ip4, ip6
from tests.effort import emulated
from tests.features import requires
from tests.kernel.networks import BRIDGE, Lan, Net, interface, lan
from vsprov.kernel import firewall
from vsprov.kernel.links import host, interfaces, netlink, observe, read
from vsprov.plan.network import ruleset
from vsprov.plan.network.ruleset import bridge
from vsprov.plan.network.state import FirewallNetwork, HostLink, Member, Opening

GATEWAY = "02:00:00:00:00:01"


def udp(source: int, target: int, data: bytes = b"x") -> bytes:
    return struct.pack("!HHHH", source, target, 8 + len(data), 0) + data


def tcp(source: int, target: int, flags: int) -> bytes:
    return struct.pack("!HHIIBBHHH", source, target, 1, 1, 0x50, flags, 1000, 0, 0)


SYN, ACK, RST = 2, 16, 4


@pytest.fixture(autouse=True)
def root() -> None:
    requires("root", "ip", "nft", "nft_bridge", "bridge", "veth")


@contextmanager
def _started(*command: str) -> Iterator[int]:
    """The pid of a program that prints a line when it is ready."""
    program = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert program.stdout and program.stdout.readline()
        yield program.pid
    finally:
        program.kill()
        program.communicate()


# -- what a server makes of the interfaces it has


@pytest.mark.vm_subset
def test_a_link_that_a_server_gives_the_index_of_a_link_of_the_host_is_not_taken_for_that() -> None:
    """Else its removal would remove the link of the host."""
    with lan() as made:
        host.make_bridge(BRIDGE)
        server, other = made.server(), made.other()
        interfaces.make_interface(server.pid, interface())
        made.host.ip(f"link add docker0 index 7 type veth peer name eth0 index 2 netns {other.pid}")
        before = observe.interfaces(server.pid)["eth0"]
        assert before.link == "vstest1"
        inside = ["nsenter", "--net", "--user", "--target", str(server.pid)]
        nested = "echo; exec sleep 100"
        with _started(*inside, "unshare", "--net", "sh", "-c", nested) as pid:
            for words in (
                "link set eth0 down",
                "link set eth0 name mine",  # not while it is up before Linux 6.2
                f"link set mine netns {pid}",
                f"link add eth0 index 2 type veth peer name fake index 7 netns {pid}",
            ):
                subprocess.run([*inside, "ip", *words.split()], check=True)
            seen = observe.interfaces(server.pid)["eth0"]
            assert (seen.link, seen.parent, seen.alias) == ("", "", "")
            interfaces.remove_interface(server.pid, seen)
            assert "docker0" in made.host.names()
            interfaces.make_interface(server.pid, interface())
            assert observe.interfaces(server.pid) == {"eth0": before}


def test_any_number_of_addresses_and_routes_of_a_server_is_repaired_at_once() -> None:
    """Only a part of them is read."""
    count = 3 * read.LIMIT // 2
    with lan() as made:
        host.make_bridge(BRIDGE)
        server = made.server()
        interfaces.make_interface(server.pid, interface())
        before = observe.interfaces(server.pid)["eth0"]
        lines = ["link add own type bridge", "link set own up"]
        for number in range(count):
            end = f"{number // 250}.{number % 250 + 1}"
            lines += [f"address add 10.30.{end}/32 dev own", f"address add 10.9.{end}/32 dev eth0"]
            lines.append(f"route add 11.{end}.0/24 via 10.9.0.1")
        batch = "\n".join(lines)
        inside = ["nsenter", "--net", "--user", "--target", str(server.pid), "ip", "-batch", "-"]
        subprocess.run(inside, input=batch, text=True, check=True)
        interfaces.change_interface(server.pid, before, observe.interfaces(server.pid)["eth0"])
        assert observe.interfaces(server.pid)["eth0"] == before


# -- firewalls of servers on one bridge


@dataclass(slots=True)
class Street:
    """Servers on one bridge with the number of the house as their address; each has a raw socket."""

    made: Lan
    nets: dict[int, Net] = field(default_factory=dict)
    wires: dict[int, socket.socket] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)

    def move_in(
        self,
        number: int,
        ingress: tuple[Opening, ...] | None = None,
        egress: tuple[Opening, ...] | None = None,
    ) -> None:
        net, own = self.made.other(), address(number)
        link = f"vs{number}"
        self.made.host.ip(f"link add {link} type veth peer name eth0 address {own} netns {net.pid}")
        self.made.host.ip(f"link set {link} master vblan up")
        net.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")  # the kernel sends nothing by itself
        net.ip("link set eth0 up")
        self.made.host.run("bridge", "fdb", "add", own, "dev", link, "master", "static")
        with netlink.Socket() as on:
            on.settle(link)
        with netlink.inside(net.pid):
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        wire.bind(("eth0", 3))
        wire.settimeout(10)
        self.nets[number], self.wires[number] = net, wire
        places = (f"10.20.0.{number}", f"fd20::{number}")
        self.members.append(Member(f"s{number}", link, "lan", own, places, ingress, egress))

    def enforce(self) -> None:
        networks = [FirewallNetwork("lan", "vblan", ("10.20.0.0/24", "fd20::/64"), (), True, False, False)]
        firewall.run(
            ruleset.changes(ruleset.tables("test", networks, self.members), firewall.read("test"))[0]
        )

    def arrives(self, sender: int, target: int, family: int, protocol: int, payload: bytes) -> bool:
        """Whether a packet arrives: before an echo reply, which is always allowed."""
        sent = self.packet(sender, target, family, protocol, payload)
        kind = b"\0\0" if family == 4 else b"\x81\0"
        last = self.packet(sender, target, family, 1 if family == 4 else 58, kind + os.urandom(6))
        for each in (sent, last):
            self.wires[sender].send(each)
        found = False
        while (got := self.wires[target].recv(2000)) != last:
            found = found or got == sent
        return found

    def packet(self, sender: int, target: int, family: int, protocol: int, payload: bytes) -> bytes:
        make, kind = (ip4, 0x800) if family == 4 else (ip6, 0x86DD)
        text = "10.20.0.{}" if family == 4 else "fd20::{}"
        packet = make(text.format(sender), text.format(target), protocol, payload)
        return frame(kind, packet, address(sender), address(target))


def address(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


CLOSED, SERVER, EVIL, OTHER = 11, 12, 13, 14
ALL_UDP, ALL_TCP = Opening("udp", (), ()), Opening("tcp", (), ())


@pytest.fixture
def street(monkeypatch: pytest.MonkeyPatch) -> Iterator[Street]:
    """CLOSED takes no connections, SERVER takes all."""
    monkeypatch.setattr(bridge, "FLOWS", 256)
    monkeypatch.setattr(bridge, "CALLS", 256)
    monkeypatch.setattr(bridge, "NEW_AT_ONCE", 64)
    monkeypatch.setattr(bridge, "NEW_PER_SECOND", 1)
    with lan() as made:
        for path in Path("/proc/sys/net/bridge").glob("bridge-nf-call-*"):
            path.write_text("0")
        host.make_bridge(
            HostLink("vblan", "bridge", "vsprov:test:network/lan", mac=GATEWAY, addresses=frozenset())
        )
        street = Street(made)
        street.move_in(CLOSED, ingress=())
        street.move_in(SERVER, ingress=(ALL_UDP, ALL_TCP), egress=())
        street.move_in(EVIL)
        street.move_in(OTHER)
        street.enforce()
        yield street
        for wire in street.wires.values():
            wire.close()


FAMILIES = (4, 6)


@pytest.mark.parametrize("family", emulated(FAMILIES, {6}))
def test_what_pretends_to_be_an_answer_does_not_arrive(street: Street, family: int) -> None:
    def udp_arrives(sender: int, target: int, source: int, port: int) -> bool:
        return street.arrives(sender, target, family, 17, udp(source, port))

    def tcp_arrives(sender: int, target: int, source: int, port: int, flags: int) -> bool:
        return street.arrives(sender, target, family, 6, tcp(source, port, flags))

    assert udp_arrives(CLOSED, EVIL, 1000, 53)
    assert udp_arrives(EVIL, CLOSED, 53, 1000)
    assert not udp_arrives(EVIL, CLOSED, 53, 1001)
    assert not udp_arrives(EVIL, CLOSED, 54, 1000)
    assert not udp_arrives(OTHER, CLOSED, 53, 1000)
    assert tcp_arrives(CLOSED, EVIL, 1000, 80, SYN)
    assert tcp_arrives(EVIL, CLOSED, 80, 1000, SYN | ACK)
    assert tcp_arrives(EVIL, CLOSED, 80, 1000, RST)
    assert not tcp_arrives(EVIL, CLOSED, 80, 1000, SYN)
    assert not tcp_arrives(EVIL, CLOSED, 80, 1001, SYN)
    assert not tcp_arrives(EVIL, CLOSED, 81, 1000, ACK)
    assert not tcp_arrives(OTHER, CLOSED, 80, 1000, ACK)
    # what was open for one protocol is not for the other
    assert not udp_arrives(EVIL, CLOSED, 80, 1000)
    assert not tcp_arrives(EVIL, CLOSED, 53, 1000, ACK)
    assert counters()["refused"] == 9


@pytest.mark.parametrize("protocol", emulated(["udp", "tcp"], {"udp"}))
def test_a_server_that_floods_another_does_not_lock_out_others(street: Street, protocol: str) -> None:
    """The sets that remember what was allowed are shared by all servers."""
    for number in range(1000):  # of as many ports
        payload = udp(2000 + number, 53) if protocol == "udp" else tcp(1000, 2000 + number, SYN)
        street.wires[EVIL].send(street.packet(EVIL, SERVER, 4, 17 if protocol == "udp" else 6, payload))
    assert street.arrives(OTHER, SERVER, 4, 17, udp(1000, 53))
    assert street.arrives(SERVER, OTHER, 4, 17, udp(53, 1000))
    assert street.arrives(OTHER, SERVER, 4, 6, tcp(1000, 80, SYN))
    assert street.arrives(SERVER, OTHER, 4, 6, tcp(80, 1000, SYN | ACK))
    found = counters()
    assert found["flow_flood"] > 900 and found["flows_full"] == 0


@pytest.mark.vm_subset
def test_fragments_without_ports_do_not_pass_a_firewall(street: Street) -> None:
    """The first fragment has the ports. IPv6 may hide it behind other headers, or be nested."""
    first, nothing, atomic = b"\0\0\0\1", b"", b"\0\0"
    for data in (nothing, b"\0\1"):  # IPv4, the first of several, too short for ports
        packet = bytearray(street.packet(EVIL, CLOSED, 4, 17, data))
        packet[20] |= 0x20
        packet[24:26] = b"\0\0"
        packet[24:26] = checksum(bytes(packet[14:34]))
        street.wires[EVIL].send(bytes(packet))
    options = bytes([17, 0, 1, 4, 0, 0, 0, 0])
    for protocol, data in (
        (44, bytes([17, 0]) + b"\0\1" + first + b"\0\1"),
        (44, bytes([60, 0]) + b"\0\1" + first + options),
        (44, bytes([44, 0]) + atomic + first + bytes([17, 0]) + b"\0\x09" + first + udp(53, 53)),
        (60, options + udp(53, 53)),
        (0, options + udp(53, 53)),
        (43, options + udp(53, 53)),
    ):
        assert not street.arrives(EVIL, CLOSED, 6, protocol, data), data
    assert counters()["refused"] == 8


@pytest.mark.vm_subset
def test_a_server_cannot_decide_what_multicast_others_get(street: Street) -> None:
    """A bridge takes the sender of a query for the querier, whose pace it follows; RFC 4541, 2.1.1.

    The servers that do not get around to answering in time get no neighbor solicitations any more.
    """
    ends = socket.inet_pton(socket.AF_INET6, f"fe80::ff:fe00:{EVIL:x}") + socket.inet_pton(
        socket.AF_INET6, "ff02::1"
    )
    query = struct.pack("!BBHHH16sBBH", 130, 0, 0, 1, 0, bytes(16), 2, 60, 0)
    query = query[:2] + checksum(ends + struct.pack("!II", len(query), 58) + query) + query[4:]
    alert = bytes([58, 0, 5, 2, 0, 0, 1, 0])
    head = struct.pack("!IHBB", 6 << 28, len(alert + query), 0, 1)
    six = frame(0x86DD, head + ends + alert + query, address(EVIL), "33:33:00:00:00:01")
    group = struct.pack("!BBHIBBH", 0x11, 1, 0, 0, 2, 60, 0)
    group = group[:2] + checksum(group) + group[4:]
    four = frame(0x800, ip4(f"10.20.0.{EVIL}", "224.0.0.1", 2, group), address(EVIL), "01:00:5e:00:00:01")
    for each in (four, six):
        street.wires[EVIL].send(each)
    assert counters()["multicast_query"] == 2
    assert "router ports" not in street.made.host.run("bridge", "-d", "mdb", "show")


# -- from outside


@pytest.mark.parametrize("family", FAMILIES)
def test_a_neighbor_of_the_host_with_the_address_of_a_server_is_not_that_server(
    street: Street, family: int
) -> None:
    """The network is routed to, and the server is open for one of its peers."""
    peer, port = (f"10.20.0.{OTHER}/32", f"fd20::{OTHER}/128"), ((53, 53),)
    street.members[0] = replace(street.members[0], ingress=(Opening("udp", port, peer),))
    made = street.made
    outside = made.other()
    made.host.ip(f"link add uplink type veth peer name eth0 netns {outside.pid}")
    for words in ("link set uplink up", "address add 10.99.0.1/24 dev uplink",
                  "address add fd99::1/64 dev uplink nodad", "address add 10.20.0.1/24 dev vblan",
                  "address add fd20::1/64 dev vblan nodad",
                  f"neighbor add fd20::{CLOSED} lladdr {address(CLOSED)} dev vblan",
                  f"neighbor add 10.20.0.{CLOSED} lladdr {address(CLOSED)} dev vblan"):  # fmt: skip
        made.host.ip(words)
    made.host.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    made.host.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.uplink.rp_filter=0")
    outside.ip("link set eth0 up")
    outside.ip("address add 10.99.0.2/24 dev eth0")
    networks = [FirewallNetwork("lan", "vblan", ("10.20.0.0/24", "fd20::/64"), (), False, False, False)]
    firewall.run(ruleset.changes(ruleset.tables("test", networks, street.members), firewall.read("test"))[0])
    make, kind = (ip4, 0x800) if family == 4 else (ip6, 0x86DD)
    text = "10.20.0.{}" if family == 4 else "fd20::{}"
    packet = make(text.format(OTHER), text.format(CLOSED), 17, udp(1000, 53))
    gateway = made.host.show("link show uplink")[0]["address"]
    with netlink.inside(outside.pid):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with wire:
        wire.bind(("eth0", 0))
        wire.send(frame(kind, packet, "02:00:00:00:00:aa", gateway))
    assert counters()["spoofed"] == 1
    assert street.arrives(OTHER, CLOSED, family, 17, udp(1000, 53))
