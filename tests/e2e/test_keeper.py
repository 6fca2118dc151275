"""The keeper: consoles are pipes that it copies to the logs, and it sees how servers end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab, image, members, server, start_time, status, wait_for, wait_until

WAITS = "mkfifo /tmp/go; read line < /tmp/go"  # until `go`
MOST_MEMORY = 12 << 10  # KiB
TALKS = (
    "echo one; echo two > /dev/stdout; echo three >> /dev/stderr; echo four > /proc/1/fd/1; exec sleep 1000"
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A lab with servers that wait for `go`, and their keeper."""

    lab: Lab
    keeper: int

    def go(self, name: str) -> None:
        """Let a server go on; returns when it has ended."""
        init = os.pidfd_open(self.lab.init(name).pid)
        go = self.lab.root(name) / "tmp/go"
        wait_until(go.exists)
        go.write_text("go\n")
        wait_for(init)

    def last_exit(self, name: str) -> Any:
        """Code, signal and whether for memory, once known."""

        def found() -> Any:
            status = json.loads(self.lab.vsprov("get", "server", name, "-o", "json").stdout)["status"]
            return status["lastExit"]

        wait_until(lambda: found() is not None)
        return tuple(found()[key] for key in ("code", "signal", "oom"))


@pytest.fixture(scope="module")
def kept(shared_lab: Lab) -> Iterator[Kept]:
    small = {"memory": {"max": "24Mi", "swapMax": 0}}
    eats = f"{WAITS}; exec /usr/bin/python3 -c 'x = b\"x\" * (64 << 20)'"
    shared_lab.apply(
        image(),
        server("talks", "sh", "-c", TALKS),
        server("user", "sh", "-c", TALKS, init={"user": "33:33"}),
        server("fails", "sh", "-c", f"{WAITS}; echo last words; exit 3"),
        server("killed"),
        server("eats", "sh", "-c", eats, resources=small),
        server("well", "sh", "-c", WAITS),
    )
    yield Kept(shared_lab, shared_lab.keeper())


@pytest.mark.parametrize("name", ["talks", "user"])
def test_opening_standard_output_again_appends_to_the_log(kept: Kept, name: str) -> None:
    """By whatever user: /dev/stdout is where many images link their logs to."""
    lines = ["one", "two", "three", "four"]
    wait_until(lambda: kept.lab.vsprov("logs", name).stdout.split() == lines)
    kept.lab.run(name, "sh", "-c", "echo five > /proc/1/fd/1")
    assert kept.lab.vsprov("logs", name).stdout.split() == [*lines, "five"]
    log = kept.lab.directory(name) / "console.log"
    assert (log.stat().st_uid, log.stat().st_mode & 0o777) == (0, 0o600)


def test_an_exit_code_is_recorded_while_no_command_runs(kept: Kept) -> None:
    kept.go("fails")
    assert kept.last_exit("fails") == (3, None, False)
    assert kept.lab.console("fails") == "last words\n"
    kept.go("well")
    assert kept.last_exit("well") == (0, None, False)


def test_a_signal_is_recorded_while_no_command_runs_and_forgotten_by_a_start(kept: Kept) -> None:
    os.kill(kept.lab.init("killed").pid, 9)
    assert kept.last_exit("killed") == (None, 9, False)
    kept.lab.vsprov("start", "killed")
    document = json.loads(kept.lab.vsprov("get", "server", "killed", "-o", "json").stdout)
    assert document["status"]["lastExit"] is None
    assert kept.lab.keeper() == kept.keeper


def test_a_kill_for_memory_is_recorded_while_no_command_runs(kept: Kept) -> None:
    kept.go("eats")
    assert kept.last_exit("eats") == (None, 9, True)


def test_the_keeper_is_small_and_a_process_of_its_own(kept: Kept) -> None:
    pid = kept.keeper
    assert Path(f"/proc/{pid}/comm").read_text() == "vsprov-keeper\n"
    assert int(status(pid, "VmRSS").split()[0]) < MOST_MEMORY
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    assert int(fields[3]) != os.getsid(0)  # its session
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)} == {"/dev/null"}
    assert status(pid, "NSpid").split() == [str(pid)]
    assert members(kept.lab.group(".keeper")) == [pid]


def test_it_ends_with_the_last_server(lab: Lab) -> None:
    lab.apply(image(), server("a"), server("b"))
    keeper = lab.keeper()
    began = start_time(keeper)
    lab.vsprov("stop", "a")
    assert start_time(lab.keeper()) == began
    pidfd = os.pidfd_open(keeper)
    os.kill(lab.init("b").pid, 9)
    wait_for(pidfd)
    lab.vsprov("start", "a")
    assert lab.keeper() != keeper


def test_what_a_server_writes_while_it_is_stopped_is_in_the_log(lab: Lab) -> None:
    script = "trap 'seq 20000; exit 0' TERM; echo up; sleep 1000 & wait"
    lab.apply(image(), server("a", "sh", "-c", script))
    wait_until(lambda: lab.console("a") == "up\n")
    lab.vsprov("stop", "a")
    assert lab.console("a").split() == ["up", *map(str, range(1, 20001))]
