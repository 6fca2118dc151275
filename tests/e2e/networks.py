"""What the tests of networks share: documents, and a lab on a host of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests import world
from tests.features import requires
from tests.instance import own_instance
from tests.lab import Document, Lab, image, server
from tests.world import ASK, ECHO, IMPATIENCE, PATIENCE, PORT, World

HOST = image("host")


def network(name: str, *subnets: str, **spec: Any) -> Document:
    """A Network document."""
    return {
        "apiVersion": "vsprov/v1",
        "kind": "Network",
        "metadata": {"name": name},
        "spec": {"subnets": list(subnets), **spec},
    }


def echo(name: str, *interfaces: Any, listens: tuple[int, ...] = (PORT,), **spec: Any) -> Document:
    """A server that runs `ECHO`; its interfaces are names of networks, or maps."""
    return idle(name, *interfaces, command=("python3", "-c", ECHO, *map(str, listens)), **spec)


def idle(
    name: str, *interfaces: Any, command: tuple[str, ...] = ("sleep", "infinity"), **spec: Any
) -> Document:
    """A server on networks that does nothing."""
    named = [
        {"name": f"eth{number}", "network": one} if isinstance(one, str) else one
        for number, one in enumerate(interfaces)
    ]
    return server(name, *command, interfaces=named, **spec)


@dataclass(frozen=True, slots=True)
class NetworkLab:
    """A lab whose host is in the world."""

    lab: Lab
    world: World

    def ask(self, server: str, protocol: str, address: str, port: int = PORT, seconds: str = PATIENCE) -> str:
        """The answer that a server gets from `ECHO`; see `world.ASK`."""
        done = self.lab.run(server, "python3", "-c", ASK, protocol, address, str(port), seconds)
        return done.stdout.strip()

    def silent(self, server: str, protocol: str, address: str, port: int = PORT) -> bool:
        """Whether the server gets no answer."""
        return self.ask(server, protocol, address, port, IMPATIENCE) in ("silence", "unreachable", "refused")

    def links(self) -> dict[str, dict[str, Any]]:
        """The links of the host with the mark of the instance, by name."""
        mark = f"vsprov:{self.lab.vsprov.name}:"
        found = world.links(self.world.host).items()
        return {name: link for name, link in found if link.get("ifalias", "").startswith(mark)}

    def inside(self, server: str) -> dict[str, dict[str, Any]]:
        """The links of a server by name, without lo."""
        found = world.links_of(self.lab.init(server).pid)
        return {name: link for name, link in found.items() if name != "lo"}

    def host(self, *command: str, check: bool = True) -> str:
        """What a command says that runs on the host."""
        return world.run(self.world.host, *command, check=check)


@contextmanager
def network_lab() -> Iterator[NetworkLab]:
    """A lab on a host of its own; in the end the network of the host must be what it was."""
    requires("overlay", "ip", "nft", "nft_bridge", "bridge", "veth")
    with world.made() as made:
        before = world.snapshot(made.host)
        with own_instance(network=made.host) as instance:
            yield NetworkLab(Lab(instance), made)
        world.assert_as(before, made.host)


@pytest.fixture(scope="module")
def shared_net() -> Iterator[NetworkLab]:
    """A lab for all tests of a module."""
    with network_lab() as made:
        yield made
