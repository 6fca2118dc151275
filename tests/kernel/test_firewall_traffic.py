"""Firewalls of servers with real traffic, in both directions and families, with br_netfilter and without."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.effort import emulated
from tests.features import requires
from tests.kernel.networks import Lan, Net, lan
from vsprov.kernel import firewall
from vsprov.kernel.links import netlink
from vsprov.plan.network import ruleset
from vsprov.plan.network.state import FirewallNetwork, Member, Opening

FAMILIES = (4, 6)
PATIENCE, IMPATIENCE = 10.0, 0.3  # seconds to wait for an answer that must come, and for one that must not


def tcp(port: int, *peers: str) -> Opening:
    return Opening("tcp", ((port, port),), peers)


@dataclass(slots=True)
class Town:
    """Two networks with servers; their addresses by name and family."""

    made: Lan
    nets: dict[str, Net] = field(default_factory=dict)
    seconds: float = PATIENCE
    members: list[Member] = field(default_factory=list)

    def expects(self, answer: bool) -> bool:
        """Whether the next packet is to be answered, for which it waits accordingly."""
        self.seconds = PATIENCE if answer else IMPATIENCE
        return answer

    def network(self, number: int) -> None:
        link = f"vb{number}"
        self.made.host.ip(f"link add {link} address 02:00:00:00:0{number}:01 type bridge")
        self.made.host.ip(f"link set {link} up")
        self.made.host.ip(f"address add 10.{number}.0.1/24 dev {link}")
        self.made.host.ip(f"address add fd{number}0::1/64 dev {link} nodad")

    def server(self, name: str, number: int, last: int, **rules: tuple[Opening, ...]) -> None:
        net, mac = self.made.other(), f"02:00:00:00:0{number}:{last:02x}"
        host = self.made.host
        host.ip(f"link add vs{name} type veth peer name eth0 address {mac} netns {net.pid}")
        host.ip(f"link set vs{name} master vb{number} up")
        net.ip("link set eth0 up")
        net.ip(f"address add 10.{number}.0.{last}/24 dev eth0")
        net.ip(f"address add fd{number}0::{last}/64 dev eth0 nodad")
        net.ip(f"route add default via 10.{number}.0.1")
        net.ip(f"-6 route add default via fd{number}0::1")
        own = (f"10.{number}.0.{last}", f"fd{number}0::{last}")
        self.nets[name] = net
        self.members.append(Member(name, f"vs{name}", f"net{number}", mac, own, **rules))

    def address(self, name: str, family: int) -> str:
        return next(each.addresses[family == 6] for each in self.members if each.server == name)

    def socket(self, name: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        with netlink.inside(self.nets[name].pid):
            made = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, kind, protocol)
        made.settimeout(self.seconds)
        return made

    def connects(self, client: str, server: str, port: int, family: int) -> bool:
        place = (self.address(server, family), port)
        with self.socket(server, family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen()
            with self.socket(client, family, socket.SOCK_STREAM) as caller:
                try:
                    caller.connect(place)
                except TimeoutError:
                    return False
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b"answer")
                return caller.recv(6) == b"answer"

    def echoes(self, client: str, server: str, port: int, family: int, size: int = 3) -> bool:
        place = (self.address(server, family), port)
        with (
            self.socket(server, family, socket.SOCK_DGRAM) as listener,
            self.socket(client, family, socket.SOCK_DGRAM) as caller,
        ):
            listener.bind(place)
            caller.sendto(bytes(size), place)
            try:
                data, sender = listener.recvfrom(9000)
            except TimeoutError:
                return False
            listener.sendto(data, sender)
            return len(caller.recv(9000)) == size

    def pings(self, client: str, server: str, family: int) -> bool:
        kind, answer, start = (128, 129, 0) if family == 6 else (8, 0, 20)
        total = 0 if family == 6 else ~((kind << 8) + 7 + 1) & 0xFFFF
        with self.socket(client, family, socket.SOCK_RAW, 58 if family == 6 else 1) as caller:
            caller.sendto(struct.pack("!BBHHH", kind, 0, total, 7, 1), (self.address(server, family), 0))
            deadline = time.monotonic() + self.seconds
            while time.monotonic() < deadline:  # other messages come as well
                try:
                    if caller.recv(2000)[start] == answer:
                        return True
                except TimeoutError:
                    break
        return False


@pytest.fixture(scope="module", params=["1", "0"], ids=["with br_netfilter", "without br_netfilter"])
def town(request: pytest.FixtureRequest) -> Iterator[Town]:
    requires("root", "ip", "nft", "nft_bridge", "bridge", "veth")
    with lan() as made:
        if request.param == "1" and not os.path.isdir("/proc/sys/net/bridge"):
            pytest.skip("this machine has no br_netfilter")
        for path in Path("/proc/sys/net/bridge").glob("bridge-nf-call-*"):
            path.write_text(request.param)
        made.host.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        town = Town(made)
        town.network(1)
        town.network(2)
        town.server("a", 1, 11)
        opened = (tcp(80), Opening("udp", ((53, 53),), ()))
        named = (tcp(81, "10.1.0.11/32", "fd10::11/128"), tcp(82, "10.2.0.21/32", "fd20::21/128"))
        town.server("b", 1, 12, ingress=(*opened, *named))
        town.server("c", 1, 13, ingress=(Opening("icmp", (), ()),), egress=(tcp(80),))
        town.server("d", 1, 14, ingress=())
        town.server("x", 2, 21)
        town.server("y", 2, 22, egress=(Opening("any", (), ("10.2.0.0/24",)),))
        networks = [
            FirewallNetwork(f"net{n}", f"vb{n}", (f"10.{n}.0.0/24", f"fd{n}0::/64"), (), True, False, False)
            for n in (1, 2)
        ]
        firewall.run(ruleset.changes(ruleset.tables("test", networks, town.members), {})[0])
        yield town


@pytest.mark.parametrize("family", emulated(FAMILIES, {4}))
def test_tcp_reaches_what_is_open_and_nothing_else(town: Town, family: int) -> None:
    yes = ["ab80", "ab81", "cb80", "ca80", "da80", "db80", "ba9", "xb82", "xy99"]
    no = ["ab8080", "cb81", "ca443", "ad80", "xb80", "xb81", "xa80", "bx80"]
    for way in (*yes, *no):
        expected = town.expects(way in yes)
        assert town.connects(way[0], way[1], int(way[2:]), family) == expected, way
    expected = town.expects(family == 4)
    assert town.connects("y", "x", 80, family) == expected


@pytest.mark.parametrize("family", emulated(FAMILIES, {6}))
def test_udp_reaches_what_is_open_also_in_fragments(town: Town, family: int) -> None:
    yes, no = ["ab53", "ba99", "da53"], ["ab54", "ca80", "ad53"]
    for way in (*yes, *no):
        expected = town.expects(way in yes)
        assert town.echoes(way[0], way[1], int(way[2:]), family) == expected, way
    assert town.expects(True) and town.echoes("a", "b", 53, family, size=8000)


@pytest.mark.parametrize("family", FAMILIES)
def test_pings_are_answered_where_icmp_is_open(town: Town, family: int) -> None:
    yes, no = ["ac", "ba", "da"], ["ab", "ca", "xa"]
    for way in (*yes, *no):
        expected = town.expects(way in yes)
        assert town.pings(way[0], way[1], family) == expected, way


def test_a_firewall_is_not_bypassed_through_the_gateway(town: Town) -> None:
    """A peer of the same bridge that sends its packets to the host, which routes them back."""
    town.nets["a"].ip("route replace 10.1.0.14/32 via 10.1.0.1")
    assert not town.expects(False) and not town.connects("a", "d", 80, 4)
