"""start, stop and restart."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.verbs import HOST, web
from tests.lab import (
    Lab,
    busybox_image,
    image,
    server,
    to_yaml,
)


@pytest.mark.vm_subset
def test_stop_and_start_leave_what_a_server_should_be_and_the_plan_shows_the_drift(lab: Lab) -> None:
    lab.apply(HOST, web())
    first = lab.init("web1")
    stopped = lab.vsprov("stop", "web1")
    assert "Server/web1: stopped" in stopped.stderr
    assert lab.processes("web1") == []
    assert lab.differences(HOST, web()) == {"Server/web1 /spec/state": ("Stopped", "Running", "none")}
    assert lab.vsprov("stop", "web1").stderr == "Server/web1: already stopped\n"
    assert "Server/web1: started" in lab.vsprov("start", "web1").stderr
    assert lab.init("web1") != first
    assert lab.is_settled(HOST, web())
    assert lab.vsprov("start", "web1").stderr == "Server/web1: already running\n"


def test_get_tells_how_the_last_run_ended_until_the_next_begins(lab: Lab) -> None:
    tidy = web("tidy", init={"command": ["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done"]})
    lab.apply(HOST, web(), tidy)

    def last_exit(name: str) -> Any:
        return json.loads(lab.vsprov("get", "server", name, "-o", "json").stdout)["status"]["lastExit"]

    assert (last_exit("web1"), last_exit("tidy")) == (None, None)
    lab.vsprov("stop", "--all")
    killed, left = last_exit("web1"), last_exit("tidy")
    assert (killed["code"], killed["signal"]) == (None, signal.SIGKILL)  # sleep has no handler for SIGTERM
    assert (left["code"], left["signal"]) == (3, None) and left["at"].endswith("Z")
    lab.vsprov("start", "web1")
    assert (last_exit("web1"), last_exit("tidy")) == (None, left)


def test_restart_gives_a_new_init_in_the_same_server(lab: Lab) -> None:
    lab.apply(HOST, web())
    lab.shell("web1", "echo kept > /root/note")
    first = lab.init("web1")
    assert "Server/web1: restarted" in lab.vsprov("restart", "web1").stderr
    assert lab.init("web1") != first
    assert lab.shell("web1", "cat /root/note") == "kept\n"
    lab.vsprov("stop", "web1")
    lab.vsprov("restart", "web1")
    assert lab.is_settled(HOST, web())


def test_a_restart_takes_the_image_as_it_is_now_and_records_it(lab: Lab, tmp_path: Path) -> None:
    root = busybox_image(tmp_path / "root")
    box, wanted = image("box", directory=str(root)), web(image="box")
    lab.apply(box, wanted)
    (root / "etc/motd").write_text("new\n")
    lab.apply(box)
    assert [path for path in lab.differences(box, wanted)] == ["Server/web1 /spec/image"]
    lab.vsprov("restart", "web1")
    assert lab.shell("web1", "cat /etc/motd") == "new\n"
    assert lab.is_settled(box, wanted)


def test_servers_are_chosen_by_name_label_or_all(lab: Lab) -> None:
    lab.apply(HOST, web(), web("web2"), server("db1"))
    lab.vsprov("stop", "-l", "tier=web")
    assert (lab.processes("web1"), lab.processes("web2")) == ([], []) and lab.init("db1")
    report = json.loads(lab.vsprov("start", "--all", "-o", "json").stdout)
    assert report == {
        "done": ["Server/web1", "Server/web2"],
        "already": ["Server/db1"],
        "errors": [],
        "exits": {},
        "unhandledSignals": {},
        "notReady": {},
    }
    unknown = lab.vsprov("stop", "web1", "web3", check=False)
    assert unknown.returncode == 1 and "Server/web3: not found" in unknown.stderr
    assert lab.init("web1")
    assert lab.vsprov("stop", "-l", "tier=none").stderr == "Nothing to stop: no server is selected.\n"


def test_servers_start_after_what_they_depend_on_and_stop_before_it(lab: Lab) -> None:
    lab.apply(HOST, web("a", dependsOn=[{"name": "b"}]), web("b", dependsOn=[{"name": "c"}]), web("c"))
    said = lab.vsprov("stop", "--all").stderr.splitlines()
    stopped = [line.partition(":")[0] for line in said if ": stopped" in line]
    assert stopped == ["Server/a", "Server/b", "Server/c"]
    started = [line.partition(":")[0] for line in lab.vsprov("start", "--all").stderr.splitlines()]
    assert started == ["Server/c", "Server/b", "Server/a"]


def test_the_time_a_server_has_to_end_can_be_given(lab: Lab) -> None:
    lab.apply(
        HOST,
        server(
            "slow",
            "/bin/sh",
            "-c",
            "trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done",
            init={"stopTimeout": "1h"},
        ),
    )
    lab.wait_until(lambda: lab.console("slow") == "ready\n")
    said = lab.vsprov("stop", "slow", "--timeout", "100ms").stderr
    assert "Server/slow: killed 0.1s after SIGTERM, because it was still running\n" in said
    assert lab.processes("slow") == []
    assert lab.console("slow") == "ready\nasked\n"
    lab.vsprov("start", "slow")
    lab.wait_until(lambda: lab.console("slow").endswith("asked\nready\n"))
    said = lab.vsprov("stop", "slow", "--timeout", "0").stderr
    assert "Server/slow: killed right after SIGTERM, because it was still running\n" in said


def test_without_servers_it_is_said_that_there_are_none(lab: Lab) -> None:
    for words in (("stop", "--all"), ("shutdown",)):
        assert lab.vsprov(*words).stderr == "Nothing to stop: the instance has no servers.\n"
    assert lab.vsprov("boot").stderr == "Nothing to start: no server starts with the host.\n"


@pytest.mark.vm_subset
def test_start_makes_again_what_a_reboot_took(lab: Lab) -> None:
    lab.apply(HOST, web(resources={"pids": {"max": 20}}))
    lab.shell("web1", "echo kept > /root/note")
    lab.vsprov("stop", "web1")
    for controller in ("", "cpu", "memory", "pids"):
        group = lab.group("web1", controller)
        for folder in (group / "payload", group / "exec", group):
            if folder.exists():
                folder.rmdir()
    lab.vsprov("start", "web1")
    assert lab.limit("web1", "pids.max") == "20"
    assert lab.shell("web1", "cat /root/note") == "kept\n"
    assert lab.is_settled(HOST, web(resources={"pids": {"max": 20}}))


def test_start_and_restart_repair_what_else_of_a_server_is_not_as_it_was_applied(lab: Lab) -> None:
    limited = web(resources={"pids": {"max": 77}})
    lab.apply(HOST, limited)
    for words in (["stop", "web1"], []):
        if words:
            lab.vsprov(*words)
        limit = lab.group("web1", "pids") / "pids.max"
        limit.write_text("33")
        lab.vsprov("start" if words else "restart", "web1")
        assert limit.read_text() == "77\n"
    assert lab.is_settled(HOST, limited)


def test_what_stands_in_the_way_of_a_restart_is_found_before_the_stop(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    bound = web(mounts=[{"type": "bind", "source": str(tmp_path / "data"), "target": "/data"}])
    lab.apply(HOST, bound)
    first = lab.init("web1")
    (tmp_path / "data").rmdir()
    said = lab.vsprov("restart", "web1", check=False)
    assert said.returncode == 1 and f"{tmp_path}/data: No such file or directory" in said.stderr
    assert lab.init("web1") == first


def test_a_server_whose_record_is_lost_can_be_stopped_and_not_started(lab: Lab) -> None:
    lab.apply(HOST, web())
    (lab.directory("web1") / "server.json").write_bytes(b"")
    os.setxattr(lab.group("web1"), "trusted.vsprov.applied", b"edited")
    assert "Server/web1: stopped" in lab.vsprov("stop", "web1").stderr
    said = lab.vsprov("start", "web1", check=False)
    assert said.returncode == 1 and "its record is lost or was edited" in said.stderr


def test_work_that_is_done_is_not_missed_by_what_depends_on_it(lab: Lab) -> None:
    needs = {"dependsOn": [{"name": "job", "condition": "completed"}]}
    lab.apply(HOST, server("job", "true", init={"oneshot": True}), web("web1", **needs))
    for words in (("restart", "web1"), ("stop", "job")):
        assert "without Server" not in lab.vsprov(*words).stderr


def test_a_server_that_runs_without_what_it_depends_on_is_named(lab: Lab) -> None:
    needs = {"dependsOn": [{"name": "db1"}]}
    lab.apply(HOST, server("db1"), server("db2"), web("web1", **needs), web("web2", **needs))
    without = "Server/web{}: runs without Server/db1, on which it depends\n"
    assert [line for line in lab.vsprov("stop", "db1").stderr.splitlines() if "without Server" in line] == [
        without.format(1).strip(), without.format(2).strip()
    ]  # fmt: skip
    for words in (("stop", "web1", "db2"), ("restart", "web2"), ("start", "db1")):
        told = lab.vsprov(*words).stderr
        assert ("without Server" in told) == (words[0] == "restart"), told
    lab.vsprov("stop", "--all")
    assert without.format(2) in lab.vsprov("start", "web2").stderr
    assert "without Server" not in lab.vsprov("start", "--all").stderr
    removed = lab.vsprov("destroy", "-y", "-", input=to_yaml(server("db1")))
    assert "note: Server/web1 depends on it and remains\n" in removed.stdout
