"""The keeper and its probes while the host has no descriptors or processes left, which is no fault of the
servers.
"""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab, hierarchy, image, members, server, wait_until
from vsprov.engine.run import keeper
from vsprov.keeper.probes.workers import has_no_processes_left
from vsprov.store.instance import Instance

FAST = {"interval": "100ms", "timeout": "10s", "retries": 1}
PROBES: dict[str, Any] = {"file": "/usr", "exec": ["true"], "tcp": {"port": 80}}
LISTENS = "import socket, time\ns = socket.create_server(('127.0.0.1', 80))\nwhile True: s.accept()"
REPORTS = (
    "import os, socket, time\nthere = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
    "there.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])\nthere.send(b'READY=1')\ntime.sleep(1000)\n"
)
NO_FILES, NO_PROCESSES = "Too many open files", "Resource temporarily unavailable"


def conditions(lab: Lab, name: str) -> dict[str, tuple[str, str, str]]:
    """{type: (status, reason, message)} of the conditions of a server."""
    found = json.loads(lab.vsprov("get", "server", name, "-o", "json").stdout)["status"]["conditions"]
    return {one["type"]: (one["status"], one["reason"], one["message"]) for one in found}


def health(lab: Lab, name: str) -> tuple[str, str, str]:
    return conditions(lab, name)["Healthy"]


def becomes(lab: Lab, name: str, expected: tuple[str, str, str], kind: str = "Healthy") -> None:
    wait_until(lambda: conditions(lab, name)[kind] == expected)


def healthy(lab: Lab, *names: str) -> None:
    for name in names:
        becomes(lab, name, ("True", "ProbeSucceeded", ""))


@pytest.fixture
def probed(lab: Lab) -> Lab:
    """A server for each check, healthy, and restarted if it is not."""
    policy = {"policy": "always", "delay": "0s"}
    servers = (
        server(name, "/usr/bin/python3", "-c", LISTENS, health={name: PROBES[name], **FAST}, restart=policy)
        for name in PROBES
    )
    lab.apply(image(), *servers)
    healthy(lab, *PROBES)
    return lab


@pytest.fixture
def few(lab: Lab) -> Iterator[Path]:
    """A group in which there are to be no more processes than there are."""
    group = hierarchy("pids") / f"{lab.vsprov.name}-few"
    group.mkdir()
    yield group
    for pid in members(group):
        (group.parent / "cgroup.procs").write_text(str(pid))
    wait_until(lambda: (group / "pids.current").read_text().strip() == "0")
    group.rmdir()


def confine(group: Path, pid: int) -> None:
    (group / "cgroup.procs").write_text(str(pid))
    (group / "pids.max").write_text("1")


def test_a_prober_without_descriptors_judges_nobody(probed: Lab) -> None:
    before = probed.inits(*PROBES)
    prober = probed.prober()
    assert prober
    soft, hard = resource.prlimit(prober, resource.RLIMIT_NOFILE)
    resource.prlimit(prober, resource.RLIMIT_NOFILE, (3, hard))
    for name in PROBES:
        becomes(probed, name, ("Unknown", "ProbeNotMade", NO_FILES))
    status = json.loads(probed.vsprov("keeper", "status", "-o", "json").stdout)
    assert status["problems"] == [f"probes: {NO_FILES}"]
    resource.prlimit(prober, resource.RLIMIT_NOFILE, (soft, hard))
    healthy(probed, *PROBES)
    assert (probed.inits(*PROBES), probed.prober()) == (before, prober)


def test_a_prober_that_cannot_fork_judges_nobody(probed: Lab, few: Path) -> None:
    before = probed.inits(*PROBES)
    prober = probed.prober()
    assert prober
    confine(few, prober)
    for name in ("file", "exec"):
        becomes(probed, name, ("Unknown", "ProbeNotMade", NO_PROCESSES))
    assert health(probed, "tcp") == ("True", "ProbeSucceeded", "")
    (few / "pids.max").write_text("max")
    healthy(probed, *PROBES)
    assert (probed.inits(*PROBES), probed.prober()) == (before, prober)


def test_a_keeper_that_cannot_fork_tries_again(lab: Lab, few: Path) -> None:
    lab.apply(image(), server("a"))
    pid = lab.keeper()
    confine(few, pid)
    lab.apply(
        image(),
        server("a", readiness={"file": "/usr", **FAST}),
        server("b", "/usr/bin/python3", "-c", REPORTS, readiness={"notify": True}),
    )
    becomes(lab, "a", ("Unknown", "ProbeNotMade", f"run the prober: {NO_PROCESSES}"), "Ready")
    becomes(lab, "b", ("Unknown", "ProbeNotMade", f"read its reports: {NO_PROCESSES}"), "Ready")
    (few / "pids.max").write_text("max")
    for name in ("a", "b"):
        becomes(lab, name, ("True", "ProbeSucceeded", ""), "Ready")
    assert lab.keeper() == pid


def test_a_keeper_without_descriptors_lets_clients_wait(lab: Lab) -> None:
    lab.apply(image(), server("a"))
    pid, instance = lab.keeper(), Instance(lab.vsprov.name, str(lab.vsprov.root))
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
    assert keeper.connect(instance, 1.0) is None
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    connection = keeper.connect(instance)
    assert connection and connection.settle()["kept"] == ["a"]
    connection.close()
    assert lab.keeper() == pid


def test_a_group_has_no_processes_left_if_one_above_it_has_none(few: Path) -> None:
    inner = few / "inner"
    inner.mkdir()
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        (inner / "cgroup.procs").write_text(str(pid))
        assert not has_no_processes_left(str(inner))
        (few / "pids.max").write_text("2")
        assert not has_no_processes_left(str(inner))
        (few / "pids.max").write_text("1")
        assert has_no_processes_left(str(inner))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        inner.rmdir()
