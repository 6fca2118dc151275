"""A network for tests: a namespace that plays the host, on which vsprov runs, and one that plays the outside.

    outside  uplink 192.0.2.2/24, 2001:db8::2/64; also 198.51.100.1, a host far away
       |
    host     uplink 192.0.2.1/24, 2001:db8::1/64, the default routes lead outside
       |
    servers

The namespaces are held by open files of the tests' process alone and die with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SECONDS_TO_SETTLE = 30.0
CLONE_NEWNET = 0x40000000
UPLINK = "uplink"
HOST4, HOST6 = "192.0.2.1", "2001:db8::1"
OUTSIDE, OUTSIDE6, FAR = "192.0.2.2", "2001:db8::2", "198.51.100.1"
PORT = 7000
# Indexes, MAC addresses, handles of queueing disciplines, routes of links that once had a carrier, and what
# surrounds the elements of a set, which come in any order.
CHANCE = re.compile(
    r"(?m)^\t+ *(elements = \{ )?|,$| \}$|@if\d+|multicast ff00::/8 .*"
    r"|\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b|(?<=tbf )[0-9a-f]+:"
    r"|(?<=bfifo )[0-9a-f]+:|(?<=parent )[0-9a-f]+:[1-9a-f][0-9a-f]*"  # of classes, in the order of arrival
)
SYSCTLS = ("forwarding", "accept_ra", "route_localnet", "proxy_arp", "proxy_ndp", "rp_filter")

# Answers every TCP connection and every UDP packet on each of the given ports with the address it came from.
ECHO = """
import selectors, socket, sys
waiting = selectors.DefaultSelector()
for port in map(int, sys.argv[1:]):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        one = socket.socket(socket.AF_INET6, kind)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        one.bind(("::", port))
        if kind == socket.SOCK_STREAM:
            one.listen(64)
        waiting.register(one, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in waiting.select():
        one = key.fileobj
        if one.type == socket.SOCK_STREAM:
            other, peer = one.accept()
            other.sendall(peer[0].removeprefix("::ffff:").encode())
            other.close()
        else:
            _, asked, _, peer = one.recvmsg(2048, 64)  # answer from the address that was asked
            one.sendmsg([peer[0].removeprefix("::ffff:").encode()], asked, 0, peer)
"""

# Prints the answer; "refused", "unreachable" or "silence" if there is none.
ASK = """
import socket, sys
protocol, address, port, seconds = sys.argv[1:]
kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
family = socket.AF_INET6 if ":" in address else socket.AF_INET
with socket.socket(family, kind) as one:
    one.settimeout(float(seconds))
    try:
        one.connect((address, int(port)))
        if protocol == "udp":
            one.send(b"?")
        print(one.recv(2048).decode())
    except ConnectionRefusedError:
        print("refused")
    except TimeoutError:
        print("silence")
    except OSError:
        print("unreachable")
"""
# Ends well if there is an answer to a ping.
PING = """
import os, socket, struct, sys
six = ":" in sys.argv[1]
family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
request = struct.pack("!BBHHH", 128 if six else 8, 0, 0, os.getpid() & 0xFFFF, 1)
words = sum(struct.unpack("!4H", request))
checksum = ~(words + (words >> 16)) & 0xFFFF
with socket.socket(family, socket.SOCK_RAW, protocol) as one:
    one.settimeout(float(sys.argv[2]))
    one.sendto(request[:2] + struct.pack("!H", checksum) + request[4:], (sys.argv[1], 0))
    answer = b""
    while not answer.endswith(request[4:]) or answer[-8] not in (0, 129):
        answer = one.recv(2048)
"""
PATIENCE, IMPATIENCE = "10", "0.4"  # seconds to wait for an answer that must come, and for one that must not


def _setns(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def make_namespace() -> int:
    """The file descriptor of a new network namespace, with its loopback device up."""
    found: list[int] = []

    def make() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) == 0:
            found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    run(found[0], "ip", "link", "set", "lo", "up")
    return found[0]


def enter(namespace: int) -> None:
    """Move the calling thread into the namespace; for a child that has been forked."""
    _setns(namespace)


def within(namespace: int, *command: str) -> list[str]:
    """The words of a command that runs in the namespace."""
    return ["nsenter", f"--net=/proc/{os.getpid()}/fd/{namespace}", *command]


def run(namespace: int, *command: str, input: str = "", check: bool = True) -> str:
    """What a command says that runs in the namespace; it must end well."""
    done = subprocess.run(within(namespace, *command), input=input, capture_output=True, text=True)
    assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def ask(namespace: int, protocol: str, address: str, port: int = PORT, seconds: str = PATIENCE) -> str:
    """The answer of `ECHO`; see `ASK`."""
    return run(namespace, "python3", "-c", ASK, protocol, address, str(port), seconds).strip()


def links(namespace: int) -> dict[str, dict[str, Any]]:
    """All links by name, with details and addresses, as ip(8) shows them."""
    return {link["ifname"]: link for link in json.loads(run(namespace, "ip", "-j", "-d", "address"))}


def ping(pid: int, address: str, seconds: str = PATIENCE) -> bool:
    """Whether an address answers a ping that is sent from the network namespace of a process."""
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", "python3", "-c", PING, address, seconds]
    return subprocess.run(command, capture_output=True).returncode == 0


def links_of(pid: int) -> dict[str, dict[str, Any]]:
    """The same of the network namespace of a process, without entering any other of its namespaces."""
    done = subprocess.run(
        ["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-j", "-d", "address"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {link["ifname"]: link for link in json.loads(done.stdout)}


def addresses(link: dict[str, Any]) -> set[str]:
    """The addresses of a link in CIDR notation, without link-local ones."""
    return {
        f"{one['local']}/{one['prefixlen']}"
        for one in link["addr_info"]
        if one.get("scope") != "link" and "local" in one
    }


def snapshot(namespace: int) -> dict[str, str]:
    """Everything that vsprov may change in a namespace: links, addresses, routes, qdiscs, the firewall,
    sysctls. What counts, expires or is random is left out, and so are indexes and what depends on them.
    """
    files = " ".join(f"/proc/sys/net/ipv[46]/conf/*/{name}" for name in SYSCTLS)
    sysctls = f"grep -s . {files} /proc/sys/net/ipv4/ip_forward"
    commands = (
        *("ip -br link", "ip -br address", "ip route show table all", "ip -6 route", "tc qdisc"),
        *("ip neighbor show proxy", "nft -s list ruleset", sysctls),
    )
    told = run(namespace, "sh", "-ec", "; echo =====; ".join(commands)).split("=====\n")
    found = dict(zip(commands, told, strict=True))
    return {words: "\n".join(sorted(CHANCE.sub("", text).splitlines())) for words, text in found.items()}


def difference(before: dict[str, str], after: dict[str, str]) -> str:
    """The lines that differ between two snapshots."""
    lines = []
    for words, text in before.items():
        old, new = text.splitlines(), after[words].splitlines()
        lines += [f"{words}: - {line}" for line in old if line not in new]
        lines += [f"{words}: + {line}" for line in new if line not in old]
    return "\n".join(lines)


def assert_as(before: dict[str, str], namespace: int) -> None:
    """The namespace is as it was; links that have just been set up may take a moment."""
    deadline = time.monotonic() + SECONDS_TO_SETTLE
    while (after := snapshot(namespace)) != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert after == before, difference(before, after)


@dataclass(frozen=True, slots=True)
class World:
    """The namespaces, by their file descriptors."""

    host: int
    outside: int

    @contextmanager
    def echo_outside(self, *ports: int) -> Iterator[None]:
        """Run `ECHO` outside."""
        command = within(self.outside, "python3", "-c", ECHO, *map(str, ports or (PORT,)))
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout and process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()
            process.communicate()


@contextmanager
def made() -> Iterator[World]:
    """A world; in the end, the host must be as it was."""
    host, outside = make_namespace(), make_namespace()
    try:
        fd = f"/proc/{os.getpid()}/fd/{outside}"
        run(host, "ip", "link", "add", UPLINK, "type", "veth", "peer", "name", UPLINK, "netns", fd)
        _configure(host, HOST4, HOST6)
        _configure(outside, OUTSIDE, OUTSIDE6)
        run(outside, "ip", "address", "add", f"{FAR}/32", "dev", "lo")
        run(host, "ip", "route", "add", "default", "via", OUTSIDE)
        run(host, "ip", "-6", "route", "add", "default", "via", OUTSIDE6)
        _wait_for_carrier(host)
        yield World(host, outside)
    finally:
        os.close(host)
        os.close(outside)


def _wait_for_carrier(namespace: int) -> None:
    """The kernel shows the state of a link up to a second after its peer is up: snapshots would differ."""
    deadline = time.monotonic() + SECONDS_TO_SETTLE
    while links(namespace)[UPLINK]["operstate"] != "UP":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _configure(namespace: int, address: str, address6: str) -> None:
    run(namespace, "sh", "-c", f"echo 0 > /proc/sys/net/ipv6/conf/{UPLINK}/accept_dad")
    run(namespace, "ip", "address", "add", f"{address}/24", "dev", UPLINK)
    run(namespace, "ip", "address", "add", f"{address6}/64", "dev", UPLINK, "nodad")
    run(namespace, "ip", "link", "set", UPLINK, "up")
