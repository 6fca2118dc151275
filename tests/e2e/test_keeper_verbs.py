"""`vsprov keeper`: what it shows, and what a service manager runs."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.lab import Lab, image, server, to_yaml, wait_for, wait_until


def shown(lab: Lab, code: int = 0) -> Any:
    done = lab.vsprov("keeper", "status", "-o", "json", check=False)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def kill(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    wait_for(pidfd)


def test_status_shows_the_keeper_its_servers_and_what_is_due(lab: Lab) -> None:
    lab.apply(image(), server("a", restart={"policy": "always", "delay": "1h"}), server("b"))
    found = shown(lab)
    assert (found["running"], found["pid"], found["servers"]) == (True, lab.keeper(), ["a", "b"])
    assert (found["restarts"], found["acting"], found["actions"], found["problems"]) == ([], None, 0, [])
    assert 1 << 20 < found["memoryBytes"] < 12 << 20
    kill(lab.init("a").pid)
    wait_until(lambda: [each["server"] for each in shown(lab)["restarts"]] == ["a"])
    text = lab.vsprov("keeper", "status").stdout
    assert "Servers:   1\n" in text and "Restart:   Server/a at 20" in text


def test_status_fails_if_servers_run_that_nobody_watches(lab: Lab) -> None:
    assert shown(lab) == {"running": False, "unattended": []}
    lab.apply(image(), server("a"))
    kill(lab.keeper())
    assert shown(lab, code=1) == {"running": False, "unattended": ["a"]}
    assert "Unwatched: a" in lab.vsprov("keeper", "status", check=False).stdout


def test_servers_that_nobody_watches_are_named_wherever_they_are_shown(lab: Lab) -> None:
    always = {"policy": "always", "delay": "1h"}
    documents = (
        image(),
        server("a", restart=always, readiness={"file": "/usr"}),
        server("b", hooks={"postStop": [{"exec": ["true"]}]}),
        server("c", state="Stopped"),
        server("d", restart=always),
    )
    lab.apply(*documents)
    lab.end("d")
    wait_until(lambda: "d" in [each["server"] for each in shown(lab)["restarts"]])
    looks = {
        "get servers": lab.vsprov("get", "servers").stderr,
        "describe": lab.vsprov("describe", "a").stderr,
        "plan": lab.vsprov("plan", "-", input=to_yaml(*documents)).stderr,
    }
    assert looks == dict.fromkeys(looks, "")
    kill(lab.keeper())
    rest = "any apply starts one, as do vsprov keeper run and its unit\n"
    everybody = "Server/a, Server/b, Server/d are not watched by a keeper"
    line = f"{everybody} (logs, restarts, probes, hooks): {rest}"
    assert lab.vsprov("get", "servers").stderr == line
    assert lab.vsprov("plan", "-", input=to_yaml(*documents)).stderr == line
    assert lab.vsprov("get", "servers", "--quiet").stderr == ""
    assert lab.vsprov("get", "images").stderr == ""
    assert (
        lab.vsprov("get", "server", "b").stderr
        == f"Server/b is not watched by a keeper (logs, hooks): {rest}"
    )
    described = lab.vsprov("describe", "server", "d")
    assert described.stderr == f"Server/d is not watched by a keeper (restarts): {rest}"
    assert re.search("^Watched: +by no keeper$", described.stdout, re.MULTILINE)
    items = json.loads(lab.vsprov("get", "servers", "-o", "json").stdout)["items"]
    assert {one["metadata"]["name"]: one["status"]["watched"] for one in items} == {
        "a": False, "b": False, "c": None, "d": False
    }  # fmt: skip
    said = lab.apply(*documents).stderr
    assert "Server/a, Server/b: no keeper has watched; a new one does from now on\n" in said
    items = json.loads(lab.vsprov("get", "servers", "-o", "json").stdout)["items"]
    assert [one["status"]["watched"] for one in items] == [True, True, None, True]


def test_a_server_that_the_keeper_cannot_keep_is_not_watched(lab: Lab) -> None:
    lab.apply(image(), server("a"))
    pid = lab.keeper()
    used = len(os.listdir(f"/proc/{pid}/fd"))
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 3, hard))
    lab.apply(server("b"))
    assert "Server/b is not watched by a keeper (logs)" in lab.vsprov("get", "servers").stderr
    assert lab.keeper() == pid


def test_a_keeper_that_a_service_manager_runs_is_replaced_when_it_dies(lab: Lab) -> None:
    """Without any other command; what was due is done by the new one."""
    lab.apply(image(), server("a", restart={"policy": "always", "delay": "10ms"}), server("b"))
    first, before = lab.keeper(), lab.init("a")
    watching = subprocess.Popen(lab.vsprov.command("keeper", "run"), env=lab.vsprov.environment)
    try:
        wait_until(lambda: b"watch.py" in Path(f"/proc/{watching.pid}/cmdline").read_bytes())
        os.kill(first, signal.SIGSTOP)  # so that it cannot see the end of the server
        os.kill(before.pid, signal.SIGKILL)
        kill(first)
        wait_until(lambda: status(lab).get("pid") not in (None, first))
        lab.wait_for_restart("a", before)
        wait_until(lambda: status(lab).get("servers") == ["a", "b"])
        assert int(rss(watching.pid)) < 12 << 10
    finally:
        watching.kill()
        watching.wait()


def status(lab: Lab) -> Any:
    """The same as `shown`, also while there is a server that nobody watches yet."""
    return json.loads(lab.vsprov("keeper", "status", "-o", "json", check=False).stdout)


def rss(pid: int) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("VmRSS:"))


def test_without_servers_there_is_nothing_to_run(lab: Lab) -> None:
    done = lab.vsprov("keeper", "run")
    assert done.stderr == "There is nothing to watch: the instance has no servers.\n"
