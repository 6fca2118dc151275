"""What a hostile server sends on its bridge: only what is from itself arrives, and counters show the rest."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.effort import emulated
from tests.features import requires
from tests.kernel.networks import Lan, lan
from vsprov.kernel import firewall
from vsprov.kernel.links import host, netlink
from vsprov.plan.network import ruleset
from vsprov.plan.network.state import FirewallNetwork, HostLink, Member

EVIL, VICTIM, BRIDGE, ALL = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:01", "ff:ff:ff:ff:ff:ff"
OWN4, THEIRS4, OWN6, THEIRS6 = "10.20.0.11", "10.20.0.12", "fd20::11", "fd20::12"
LOCAL6 = "fe80::ff:fe00:a"
LINKS = {"vsevil": EVIL, "vsvictim": VICTIM}


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def checksum(data: bytes) -> bytes:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def frame(kind: int, payload: bytes, sender: str = EVIL, target: str = VICTIM) -> bytes:
    return mac(target) + mac(sender) + struct.pack("!H", kind) + payload


def ip4(source: str, target: str = THEIRS4, protocol: int = 17, payload: bytes | None = None) -> bytes:
    payload = udp(1, 9) if payload is None else payload
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0) + ends
    return head[:10] + checksum(head) + head[12:] + payload


def ip6(source: str, target: str = THEIRS6, following: int = 17, payload: bytes | None = None) -> bytes:
    payload = udp(1, 9) if payload is None else payload
    ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, target)
    return struct.pack("!IHBB", 6 << 28, len(payload), following, 255) + ends + payload


def icmp6(source: str, target: str, kind: int, body: bytes) -> bytes:
    ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, target)
    whole = struct.pack("!BBH", kind, 0, 0) + body
    total = checksum(ends + struct.pack("!II", len(whole), 58) + whole)
    return ip6(source, target, 58, whole[:2] + total + body)


def neighbor(address: str) -> bytes:
    return bytes(4) + socket.inet_pton(socket.AF_INET6, address)


def udp(source: int, target: int) -> bytes:
    return struct.pack("!HHHH", source, target, 9, 0) + b"x"


def arp(sender: str, address: str, asked: str = THEIRS4, operation: int = 1) -> bytes:
    head = struct.pack("!HHBBH", 1, 0x800, 6, 4, operation)
    return head + mac(sender) + socket.inet_aton(address) + bytes(6) + socket.inet_aton(asked)


ALLOWED = {
    "ipv4": frame(0x800, ip4(OWN4)),
    "ipv6": frame(0x86DD, ip6(OWN6)),
    "ipv6 from the link-local address": frame(0x86DD, ip6(LOCAL6)),
    "arp request": frame(0x806, arp(EVIL, OWN4), target=ALL),
    "gratuitous arp": frame(0x806, arp(EVIL, OWN4, OWN4), target=ALL),
    "arp probe": frame(0x806, arp(EVIL, "0.0.0.0", OWN4), target=ALL),
    "neighbor advertisement": frame(0x86DD, icmp6(OWN6, THEIRS6, 136, neighbor(OWN6))),
    "detection of duplicates": frame(
        0x86DD, icmp6("::", "ff02::1:ff00:11", 135, neighbor(OWN6)), target="33:33:ff:00:00:11"
    ),
}
REFUSED = {
    "mac": ("spoofed_mac", frame(0x800, ip4(OWN4), sender="02:00:00:00:00:99")),
    "mac of the victim": ("spoofed_mac", frame(0x800, ip4(OWN4), sender=VICTIM, target=BRIDGE)),
    "arp for the gateway": ("spoofed_arp", frame(0x806, arp(EVIL, "10.20.0.1", operation=2), target=ALL)),
    "arp with another mac": ("spoofed_arp", frame(0x806, arp(VICTIM, OWN4, operation=2), target=ALL)),
    "arp probe for the victim": ("spoofed_arp", frame(0x806, arp(EVIL, "0.0.0.0"), target=ALL)),
    "ipv4": ("spoofed_ip", frame(0x800, ip4("10.20.0.1"))),
    "ipv6": ("spoofed_ip6", frame(0x86DD, ip6("fd20::1"))),
    "link-local": ("spoofed_ip6", frame(0x86DD, ip6("fe80::1"))),
    "neighbor": ("spoofed_neighbor", frame(0x86DD, icmp6(OWN6, THEIRS6, 136, neighbor("fd20::1")))),
    "denial of the victim's address": (
        "spoofed_neighbor",
        frame(0x86DD, icmp6("::", "ff02::1:ff00:12", 135, neighbor(THEIRS6)), target="33:33:ff:00:00:12"),
    ),
    "router": (
        "router_advert",
        frame(0x86DD, icmp6(LOCAL6, "ff02::1", 134, bytes(12)), target="33:33:00:00:00:01"),
    ),
    "ipv6 redirect": ("icmp_redirect", frame(0x86DD, icmp6(LOCAL6, THEIRS6, 137, bytes(36)))),
    "ipv4 redirect": ("icmp_redirect", frame(0x800, ip4(OWN4, THEIRS4, 1, b"\x05\x01" + bytes(34)))),
    "dhcp server": (
        "dhcp_server",
        frame(0x800, ip4(OWN4, "255.255.255.255", payload=udp(67, 68)), target=ALL),
    ),
    "dhcpv6 server": ("dhcp_server", frame(0x86DD, ip6(LOCAL6, payload=udp(547, 546)))),
    "vlan": ("ethertype", frame(0x8100, b"\0\1\x08\0" + ip4(OWN4))),
    "vlan 0": ("ethertype", frame(0x8100, b"\0\0\x08\0" + ip4("10.20.0.1"))),
    "provider vlan": ("ethertype", frame(0x88A8, b"\0\1\x08\0" + ip4(OWN4))),
    "unknown protocol": ("ethertype", frame(0x88B5, bytes(50))),
    "spanning tree": ("ethertype", frame(38, b"\x42\x42\x03" + bytes(35), target="01:80:c2:00:00:00")),
    "port access": ("link_local_frame", frame(0x888E, bytes(50), target="01:80:c2:00:00:03")),
    "loopback": ("loopback", frame(0x800, ip4(OWN4, "127.0.0.1"), target=BRIDGE)),
}
EMULATED = {  # one of each sort of rule
    "neighbor advertisement", "mac", "arp for the gateway", "ipv4", "ipv6", "neighbor", "router",
    "dhcp server", "vlan",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wire:
    """The hostile server's end of the wire, and the victim's."""

    made: Lan
    evil: socket.socket
    victim: socket.socket

    def arrives(self, sent: bytes) -> bool:
        """Whether the victim sees a frame: it would come before one that is sent after it, and allowed."""
        self.evil.send(sent)
        last = frame(0x800, ip4(OWN4, payload=udp(1, 10)))
        self.evil.send(last)
        found = False
        while (got := self.victim.recv(2000)) != last:
            found = found or got[14:] == sent[14:]
        return found


def counters() -> dict[str, int]:
    """The frames and packets that were refused, by reason."""
    out: dict[str, int] = {}
    for family in ("bridge", "inet"):
        for each in firewall._parse(firewall._nft("-j", "list", "table", family, ruleset.table_name("test"))):
            if "counter" in each:
                name = each["counter"]["name"]
                out[name] = out.get(name, 0) + each["counter"]["packets"]
    return out


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    requires("root", "ip", "nft", "nft_bridge", "bridge", "veth")
    with lan() as made:
        host.make_bridge(
            HostLink(
                "vblan",
                "bridge",
                "vsprov:test:network/lan",
                mac=BRIDGE,
                addresses=frozenset({"10.20.0.1/24"}),
            )
        )
        made.host.run("sysctl", "-qw", "net.ipv4.conf.vblan.route_localnet=1")
        ends = []
        for link, address in LINKS.items():
            server = made.other()
            made.host.ip(f"link add {link} type veth peer name eth0 address {address} netns {server.pid}")
            made.host.ip(f"link set {link} master vblan up")
            server.ip("link set eth0 up")
            with netlink.inside(server.pid):
                ends.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
            ends[-1].bind(("eth0", 3))
            ends[-1].settimeout(10)
        networks = [FirewallNetwork("lan", "vblan", ("10.20.0.0/24", "fd20::/64"), (), True, False, False)]
        members = [
            Member("evil", "vsevil", "lan", EVIL, (OWN4, OWN6)),
            Member("victim", "vsvictim", "lan", VICTIM, (THEIRS4, THEIRS6)),
        ]
        firewall.run(ruleset.changes(ruleset.tables("test", networks, members), {})[0])
        with ends[0], ends[1]:
            yield Wire(made, *ends)


@pytest.mark.parametrize("what", emulated(ALLOWED, EMULATED & ALLOWED.keys()))
def test_what_a_server_sends_from_itself_arrives(wire: Wire, what: str) -> None:
    before = counters()
    assert wire.arrives(ALLOWED[what])
    assert counters() == before


@pytest.mark.parametrize("what", emulated(REFUSED, EMULATED & REFUSED.keys()))
def test_what_a_server_sends_as_somebody_else_is_refused_and_counted(wire: Wire, what: str) -> None:
    reason, sent = REFUSED[what]
    before = counters()
    assert not wire.arrives(sent)
    assert counters()[reason] == before[reason] + 1


def test_a_server_cannot_attract_the_packets_of_another_by_lldp(wire: Wire) -> None:
    wire.victim.send(frame(0x800, ip4(THEIRS4, OWN4), VICTIM, EVIL))
    wire.arrives(frame(0x88CC, bytes(50), VICTIM, "01:80:c2:00:00:0e"))
    known = wire.made.host.run("bridge", "fdb", "show", "br", "vblan", "dynamic").splitlines()
    assert [line.split()[2] for line in known if line.startswith(VICTIM)] == ["vsvictim"]
