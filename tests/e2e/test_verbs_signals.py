"""kill, freeze and thaw."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.e2e.verbs import HOST, web
from tests.lab import SECONDS, Lab, server

TRAPS = 'trap "echo hup" HUP; trap "echo term" TERM; echo ready; while :; do sleep 0.05; done'


def state(lab: Lab, name: str) -> Any:
    return json.loads(lab.vsprov("get", "server", name, "-o", "json").stdout)["status"]["state"]


def background(lab: Lab, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        lab.vsprov.command(*words),
        env=lab.vsprov.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def events(lab: Lab, name: str) -> str:
    return (lab.group(name) / "cgroup.events").read_text()


# -- kill


@pytest.mark.vm_subset
def test_a_killed_server_has_ended_by_itself_when_the_command_returns_and_the_next_apply_starts_it(
    lab: Lab,
) -> None:
    lab.apply(HOST, web(), web("web2"))
    assert lab.vsprov("kill", "web1").stderr == "Server/web1: killed\n"
    assert lab.processes("web1") == []
    assert state(lab, "web1") == "Exited (SIGKILL)"
    assert lab.init("web2")
    assert lab.differences(HOST, web(), web("web2")) == {
        "Server/web1 /spec/state": ("Exited (SIGKILL)", "Running", "none")
    }
    lab.converge(HOST, web(), web("web2"))


def test_a_signal_reaches_the_command_which_goes_on(lab: Lab) -> None:
    lab.apply(HOST, server("app", "/bin/sh", "-c", TRAPS))
    lab.wait_until(lambda: lab.console("app") == "ready\n")
    first = lab.init("app")
    assert lab.vsprov("kill", "-s", "SIGHUP", "app").stderr == "Server/app: sent SIGHUP\n"
    lab.wait_until(lambda: lab.console("app") == "ready\nhup\n")
    lab.vsprov("kill", "--signal", "15", "Server/app")
    lab.wait_until(lambda: lab.console("app") == "ready\nhup\nterm\n")
    assert lab.init("app") == first


def test_a_signal_that_the_kernel_would_discard_is_an_error(lab: Lab) -> None:
    lab.apply(HOST, web())
    done = lab.vsprov("kill", "-s", "TERM", "web1", "-o", "json", check=False)
    report = json.loads(done.stdout)
    assert done.returncode == 1 and report["done"] == []
    (error,) = report["errors"]
    assert error["address"] == "Server/web1" and "has no handler for it" in error["message"]
    assert "--all-processes" in error["hint"]


def test_all_processes_of_a_server_can_be_signalled(lab: Lab) -> None:
    loop = "while :; do sleep 0.05; done"
    child = f"trap 'echo child' USR1; echo ready; {loop}"
    lab.apply(HOST, server("app", "/bin/sh", "-c", f"trap 'echo parent' USR1; sh -c \"{child}\" & {loop}"))
    lab.wait_until(lambda: lab.console("app") == "ready\n")
    lab.vsprov("kill", "-s", "USR1", "--all-processes", "app")
    lab.wait_until(lambda: {"child", "parent"} <= set(lab.console("app").split()))
    lab.vsprov("kill", "--all-processes", "app")
    assert lab.processes("app") == []


def test_a_frozen_server_can_be_killed(lab: Lab) -> None:
    lab.apply(HOST, web())
    lab.vsprov("freeze", "web1")
    lab.vsprov("kill", "web1")
    assert lab.processes("web1") == []
    lab.converge(HOST, web())


def test_a_server_can_be_killed_while_another_command_holds_the_lock(lab: Lab) -> None:
    lab.apply(HOST, web(), server("slow", "/bin/sh", "-c", TRAPS, init={"stopTimeout": "1h"}))
    lab.wait_until(lambda: lab.console("slow") == "ready\n")
    stopping = background(lab, "stop", "slow")
    lab.wait_until(lambda: "term\n" in lab.console("slow"))
    assert lab.vsprov("freeze", "web1", check=False).returncode == 75
    lab.vsprov("kill", "web1", "slow")
    assert stopping.wait(SECONDS) == 0
    assert (lab.processes("web1"), lab.processes("slow")) == ([], [])


@pytest.mark.parametrize("verb", ["kill", "freeze", "thaw"])
def test_servers_that_do_not_run_are_refused_by_name_and_left_out_of_a_selection(lab: Lab, verb: str) -> None:
    lab.apply(HOST, web(), server("old", state="Stopped"))
    named = lab.vsprov(verb, "old", check=False)
    assert named.returncode == 1
    assert named.stderr == "vsprov: Server/old: is not running\n  hint: vsprov start old\n"
    report = json.loads(lab.vsprov(verb, "--all", "-o", "json").stdout)
    key = "already" if verb == "thaw" else "done"
    assert report == {
        "done": [], "already": [], "errors": [], "exits": {}, "unhandledSignals": {}, "notReady": {},
        key: ["Server/web1"],
    }  # fmt: skip
    unknown = lab.vsprov(verb, "web1", "web9", check=False)
    assert unknown.returncode == 1 and "Server/web9: not found" in unknown.stderr


# -- freeze, thaw


@pytest.mark.vm_subset
def test_a_frozen_server_does_not_run_until_it_is_thawed(lab: Lab) -> None:
    lab.apply(HOST, web())
    first = lab.init("web1")
    assert lab.vsprov("freeze", "web1").stderr == "Server/web1: frozen\n"
    assert "frozen 1" in events(lab, "web1")
    assert state(lab, "web1") == "Frozen"
    assert lab.differences(HOST, web()) == {"Server/web1 /spec/state": ("Frozen", "Running", "live")}
    assert lab.vsprov("freeze", "web1").stderr == "Server/web1: already frozen\n"
    entering = lab.run("web1", "true", check=False)
    assert "is frozen" in entering.stderr and "vsprov thaw web1" in entering.stderr
    assert lab.vsprov("thaw", "web1").stderr == "Server/web1: thawed\n"
    assert "frozen 0" in events(lab, "web1")
    assert lab.vsprov("thaw", "web1").stderr == "Server/web1: not frozen\n"
    assert lab.init("web1") == first
    assert lab.is_settled(HOST, web())


def test_thaw_repairs_nothing_else(lab: Lab) -> None:
    limited = web(resources={"pids": {"max": 77}})
    lab.apply(HOST, limited)
    lab.vsprov("freeze", "web1")
    (lab.group("web1", "pids") / "pids.max").write_text("33")
    lab.vsprov("thaw", "web1")
    assert lab.limit("web1", "pids.max") == "33"
    lab.converge(HOST, limited)


def test_a_frozen_server_can_be_stopped_and_started(lab: Lab) -> None:
    lab.apply(HOST, web(), web("web2"))
    lab.vsprov("freeze", "-l", "tier=web")
    lab.vsprov("stop", "web1")
    assert lab.processes("web1") == []
    lab.vsprov("start", "web1", "web2")
    assert lab.is_settled(HOST, web(), web("web2"))


def test_what_exec_has_started_is_frozen_with_its_server(lab: Lab) -> None:
    lab.apply(HOST, web())
    running = background(lab, "exec", "web1", "--", "/bin/sh", "-c", "touch /tmp/in; sleep 1000")
    lab.wait_until(lambda: (lab.root("web1") / "tmp/in").exists())
    lab.vsprov("freeze", "web1")
    assert "frozen 1" in events(lab, "web1")
    lab.vsprov("kill", "web1")
    assert running.wait(SECONDS) == 137
