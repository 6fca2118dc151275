"""Steps of a build on a network reach the world through it, and nothing of the host."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests import world
from tests.e2e.networks import HOST, NetworkLab, echo, network, network_lab
from tests.lab import Document, image, to_yaml, wait_until
from tests.world import ASK, HOST4, IMPATIENCE, OUTSIDE, PATIENCE, PORT

LAN = network("lan", "10.20.0.0/29", "fd20::/64")


@pytest.fixture(scope="module")
def net() -> Iterator[NetworkLab]:
    with network_lab() as made, made.world.echo_outside():
        yield made


def built(*steps: Any, name: str = "built", on: str = "lan") -> Document:
    run = [{"run": {"command": list(step), "network": on}} for step in steps]
    return image(name, build={"from": "host", "steps": run})


def asking(path: str, address: str, seconds: str = PATIENCE) -> tuple[str, ...]:
    """A step that writes the answer of `ECHO` to a file."""
    script = f"{ASK}\n"
    return "sh", "-c", f'mkdir -p /srv; python3 -c "$1" tcp {address} {PORT} {seconds} > {path}', "sh", script


def test_a_step_reaches_the_world_but_not_the_host_and_leaves_no_trace(net: NetworkLab) -> None:
    command = world.within(net.world.host, "python3", "-c", world.ECHO, str(PORT))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        try:
            assert host.stdout and host.stdout.readline() == "ready\n"
            steps = (asking("/srv/world", OUTSIDE), asking("/srv/host", HOST4, IMPATIENCE),
                     ("sh", "-c", "ls /sys/class/net > /srv/links"))  # fmt: skip
            documents = (HOST, LAN, built(*steps), echo("web", "lan", image="built"))
            net.lab.converge(*documents)
        finally:
            host.kill()
    found = net.lab.shell("web", "cd /srv; cat world host; cat links")
    assert found.split() == [HOST4, "silence", "eth0", "lo"]
    assert [link["linkinfo"]["info_kind"] for link in net.links().values()].count("veth") == 1
    net.lab.vsprov("destroy", "-y", "-", input=to_yaml(*documents[1:]))


def test_steps_have_addresses_that_nobody_else_has_and_an_unknown_network_is_named(net: NetworkLab) -> None:
    """Five addresses: of servers three, and two of builds that run at once."""
    wait = ("sh", "-c", "mkdir -p /srv; cat /proc/net/fib_trie > /srv/own; sleep 1")
    builds = (built(wait, name="one"), built(wait, name="two"))
    servers = (echo("a", "lan"), echo("b", "lan"), echo("c", "lan"))
    net.lab.apply(HOST, LAN, *servers)
    net.lab.converge(HOST, LAN, *servers, *builds)
    told = net.lab.refused(HOST, built(wait, name="three", on="wan"))
    assert "network wan not found in the manifest or on this host" in told
    net.lab.vsprov("destroy", "-y", "--all")


def test_a_step_whose_apply_is_killed_leaves_nothing_after_the_next_one(net: NetworkLab) -> None:
    slow = built(("sh", "-c", "echo begun; sleep 1000"))
    net.lab.apply(HOST, LAN)
    running = subprocess.Popen(
        world.within(net.world.host, *net.lab.vsprov.command("apply", "-y", "-")),
        stdin=subprocess.PIPE, env=net.lab.vsprov.environment, text=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert running.stdin
    running.stdin.write(to_yaml(HOST, LAN, slow))
    running.stdin.close()
    wait_until(lambda: len(net.links()) == 2)
    running.kill()
    running.wait()
    net.lab.converge(HOST, LAN)
    assert len(net.links()) == 1
    assert "build" not in net.host("nft", "list", "ruleset")
    net.lab.vsprov("destroy", "-y", "--all")
