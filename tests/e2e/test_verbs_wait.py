"""wait."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.applying import opened
from tests.e2e.verbs import HOST, web
from tests.effort import emulated
from tests.lab import SECONDS, Lab, pool, server, wait_for
from vsprov.engine.run import keeper
from vsprov.engine.servers import waiting as waiting_for
from vsprov.store.instance import Instance


@contextmanager
def waiting(lab: Lab, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A `vsprov wait` that sleeps: it has seen that it has to wait."""
    running = subprocess.Popen(
        lab.vsprov.command("wait", *words),
        env=lab.vsprov.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lab.wait_until(lambda: is_asleep(running.pid))
        yield running
    finally:
        running.kill()
        running.communicate()


def is_asleep(pid: int) -> bool:
    """Whether it sleeps in poll(2) with a queue of inotify."""
    try:
        where = Path(f"/proc/{pid}/wchan").read_text()
    except OSError:  # it has ended
        return False
    return "inotify" in opened(pid) and "poll" in where


def ended(running: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = running.communicate(timeout=SECONDS)
    return running.returncode, out + err


STATES: dict[str, tuple[Callable[[Lab], object], str]] = {
    "stopped": (lambda lab: lab.vsprov("stop", "web1"), "Server/web1: Stopped\n"),
    "exited": (lambda lab: lab.vsprov("kill", "-s", "TERM", "web1"), "Server/web1: Exited (3)\n"),
    "frozen": (lambda lab: lab.vsprov("freeze", "web1"), "Server/web1: Frozen\n"),
    "deleted": (lambda lab: lab.vsprov("delete", "server/web1", "-y"), "Server/web1: Deleted\n"),
}


@pytest.mark.parametrize("state", emulated(STATES, ("exited", "frozen")))
@pytest.mark.parametrize("quota", ["", "all"])
def test_a_wait_ends_when_a_server_gets_into_the_state(lab: Lab, state: str, quota: str) -> None:
    change, said = STATES[state]
    script = "trap 'exit 3' TERM; while :; do sleep 0.05; done"
    lab.apply(
        HOST, pool("all"), web(init={"command": ["sh", "-c", script]}, **({"quota": quota} if quota else {}))
    )
    with waiting(lab, "--for", state, "web1") as running:
        change(lab)
        assert ended(running) == (0, said)
    assert lab.vsprov("wait", "--for", state, "web1").stdout == said


@pytest.mark.vm_subset
def test_a_wait_for_running_ends_when_the_server_has_been_started(lab: Lab) -> None:
    lab.apply(HOST, web(), web("web2", state="Stopped"), server("db1", state="Stopped"))
    with waiting(lab, "-l", "tier=web", "-o", "json") as running:
        lab.vsprov("start", "web2")
        code, out = ended(running)
    assert code == 0, out
    assert json.loads(out) == {
        "items": [
            {"address": f"Server/{name}", "state": "Running", "lastExit": None} for name in ("web1", "web2")
        ]
    }


def test_a_wait_for_running_lasts_until_a_frozen_server_is_thawed(lab: Lab) -> None:
    lab.apply(HOST, web())
    lab.vsprov("freeze", "web1")
    with waiting(lab, "web1") as running:
        lab.vsprov("thaw", "web1")
        assert ended(running) == (0, "Server/web1: Running\n")


def test_the_exit_that_the_keeper_records_right_before_it_leaves_is_shown(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves with its last server, after the wait has seen that end, and before the wait can ask it."""
    instance = Instance(lab.vsprov.name, str(lab.vsprov.root))
    lab.apply(HOST, web(init={"command": ["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done"]}))
    paused = os.pidfd_open(lab.keeper())
    signal.pidfd_send_signal(paused, signal.SIGSTOP)
    os.kill(lab.init("web1").pid, signal.SIGTERM)

    connect = keeper.connect

    def connect_late(instance: Instance) -> keeper.Keeper | None:
        signal.pidfd_send_signal(paused, signal.SIGCONT)
        wait_for(paused)
        return connect(instance)

    monkeypatch.setattr(keeper, "connect", connect_late)
    (reached,) = waiting_for.wait(instance, ["web1"], waiting_for.STATES["exited"], SECONDS)
    assert reached.seen and reached.seen.state == "Exited (3)"


def test_a_server_that_ends_without_a_keeper_is_seen_to_end(lab: Lab) -> None:
    lab.apply(HOST, web())
    with waiting(lab, "--for", "exited", "web1") as running:
        os.kill(lab.keeper(), 9)
        os.kill(lab.init("web1").pid, 9)
        code, said = ended(running)
    assert code == 0 and said.startswith("Server/web1: ")


def test_a_wait_has_an_end_if_a_time_is_given(lab: Lab) -> None:
    lab.apply(HOST, web(), web("web2", state="Stopped"))
    done = lab.vsprov("wait", "--timeout", "10ms", "web1", "web2", check=False)
    assert done.returncode == 1 and done.stdout == "Server/web1: Running\n"
    assert "wait: timed out after 0.01 s: Server/web2 is Stopped\n" in done.stderr


def test_a_server_that_is_removed_can_no_longer_run(lab: Lab) -> None:
    lab.apply(HOST, web(state="Stopped"))
    with waiting(lab, "web1") as running:
        lab.vsprov("delete", "server/web1", "-y")
        code, said = ended(running)
    assert code == 1 and "Server/web1: not found" in said


def test_a_wait_uses_no_cpu_while_nothing_happens(lab: Lab) -> None:
    """It sleeps until the queue of events is readable: another server's noise does not wake it up."""
    lab.apply(HOST, web(state="Stopped"), server("noisy", "sh", "-c", "while :; do sleep 0.01; done"))
    with waiting(lab, "web1") as running:
        switches = (
            Path(f"/proc/{running.pid}/status").read_text().split("voluntary_ctxt_switches:")[1].split()[0]
        )
        assert not select.select([running.stdout], [], [], 0.3)[0]
        after = (
            Path(f"/proc/{running.pid}/status").read_text().split("voluntary_ctxt_switches:")[1].split()[0]
        )
        assert switches == after


def test_an_unknown_state_or_server_is_refused(lab: Lab) -> None:
    lab.apply(HOST, web())
    wrong = lab.vsprov("wait", "--for", "runing", "web1", check=False)
    assert wrong.returncode == 64 and "did you mean 'running'?" in wrong.stderr
    unknown = lab.vsprov("wait", "web9", check=False)
    assert unknown.returncode == 1 and "Server/web9: not found\n  hint: did you mean web1?" in unknown.stderr
    assert lab.vsprov("wait", "--for", "deleted", "web9").stdout == "Server/web9: Deleted\n"
