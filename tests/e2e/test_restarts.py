"""Servers that end are started again, as their key `restart` wants, without any command."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import datetime
from pathlib import Path

from tests.e2e.restarts import QUICK, WAITS, go, inert, keeper_status, state, status
from tests.instance import CHECKOUT
from tests.lab import Lab, busybox_image, image, server, to_yaml, wait_for, wait_until


def test_a_server_that_always_runs_comes_back_as_it_was(lab: Lab) -> None:
    limits = {"memory": {"max": "64Mi"}, "pids": {"max": 50}}
    documents = (image(), server("a", restart=QUICK, resources=limits))
    lab.apply(*documents)
    lab.run("a", "sh", "-c", "echo kept > /root/file")
    before = lab.init("a")
    lab.end("a")
    lab.wait_for_restart("a", before)
    assert lab.run("a", "cat", "/root/file").stdout == "kept\n"
    assert (lab.limit("a", "memory.max"), lab.limit("a", "pids.max")) == (str(64 << 20), "50")
    assert lab.is_settled(*documents)
    assert keeper_status(lab)["acts"] == 1


def test_on_failure_a_code_or_signal_restarts_and_success_does_not(lab: Lab) -> None:
    policy = {"policy": "on-failure", "delay": "10ms"}
    lab.apply(
        image(),
        server("well", "sh", "-c", f"{WAITS} exit 0", restart=policy),
        server("fails", "sh", "-c", f"{WAITS} exit 3", restart=policy),
        server("killed", restart=policy),
        server("left", "sh", "-c", f"{WAITS} exit 3"),
    )
    before = lab.inits("fails", "killed")
    for name in ("well", "fails", "left"):
        go(lab, name)
    lab.end("killed")
    for name, init in before.items():
        lab.wait_for_restart(name, init)
    wait_until(lambda: (state(lab, "well"), state(lab, "left")) == ("Exited (0)", "Exited (3)"))
    assert inert(lab, "well") and inert(lab, "left")


def test_it_gives_up_after_its_attempts_and_says_so_until_a_command_starts_it(lab: Lab) -> None:
    failing = server("a", "sh", "-c", "exit 3", restart={**QUICK, "attempts": 2, "interval": "1h"})
    documents = (image(), server("b"), failing)
    for number in (1, 2):
        lab.apply(*documents, check=False)
        wait_until(lambda: (status(lab, "a")["restart"] or {}).get("state") == "GaveUp")
        found = status(lab, "a")
        assert found["state"] == "Exited (3)"
        assert found["restart"]["reason"] == "gave up after 2 restarts in 1h"
        assert found["restart"]["count"] == 2
        assert keeper_status(lab)["restarts"] == {}
        assert keeper_status(lab)["acts"] == 2 * number
    assert ", gave up" in lab.vsprov("get", "servers").stdout
    plan = lab.vsprov("plan", "-", input=to_yaml(*documents)).stdout
    assert "UTC, gave up after 2 restarts in 1h → Running" in plan


def test_delays_double_and_are_shown(lab: Lab) -> None:
    policy = {"policy": "always", "delay": "20ms", "maxDelay": "1h", "attempts": 9, "interval": "1h"}
    lab.apply(image(), server("a", "sh", "-c", "exit 1", restart=policy), check=False)
    wait_until(lambda: (status(lab, "a")["restart"] or {}).get("count", 0) >= 5)
    lab.vsprov("stop", "a")
    lab.apply(image(), server("a", restart={**policy, "delay": "30m"}))
    lab.end("a")
    wait_until(lambda: state(lab, "a") == "Restarting")
    text = lab.vsprov("get", "servers").stdout
    assert "Restarting in 29m" in text and "(1/9)" in text
    assert status(lab, "a")["restart"]["state"] == "Waiting"
    assert status(lab, "a")["lastExit"]["signal"] == 9
    paths = lab.differences(image(), server("a", restart={**policy, "delay": "30m"}))
    assert paths == {"Server/a /spec/state": ("Restarting", "Running", "none")}


def test_a_delay_of_months_does_not_end_the_keeper(lab: Lab) -> None:
    """The system calls that sleep count milliseconds in an int: 24 days."""
    patient = {"policy": "always", "delay": "100d", "interval": "36500d"}
    probed = {"file": "/tmp", "interval": "100d", "timeout": "100d", "startPeriod": "36500d"}
    lab.apply(image(), server("a", restart=patient, health=probed, init={"stopTimeout": "100d"}))
    lab.vsprov("wait", "--for", "healthy", "--timeout", "100d", "a")
    lab.end("a")
    wait_until(lambda: "a" in keeper_status(lab)["restarts"])
    assert "a" in keeper_status(lab)["restarts"]  # it has slept since then, and is the same one


def test_many_that_end_at_once_are_restarted_by_one_command(lab: Lab, tmp_path: Path) -> None:
    names = [f"s{number}" for number in range(30)]
    policy = {"policy": "always", "delay": "1s"}
    small = image("host", directory=str(busybox_image(tmp_path / "root")))
    lab.apply(small, *(server(name, "/bin/sleep", "1000", restart=policy) for name in names))
    before = lab.inits(*names)
    pidfds = [os.pidfd_open(init.pid) for init in before.values()]
    for pidfd in pidfds:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    for pidfd in pidfds:
        wait_for(pidfd)
    wait_until(lambda: len(keeper_status(lab)["kept"]) == len(names))
    assert keeper_status(lab)["acts"] == 1
    after = lab.inits(*names)
    assert all(after[name] != before[name] for name in names)


def test_a_restart_that_fails_is_shown_and_tried_again(lab: Lab, tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    mounts = [{"type": "bind", "source": str(source), "target": "/srv/data"}]
    policy = {"policy": "always", "delay": "20ms", "attempts": "max"}
    lab.apply(image(), server("a", restart=policy, mounts=mounts), server("b", restart=policy))
    before = lab.inits("a", "b")
    source.rename(tmp_path / "elsewhere")
    lab.end("a")
    lab.end("b")
    lab.wait_for_restart("b", before["b"])  # what is wrong with another does not matter
    wait_until(lambda: "data" in (status(lab, "a")["restart"] or {}).get("error", ""))
    assert state(lab, "a") == "Restarting"
    (tmp_path / "elsewhere").rename(source)
    lab.wait_for_restart("a", before["a"])
    assert status(lab, "a")["restart"] is None


def test_running_out_of_memory_is_named(lab: Lab) -> None:
    small = {"memory": {"max": "24Mi", "swapMax": 0}}
    eats = f"{WAITS} exec /usr/bin/python3 -c 'x = b\"x\" * (64 << 20)'"
    lab.apply(image(), server("a", "sh", "-c", eats, resources=small), server("b"))
    go(lab, "a")
    wait_until(lambda: state(lab, "a") == "Exited (SIGKILL, out of memory)")
    assert status(lab, "a")["lastExit"]["reason"] == "out of memory"


def test_a_server_that_is_meant_to_end_is_not_started_again_once_it_did_well(lab: Lab) -> None:
    policy = {"policy": "on-failure", "delay": "10ms"}
    job = server("job", "sh", "-c", "test -e /root/tried || { touch /root/tried; exit 1; }", restart=policy)
    job["spec"]["init"]["oneshot"] = True
    lab.apply(image(), job, server("b"), check=False)
    wait_until(lambda: state(lab, "job") == "Exited (0)")
    assert inert(lab, "job") and lab.is_settled(image(), job, server("b"))


def test_time_passes_between_an_end_and_a_restart(lab: Lab) -> None:
    lab.apply(image(), server("a", restart={"policy": "always", "delay": "700ms"}))
    before, began = lab.init("a"), time.time()
    lab.end("a")
    lab.wait_for_restart("a", before)
    hertz = os.sysconf("SC_CLK_TCK")
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    assert booted + lab.init("a").start / hertz - began > 0.6


def test_earlier_exits_are_shown_the_newest_first(lab: Lab) -> None:
    script = "test -e /root/once && exit 4; touch /root/once; exit 3"
    policy = {**QUICK, "attempts": 1, "interval": "1h"}
    lab.apply(image(), server("a", "sh", "-c", script, restart=policy), check=False)
    wait_until(lambda: (status(lab, "a")["restart"] or {}).get("state") == "GaveUp")
    found = json.loads(lab.vsprov("describe", "server", "a", "-o", "json").stdout)["details"]["exits"]
    assert [each["code"] for each in found] == [4, 3]
    text = lab.vsprov("describe", "server", "a").stdout
    assert "gave up after 1 restart in 1h" in text and "exited 3 at " in text


def test_the_example_of_servers_that_always_run(lab: Lab) -> None:
    example = CHECKOUT / "manifests/examples/always.yaml"
    lab.vsprov("apply", "-y", example)
    before = lab.inits("web", "worker")
    go_on = lab.root("web") / "tmp/well"
    wait_until(go_on.exists)
    go_on.unlink()
    lab.wait_for_restart("web", before["web"])
    lab.end("worker")
    lab.wait_for_restart("worker", before["worker"])
    lab.vsprov("stop", "worker")
    assert state(lab, "worker") == "Stopped"


def test_a_decision_is_kept_by_a_clock_that_nobody_can_set_and_shown_by_the_usual_one(lab: Lab) -> None:
    lab.apply(image(), server("a", restart={"policy": "always", "delay": "1h"}), server("b"))
    lab.end("a")
    wait_until(lambda: "a" in keeper_status(lab)["restarts"])
    mark = os.getxattr(lab.group("a"), "trusted.vsprov.restarts").decode().split()
    left = float(mark[1]) - time.clock_gettime(time.CLOCK_BOOTTIME)
    assert 3000 < left <= 3600
    shown = datetime.fromisoformat(status(lab, "a")["restart"]["at"]).timestamp()
    assert abs(keeper_status(lab)["restarts"]["a"] - time.time() - left) < 60
    assert abs(shown - time.time() - left) < 60


def test_a_wait_for_what_it_depends_on_is_no_attempt(lab: Lab) -> None:
    ready = {"file": "/tmp/go", "interval": "100ms", "timeout": "5s", "retries": 1}
    policy = {**QUICK, "attempts": 1, "interval": "1h"}
    needs = [{"name": "db", "condition": "ready"}]
    lab.apply(
        image(),
        server("db", "sh", "-c", "touch /tmp/go; exec sleep 1000", readiness=ready, restart=QUICK),
        server("web", dependsOn=needs, restart=policy),
    )
    before, file = lab.inits("db", "web"), lab.root("db") / "tmp/go"
    file.unlink()
    wait_until(lambda: state(lab, "db") != "Ready")
    lab.end("web")
    wait_until(lambda: "db" in (status(lab, "web")["restart"] or {}).get("error", ""))
    found = status(lab, "web")["restart"]
    assert (found["state"], found["count"]) == ("Waiting", 1)
    assert found["error"] == "waits for Server/db"
    wait_until(lambda: keeper_status(lab)["acting"] == 0)
    assert keeper_status(lab)["problems"] == []
    lab.end("db")  # something has changed about it, but it becomes ready only later
    lab.wait_for_restart("db", before["db"])
    lab.wait_for_restart("web", before["web"])
    assert state(lab, "db") == "Ready" and status(lab, "web")["restart"] is None
