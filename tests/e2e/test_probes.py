"""Readiness and health: what a server says about itself, and what the keeper finds out about it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.applying import opened
from tests.lab import Document, Lab, image, server, wait_for, wait_until

FAST = {"interval": "100ms", "retries": 2, "timeout": "5s"}
LISTENS = """
import http.server, os, sys, time
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ok = self.path == "/well?a=b" and os.path.exists("/tmp/well")
        self.send_response(204 if ok else 503)
        self.end_headers()
    def log_message(self, *_):
        pass
while not os.path.exists("/tmp/go"):
    time.sleep(0.01)
class Server(http.server.HTTPServer):
    address_family = %s
Server((%r, 8080), Answer).serve_forever()
"""
REPORTS = """
import os, socket, time
there = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
there.connect("\\0" + os.environ["NOTIFY_SOCKET"].removeprefix("@"))
there.send(b"STATUS=not yet")
while not os.path.exists("/tmp/go"):
    time.sleep(0.01)
there.send(b"STATUS=working\\nREADY=1\\n")
time.sleep(1000)
"""


def listening(name: str, family: int, address: str, **spec: Any) -> Document:
    return server(name, "/usr/bin/python3", "-c", LISTENS % (family, address), **spec)


def condition(lab: Lab, name: str, kind: str = "Ready") -> tuple[str, str, str]:
    """Status, reason and message of a condition."""
    (one,) = (one for one in status(lab, name)["conditions"] if one["type"] == kind)
    return one["status"], one["reason"], one["message"]


def status(lab: Lab, name: str) -> Any:
    return json.loads(lab.vsprov("get", "server", name, "-o", "json").stdout)["status"]


def becomes(lab: Lab, name: str, state: str) -> None:
    wait_until(lambda: status(lab, name)["state"] == state)


def touch(lab: Lab, name: str, path: str = "/tmp/go") -> None:
    (lab.root(name) / path.lstrip("/")).touch()


@pytest.fixture(scope="module")
def probed(shared_lab: Lab) -> Iterator[Lab]:
    shared_lab.apply(
        image(),
        listening("http", 2, "127.0.0.1", readiness={"http": {"port": 8080, "path": "/well?a=b"}, **FAST}),
        listening("tcp4", 2, "127.0.0.1", readiness={"tcp": {"port": 8080}, **FAST}),
        listening("tcp6", 10, "::1", readiness={"tcp": {"port": 8080}, **FAST}),
        server("file", readiness={"file": "/tmp/go", **FAST}),
        server("command", readiness={"exec": ["sh", "-c", "echo no; echo go; test -e /tmp/go"], **FAST}),
        server("absent", readiness={"exec": ["/no/such"], **FAST}),
        server(
            "reports", "/usr/bin/python3", "-c", REPORTS, init={"user": "33:33"}, readiness={"notify": True}
        ),
        server("sick", health={"exec": ["test", "!", "-e", "/tmp/go"], **FAST}),
        server("plain"),
    )
    yield shared_lab


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tcp4", "Connection refused"),
        ("tcp6", "Connection refused"),
        ("file", "/tmp/go: No such file or directory"),
        ("command", "exit code 1: go"),
    ],
)
def test_a_server_is_starting_until_its_probe_succeeds(probed: Lab, name: str, message: str) -> None:
    wait_until(lambda: condition(probed, name) == ("False", "Starting", message))
    assert status(probed, name)["state"] == "Starting"
    touch(probed, name)
    becomes(probed, name, "Ready")
    assert condition(probed, name) == ("True", "ProbeSucceeded", "")


def test_an_http_status_from_200_to_399_is_a_success(probed: Lab) -> None:
    touch(probed, "http")
    wait_until(lambda: condition(probed, "http")[2] == "status 503 Service Unavailable")
    touch(probed, "http", "/tmp/well")
    becomes(probed, "http", "Ready")
    (probed.root("http") / "tmp/well").unlink()
    becomes(probed, "http", "NotReady")
    assert condition(probed, "http") == ("False", "ProbeFailed", "status 503 Service Unavailable")
    touch(probed, "http", "/tmp/well")
    becomes(probed, "http", "Ready")


def test_a_command_that_does_not_exist_says_so(probed: Lab) -> None:
    wait_until(lambda: "No such file" in condition(probed, "absent")[2])
    assert status(probed, "absent")["state"] == "Starting"


def test_a_server_reports_by_itself_that_it_is_ready(probed: Lab) -> None:
    """As systemd and what is written for it do; sd_notify(3)."""
    assert status(probed, "reports")["state"] == "Starting"
    touch(probed, "reports")
    becomes(probed, "reports", "Ready")


def test_a_server_whose_probe_fails_again_and_again_is_unhealthy_until_it_succeeds(probed: Lab) -> None:
    wait_until(lambda: condition(probed, "sick", "Healthy")[0] == "True")
    assert status(probed, "sick")["state"] == "Running"
    touch(probed, "sick")
    becomes(probed, "sick", "Unhealthy")
    assert condition(probed, "sick", "Healthy") == ("False", "ProbeFailed", "exit code 1")
    assert "sick" in probed.vsprov("get", "servers").stdout
    (probed.root("sick") / "tmp/go").unlink()
    becomes(probed, "sick", "Running")


def test_a_command_waits_until_a_server_is_ready_or_unhealthy(lab: Lab) -> None:
    sick = ["sh", "-c", "test ! -e /tmp/sick"]
    lab.apply(image(), server("a", readiness={"file": "/tmp/go", **FAST}, health={"exec": sick, **FAST}))
    lab.vsprov("wait", "--for", "healthy", "a")
    for state, path, shown in (("ready", "/tmp/go", "Ready"), ("unhealthy", "/tmp/sick", "Unhealthy")):
        command = lab.vsprov.command("wait", "--for", state, "a")
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=lab.vsprov.environment
        ) as waits:
            wait_until(lambda pid=waits.pid: "inotify" in opened(pid))  # type: ignore[misc]
            touch(lab, "a", path)
            assert waits.communicate(timeout=60)[0] == f"Server/a: {shown}\n"


def test_an_unhealthy_server_is_restarted_if_its_policy_says_so(lab: Lab) -> None:
    sick = {"exec": ["test", "!", "-e", "/tmp/sick"], **FAST}
    restart = {"policy": "always", "delay": "100ms"}
    lab.apply(
        image(),
        server("a", health=sick, restart=restart, ephemeral=True),
        server("b", health=sick, ephemeral=True),
    )
    before = lab.inits("a", "b")
    for name in before:
        touch(lab, name, "/tmp/sick")
    wait_until(lambda: lab.processes("a") != [] and status(lab, "a")["pid"] not in (None, before["a"].pid))
    becomes(lab, "a", "Running")
    becomes(lab, "b", "Unhealthy")
    assert lab.init("b") == before["b"]


def test_an_unhealthy_server_is_restarted_when_it_gets_a_policy(lab: Lab) -> None:
    sick = {"exec": ["false"], **FAST}
    lab.apply(image(), server("a", health=sick))
    before = lab.init("a")
    becomes(lab, "a", "Unhealthy")
    lab.apply(image(), server("a", health=sick, restart={"policy": "always", "delay": "100ms"}))
    wait_until(lambda: status(lab, "a")["pid"] not in (None, before.pid))


def test_a_server_without_probes_is_ready_as_long_as_it_runs(probed: Lab) -> None:
    assert (condition(probed, "plain"), status(probed, "plain")["state"]) == (
        ("True", "Running", ""),
        "Running",
    )


def test_probes_change_while_the_server_runs(lab: Lab) -> None:
    lab.apply(image(), server("a"))
    init = lab.init("a")
    assert lab.prober() is None
    for probe in ({"file": "/tmp/a", **FAST}, {"file": "/tmp", **FAST}, {"exec": ["true"], **FAST}):
        lab.converge(image(), server("a", readiness=probe))
        becomes(lab, "a", "Starting" if probe.get("file") == "/tmp/a" else "Ready")
    lab.converge(image(), server("a", health={"exec": ["false"], **FAST}))
    becomes(lab, "a", "Unhealthy")
    lab.converge(image(), server("a"))
    assert (status(lab, "a")["state"], lab.init("a")) == ("Running", init)


def test_a_report_of_an_earlier_run_is_of_no_account(lab: Lab) -> None:
    lab.apply(
        image(), server("a", "/usr/bin/python3", "-c", REPORTS, readiness={"notify": True}, ephemeral=True)
    )
    touch(lab, "a")
    becomes(lab, "a", "Ready")
    lab.vsprov("restart", "a")
    assert status(lab, "a")["state"] == "Starting"
    touch(lab, "a")
    becomes(lab, "a", "Ready")


def test_a_frozen_server_is_not_unhealthy(lab: Lab) -> None:
    probe = {"http": {"port": 8080}, "interval": "100ms", "timeout": "100ms", "retries": 1}
    lab.apply(
        image(), listening("a", 2, "127.0.0.1", health=probe), server("b", health={"exec": ["false"], **FAST})
    )
    touch(lab, "a", "/tmp/well")
    touch(lab, "a")
    becomes(lab, "a", "Unhealthy")  # for / is answered with 503
    becomes(lab, "b", "Unhealthy")
    for name in ("a", "b"):
        (lab.group(name) / "payload/cgroup.freeze").write_text("1")
    assert {status(lab, name)["state"] for name in ("a", "b")} == {"Frozen"}
    lab.vsprov("start", "--all")
    assert status(lab, "a")["state"] == "Unhealthy"


@pytest.mark.parametrize("victim", ["prober", "keeper"])
def test_probes_go_on_after_the_death_of_what_makes_them(lab: Lab, victim: str) -> None:
    documents = (
        image(),
        server("a", readiness={"exec": ["test", "-e", "/tmp/go"], **FAST}),
        server("b", readiness={"file": "/tmp", **FAST}),
    )
    lab.apply(*documents)
    wait_until(lambda: condition(lab, "a")[2] == "exit code 1")
    becomes(lab, "b", "Ready")
    since = status(lab, "b")["conditions"]
    pid = lab.prober() if victim == "prober" else lab.keeper()
    assert pid
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    wait_for(pidfd)
    lab.apply(*documents)
    touch(lab, "a")
    becomes(lab, "a", "Ready")
    assert status(lab, "b")["conditions"] == since


def test_the_prober_ends_with_the_last_server_that_is_probed(lab: Lab) -> None:
    lab.apply(image(), server("a", readiness={"file": "/tmp", **FAST}), server("b"))
    becomes(lab, "a", "Ready")
    prober = lab.prober()
    assert prober
    pidfd = os.pidfd_open(prober)
    lab.vsprov("stop", "a")
    wait_for(pidfd)
    assert lab.prober() is None


def test_the_command_of_a_probe_has_no_file_of_the_host_as_its_input(lab: Lab) -> None:
    """It belongs to the user of the probe, who could make /dev/null of the host inaccessible."""
    probe = "test -p /dev/stdin && ! read line && chmod 600 /dev/stdin"
    lab.apply(image(), server("a", readiness={"exec": ["sh", "-c", probe], **FAST}))
    wait_until(lambda: condition(lab, "a")[0] == "True")
