"""Servers that reboot or halt themselves: reboot(2) in a pid namespace."""

from __future__ import annotations

import pytest

from tests.e2e.restarts import WAITS, go, inert, state, status
from tests.features import requires
from tests.lab import Document, Lab, image, server, wait_until

REBOOT = {"reboot": 0x01234567, "halt": 0xCDEF0123 - 2**32, "poweroff": 0x4321FEDC}  # reboot(2)
BOOT_CAPABILITY = {"capabilities": {"add": ["SYS_BOOT"]}}


@pytest.mark.parametrize("policy", ["no", "always"])
def test_a_reboot_from_inside_restarts_it_whatever_the_policy(lab: Lab, policy: str) -> None:
    documents = (image(), booting("a", "reboot", policy))
    lab.apply(*documents)
    before = lab.init("a")
    lab.run("a", "sh", "-c", "echo kept > /root/file")
    go(lab, "a")
    lab.wait_for_restart("a", before)
    assert lab.run("a", "cat", "/root/file").stdout == "kept\n"
    assert lab.is_settled(*documents)


@pytest.mark.parametrize("how", ["halt", "poweroff"])
def test_a_halt_from_inside_stops_it_whatever_the_policy(lab: Lab, how: str) -> None:
    documents = (image(), booting("a", how, "always"), server("b"))
    lab.apply(*documents)
    go(lab, "a")
    wait_until(lambda: state(lab, "a") == "Halted")
    assert status(lab, "a")["lastExit"]["reason"] == "halt" and inert(lab, "a")
    assert lab.differences(*documents) == {"Server/a /spec/state": ("Halted", "Running", "none")}
    assert "Halted 0s ago" in lab.vsprov("get", "servers").stdout or "Halted" in state(lab, "a")
    assert "halt from inside at " in lab.vsprov("describe", "server", "a").stdout


def test_addresses_stay_after_a_reboot_from_inside(lab: Lab) -> None:
    requires("nft")
    network: Document = {
        "apiVersion": "vsprov/v1",
        "kind": "Network",
        "metadata": {"name": "lan"},
        "spec": {"type": "bridge", "subnets": ["198.18.77.0/24"]},
    }
    one = booting("a", "reboot", "no")
    one["spec"]["interfaces"] = [{"name": "eth0", "network": "lan"}]
    documents = (image(), network, one)
    lab.apply(*documents)
    before, shown = lab.init("a"), status(lab, "a")["interfaces"]
    lab.run("a", "touch", "/root/file")
    go(lab, "a")
    lab.wait_for_restart("a", before)
    assert status(lab, "a")["interfaces"] == shown and shown[0]["addresses"]
    assert lab.is_settled(*documents)


def booting(name: str, how: str, policy: str) -> Document:
    """A server that waits for `go` and then calls reboot(2)."""
    call = f"import ctypes; ctypes.CDLL(None).reboot({REBOOT[how]})"
    script = f"test -e /root/file && exec sleep infinity; {WAITS} exec /usr/bin/python3 -c '{call}'"
    return server(
        name, "sh", "-c", script, restart={"policy": policy, "delay": "1h"}, security=BOOT_CAPABILITY
    )
