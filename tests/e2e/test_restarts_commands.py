"""Restarts beside commands: what a command stops, changes or holds."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.restarts import QUICK, WAITS, go, inert, keeper_status, state
from tests.lab import Lab, busybox_image, image, server, to_yaml, wait_until


@pytest.mark.parametrize("waits", [False, True], ids=["running", "waiting for a restart"])
def test_a_server_that_a_command_stops_stays_stopped(lab: Lab, waits: bool) -> None:
    policy = {"policy": "always", "delay": "1h" if waits else "10ms"}
    lab.apply(image(), server("a", restart=policy), server("b"))
    if waits:
        lab.end("a")
        wait_until(lambda: "a" in keeper_status(lab)["restarts"])
    assert json.loads(lab.vsprov("stop", "a", "-o", "json").stdout)["done"] == ["Server/a"]
    assert state(lab, "a") == "Stopped"
    wait_until(lambda: inert(lab, "a"))
    assert lab.differences(image(), server("a", restart=policy), server("b")) == {
        "Server/a /spec/state": ("Stopped", "Running", "none")
    }
    lab.converge(image(), server("a", restart=policy, state="Stopped"), server("b"))


def test_a_manifest_that_wants_it_stopped_ends_the_wait_for_a_restart(lab: Lab) -> None:
    policy = {"policy": "always", "delay": "1h"}
    lab.apply(image(), server("a", restart=policy), server("b"))
    lab.end("a")
    wait_until(lambda: state(lab, "a") == "Restarting")
    lab.converge(image(), server("a", restart=policy, state="Stopped"), server("b"))
    assert state(lab, "a") == "Stopped" and inert(lab, "a")


def test_an_interrupted_stop_is_not_taken_for_one_on_purpose(lab: Lab) -> None:
    """The command is killed while it waits for the server, which then ends by itself."""
    script = (
        f"test -e /tmp/up && exec sleep 1000; trap '{WAITS} exit 0' TERM; touch /tmp/up; "
        "while :; do sleep 0.05; done"
    )
    documents = (image(), server("a", "sh", "-c", script, restart=QUICK, init={"stopTimeout": "1h"}))
    lab.apply(*documents)
    before, root = lab.init("a"), lab.root("a")
    wait_until((root / "tmp/up").exists)
    stopping = subprocess.Popen(lab.vsprov.command("stop", "a"), env=lab.vsprov.environment)
    wait_until((root / "tmp/go").exists)
    stopping.kill()
    stopping.wait()
    go(lab, "a")
    lab.wait_for_restart("a", before)
    assert lab.is_settled(*documents)


def test_a_changed_policy_holds_for_the_server_that_runs(lab: Lab) -> None:
    lab.apply(image(), server("a"), server("b", restart=QUICK))
    before = lab.inits("a", "b")
    lab.converge(image(), server("a", restart=QUICK), server("b"))
    assert lab.inits("a", "b") == before
    lab.end("a")
    lab.end("b")
    lab.wait_for_restart("a", before["a"])
    assert state(lab, "b") == "Exited (SIGKILL)" and inert(lab, "b")


def test_it_starts_with_the_image_that_it_ran_with(lab: Lab, tmp_path: Path) -> None:
    root = busybox_image(tmp_path / "root")
    (root / "version").write_text("old\n")
    documents = (
        image("host", directory=str(root)),
        server("a", "/bin/sleep", "1000", restart=QUICK),
    )
    lab.apply(*documents)
    before = lab.init("a")
    (root / "version").write_text("new\n")
    lab.vsprov("image", "pull", "-", input=to_yaml(*documents))
    lab.end("a")
    lab.wait_for_restart("a", before)
    assert lab.run("a", "cat", "/version").stdout == "old\n"


def test_it_waits_for_a_command_that_holds_the_lock(lab: Lab) -> None:
    lab.apply(
        image(),
        server("a", restart=QUICK),
        server("b", "sh", "-c", f"trap : TERM; while :; do {WAITS} test $line && exit; done"),
    )
    before = lab.init("a")
    stopping = subprocess.Popen(
        lab.vsprov.command("stop", "b", "--timeout", "1h"), env=lab.vsprov.environment
    )
    wait_until(lambda: "stop b" in (Path("/run") / lab.vsprov.name / "lock").read_text())
    lab.end("a")
    wait_until(lambda: keeper_status(lab)["acting"] != 0)
    assert state(lab, "a") == "Restarting"
    go(lab, "b")
    stopping.wait()
    lab.wait_for_restart("a", before)
    assert state(lab, "b") == "Stopped"


def test_a_command_waits_for_restarts_that_are_under_way(lab: Lab) -> None:
    """It does not fail because of what nobody has asked for."""
    holds = ["flock", "-o", str(Path("/run") / lab.vsprov.name / "lock"), "sh", "-c"]
    lab.apply(image(), server("a"))
    lock = Path("/run") / lab.vsprov.name / "lock"
    named = "pid $PPID: vsprov keeper act since 2026-01-31 08:15:00"
    script = f'echo "{named}" > {lock}; read line; : > {lock}'
    holder = subprocess.Popen([*holds, script], stdin=subprocess.PIPE)
    try:
        wait_until(lambda: "keeper act" in lock.read_text())
        stopping = subprocess.Popen(lab.vsprov.command("stop", "a"), env=lab.vsprov.environment)
        wait_until(lambda: is_waiting(stopping.pid))
        assert stopping.poll() is None
        assert holder.stdin
        holder.stdin.write(b"\n")
        holder.stdin.close()
        assert stopping.wait(60) == 0
    finally:
        holder.wait()
    assert state(lab, "a") == "Stopped"


def is_waiting(pid: int) -> bool:
    """Whether a thread of a process waits for a lock. proc_locks(5): "->" is before the pid of who waits."""
    waiting = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" in line]
    return any(line[line.index("->") + 4] == str(pid) for line in waiting)
