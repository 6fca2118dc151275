"""Network namespaces that play the host, its servers and the world outside."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from vsprov.kernel.links import netlink
from vsprov.plan.network.state import HostLink, Interface, Route

OURS = "vsprov:t:web"
BRIDGE = HostLink(
    "vbtest",
    "bridge",
    "vsprov:t:network/lan",
    frozenset(["t.network.lan.readable"]),
    "02:00:00:00:00:99",
    1500,
    addresses=frozenset(["10.9.0.1/24", "fd09::1/64"]),
)


def interface(number: int = 1, **more: Any) -> Interface:
    """An interface of a server on BRIDGE."""
    usual = Interface(
        "eth0",
        "veth",
        f"02:00:00:00:00:{number:02x}",
        1400,
        frozenset([f"10.9.0.{number + 10}/24", f"fd09::{number + 10:x}/64"]),
        frozenset([Route("default", "10.9.0.1", 4), Route("default", "fd09::1", 6)]),
        altname="a-name-of-more-than-15-bytes",
        link=f"vstest{number}",
        alias=OURS,
        link_altname=f"t.web{number}.readable",
        parent="vbtest",
    )
    return replace(usual, **more)


@dataclass(frozen=True, slots=True)
class Net:
    """A network namespace, held by a process."""

    pid: int

    def run(self, *words: str, check: bool = True) -> str:
        command = ["nsenter", "--net", "--target", str(self.pid), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 or not check, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def background(self, *words: str) -> Iterator[None]:
        """Run a program that prints a line when it is ready and ends with its standard input."""
        command = ["nsenter", "--net", "--target", str(self.pid), *words]
        program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert program.stdout and program.stdout.readline()
            yield
        finally:
            program.communicate("", timeout=60)

    def ip(self, words: str) -> None:
        self.run("ip", *words.split())

    def show(self, words: str) -> list[dict[str, Any]]:
        """What `ip -details -json …` shows."""
        found: list[dict[str, Any]] = json.loads(self.run("ip", "-d", "-j", *words.split()) or "[]")
        return [each for each in found if each]

    def names(self) -> list[str]:
        """The links but lo."""
        return sorted(each["ifname"] for each in self.show("link") if each["ifname"] != "lo")


@contextmanager
def namespace(*options: str) -> Iterator[Net]:
    """A new network namespace; `options` of unshare(1)."""
    command = ["unshare", "--net", *options, "sh", "-c", "ip link set lo up; echo; exec sleep 1000"]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout and holder.stdout.readline() == "\n"
        yield Net(holder.pid)
    finally:
        holder.kill()
        holder.communicate()


@dataclass(slots=True)
class Lan:
    """A namespace that plays the host, in which the thread of the test is, and servers."""

    host: Net
    stack: ExitStack = field(default_factory=ExitStack)

    def server(self) -> Net:
        """A server with a user namespace of its own, as vsprov starts them."""
        return self.stack.enter_context(namespace("--user", "--map-root-user"))

    def other(self) -> Net:
        return self.stack.enter_context(namespace())


@contextmanager
def lan() -> Iterator[Lan]:
    with ExitStack() as stack:
        made = Lan(stack.enter_context(namespace()), stack)
        stack.enter_context(netlink.inside(made.host.pid))
        yield made


def exchange(server: Net, client: Net, address: str, seconds: float = 5) -> str:
    """Connect over TCP from a client to an address of a server; the address that the server sees."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with netlink.inside(server.pid):
        listener = socket.create_server((address, 0), family=family)
    with netlink.inside(client.pid):
        caller = socket.socket(family)
    with listener, caller:
        caller.settimeout(seconds)
        caller.connect((address, listener.getsockname()[1]))
        connection, seen = listener.accept()
        with connection:
            connection.sendall(b"hello")
        assert caller.recv(5) == b"hello"
        return str(seen[0])
