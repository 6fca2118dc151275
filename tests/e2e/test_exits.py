"""How servers ended: by themselves, killed by the kernel, or stopped by a command, and by which."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.verbs import HOST
from tests.lab import Document, Lab, server, wait_until

EATS = "x = b''\nwhile True: x += b'x' * (1 << 20)"
TRAPS = "trap '%s' TERM; echo ready; while :; do sleep 0.05; done"
TIME = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ"


def trapping(name: str, action: str, timeout: str = "60s") -> Document:
    return server(name, "sh", "-c", TRAPS % action, init={"stopTimeout": timeout})


def status(lab: Lab, name: str) -> Any:
    return json.loads(lab.vsprov("get", "server", name, "-o", "json").stdout)["status"]


def exits(lab: Lab, name: str) -> list[str]:
    """The exits as `describe` prints them, without the times."""
    text = lab.vsprov("describe", "server", name).stdout
    found = re.search(r"^Exits:\n((?:  .*\n)+)", text, re.MULTILINE)
    lines = [line.strip() for line in found[1].splitlines()] if found else []
    assert all(len(re.findall(f" at {TIME}", line)) == 1 for line in lines), lines
    return [re.sub(f" at {TIME}", "", line) for line in lines]


@pytest.fixture(scope="module")
def ended(shared_lab: Lab) -> Iterator[Lab]:
    """Servers that have ended in all ways."""
    lab = shared_lab
    memory = {"memory": {"max": "32Mi", "swapMax": 0}}
    lab.apply(
        HOST,
        server("fails", "sh", "-c", "exit 3"),
        server("eats", "/usr/bin/python3", "-c", EATS, resources=memory),
        trapping("polite", "exit 4"),
        trapping("stubborn", "echo no", "100ms"),
        server("deaf"),
        check=False,
    )
    lab.wait_until(lambda: lab.console("polite") == lab.console("stubborn") == "ready\n")
    lab.vsprov("stop", "polite", "stubborn", "deaf")
    for name in ("fails", "eats"):
        wait_until(lambda name=name: status(lab, name)["lastExit"] is not None)  # type: ignore[misc]
    yield lab


@pytest.mark.parametrize(
    ("name", "how", "state"),
    [
        ("fails", "exited 3", "Exited (3)"),
        ("eats", "killed: out of memory", "Exited (SIGKILL, out of memory)"),
        ("polite", "stopped by vsprov stop (exited 4)", "Stopped"),
        ("stubborn", "stopped by vsprov stop (killed 0.1s after SIGTERM)", "Stopped"),
        ("deaf", "stopped by vsprov stop (killed: no handler for SIGTERM)", "Stopped"),
    ],
)
def test_a_stop_by_a_command_is_told_from_a_crash(ended: Lab, name: str, how: str, state: str) -> None:
    assert (exits(ended, name), status(ended, name)["state"]) == ([how], state)


def test_json_has_the_verb_that_stopped_a_server_and_why_it_was_killed(ended: Lab) -> None:
    found = {name: status(ended, name)["lastExit"] for name in ("fails", "polite", "stubborn")}
    assert {
        name: (one["stoppedBy"], one["killed"], one["code"], one["signal"]) for name, one in found.items()
    } == {
        "fails": (None, "", 3, None),
        "polite": ("stop", "", 4, None),
        "stubborn": ("stop", "0.1s after SIGTERM", None, 9),
    }


def test_to_stop_a_server_that_has_ended_says_what_get_shows(lab: Lab) -> None:
    lab.apply(HOST, server("a", "sh", "-c", "exit 3"), check=False)
    wait_until(lambda: status(lab, "a")["state"] == "Exited (3)")
    assert re.match(r"Server/a: was not running, and stays so \(", lab.vsprov("stop", "a").stderr)
    assert status(lab, "a")["state"] == "Exited (3)"
    for verb in (("stop", "a"), ("shutdown",)):
        assert lab.vsprov(*verb).stderr == "Server/a: already exited\n"


def test_a_server_that_ends_while_its_stop_begins_is_not_told_to_be_deaf(lab: Lab) -> None:
    """Its preStop hook has shut it down, and nobody has waited for its init yet."""
    ends = "touch /proc/$VSPROV_PID/root/tmp/go; while [ -e /proc/$VSPROV_PID/root/tmp ]; do sleep 0.01; done"
    script = "while [ ! -e /tmp/go ]; do sleep 0.01; done; exit 5"
    lab.apply(HOST, server("a", "sh", "-c", script, hooks={"preStop": [{"exec": ["sh", "-c", ends]}]}))
    said = lab.vsprov("stop", "a").stderr
    assert said.startswith("Server/a: stopped (") and said.count("\n") == 1
    assert exits(lab, "a") == ["stopped by vsprov stop (exited 5)"]


def test_each_verb_that_stops_a_server_is_named_in_its_exits(lab: Lab) -> None:
    lab.apply(HOST, server("a"))
    lab.vsprov("restart", "a")
    lab.apply(HOST, server("a", init={"env": {"A": "b"}}))
    lab.vsprov("shutdown")
    lab.vsprov("boot")
    lab.apply(HOST, server("a", state="Stopped", init={"env": {"A": "b"}}))
    verbs = ("apply", "shutdown", "apply", "restart")
    assert exits(lab, "a") == [f"stopped by vsprov {verb} (killed: no handler for SIGTERM)" for verb in verbs]


def test_a_restart_by_the_keeper_is_named_in_the_exits(lab: Lab) -> None:
    sick = {"exec": ["test", "!", "-e", "/tmp/sick"], "interval": "100ms", "retries": 1, "timeout": "10s"}
    policy = {"policy": "always", "delay": "0s"}
    lab.apply(HOST, server("a", health=sick, restart=policy, ephemeral=True))
    before = lab.init("a")
    (lab.root("a") / "tmp/sick").touch()
    lab.wait_for_restart("a", before)
    assert exits(lab, "a") == ["stopped by the keeper (killed: no handler for SIGTERM)"]
