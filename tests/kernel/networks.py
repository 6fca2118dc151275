"""Network namespaces that play the host, its servers and the world outside."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from vsprov.kernel.links import netlink


@dataclass(frozen=True, slots=True)
class Net:
    """A network namespace, held by a process."""

    pid: int

    def run(self, *words: str, check: bool = True) -> str:
        command = ["nsenter", "--net", "--target", str(self.pid), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 or not check, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

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


def exchange(server: Net, client: Net, address: str) -> str:
    """Connect over TCP from a client to an address of a server; the address that the server sees."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with netlink.inside(server.pid):
        listener = socket.create_server((address, 0), family=family)
    with netlink.inside(client.pid):
        caller = socket.socket(family)
    with listener, caller:
        caller.settimeout(5)
        caller.connect((address, listener.getsockname()[1]))
        connection, seen = listener.accept()
        with connection:
            connection.sendall(b"hello")
        assert caller.recv(5) == b"hello"
        return str(seen[0])
