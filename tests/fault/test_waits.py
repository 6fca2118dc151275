"""What an apply waits for does not come: it ends all the same, and says what it waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.fault.faults import Apply
from tests.lab import SECONDS, Lab, image, server, to_yaml, wait_until
from vsprov.engine.apply import converge
from vsprov.engine.guests import launch
from vsprov.engine.run import threads
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.spawn import Spawner
from vsprov.errors import FailedError
from vsprov.store import servers
from vsprov.store.instance import Instance


def stop_the_spawner() -> None:
    """Let the spawner of this process be stopped as soon as it runs, and be waited for but a moment."""
    launch.SECONDS_TO_ANSWER = 0.3
    start = ApplyContext.start_spawner

    def start_and_stop(context: ApplyContext) -> Spawner:
        spawner = start(context)
        os.kill(spawner.pid, signal.SIGSTOP)
        return spawner

    ApplyContext.start_spawner = start_and_stop  # type: ignore[method-assign]


def test_a_spawner_that_is_stopped_fails_the_start(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    lab.converge(image(), server("old"))
    documents = (image(), server("old", "sleep", "123456"), *(server(f"a{number}") for number in range(40)))
    assert Apply(lab, documents).run(stop_the_spawner) == 1
    said = capfd.readouterr().err
    assert "Server/a0: spawner: wait for its answer: none within 0.3 s" in said
    assert "state T" in said
    assert "Server/a39: spawner: wait for its answer" in said
    assert "Server/old: spawner" in said
    assert "the server is now stopped; to start it again as before the change failed: spawner" in said
    assert lab.processes("old") == [] and not lab.group("a0").exists()
    lab.vsprov("start", "old")
    assert lab.is_settled(image(), server("old"))
    lab.converge(image(), server("old"), server("a0"))


def test_an_import_that_is_blocked_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "SECONDS_TO_END", 0.1)
    imports = threads.Threads(lambda *progress: None)
    source, end = os.pipe()
    try:
        running = imports.run(lambda: os.read(source, 1))
        next(running)
        assert imports.close() == 1
        os.write(end, b"x")
        monkeypatch.setattr(threads, "SECONDS_TO_END", SECONDS)
        assert imports.close() == 0
        with pytest.raises(StopIteration):
            running.send(True)
    finally:
        os.close(source)
        os.close(end)


def is_cancelled(operations: threads.Threads) -> bool:
    try:
        operations.progress("Image/a")("unpack", 1, 2)
    except threads.Cancelled:
        return True
    return False


def test_queued_operations_share_a_few_threads_and_those_not_begun_are_dropped_at_the_end() -> None:
    operations = threads.Threads(lambda *progress: None)
    source, end = os.pipe()
    try:
        found: list[int] = []

        def work() -> None:
            os.read(source, 1)
            found.append(threading.get_ident())

        waiting = [operations.queue(work) for _ in range(3 * threads.WORKERS)]
        for each in waiting:
            next(each)
        os.write(end, bytes(threads.WORKERS))
        wait_until(lambda: len(found) == threads.WORKERS)
        assert len(set(found)) <= threads.WORKERS
        stopping = threading.Thread(target=operations.close)
        stopping.start()
        wait_until(lambda: is_cancelled(operations))
        os.write(end, bytes(3 * threads.WORKERS))
        stopping.join(SECONDS)
        assert not stopping.is_alive()
        assert threads.WORKERS <= len(found) <= 2 * threads.WORKERS
    finally:
        os.close(source)
        os.close(end)


def test_the_error_of_an_operation_is_raised_where_it_is_awaited() -> None:
    operations = threads.Threads(lambda *progress: None)
    failing = operations.begin(lambda: os.rmdir("/proc/self/none"))
    assert operations.begin(lambda: 7)() == 7
    with pytest.raises(FileNotFoundError):
        failing()
    assert operations.close() == 0


def test_what_was_applied_is_flushed_although_the_second_look_fails(lab: Lab, tmp_path: Path) -> None:
    """All workers are busy, so the flush has not begun when the look fails."""
    flushed, free = tmp_path / "flushed", threading.Event()

    def prepare() -> None:
        carry_out, flush = converge._carry_out, servers.flush

        def carry_out_and_be_busy(context: ApplyContext, *more: Any) -> Any:
            errors = carry_out(context, *more)
            for _ in range(threads.WORKERS):
                next(context.threads.queue(free.wait))
            return errors

        def fail(*_: Any) -> Any:
            threading.Timer(0.2, free.set).start()
            raise FailedError("look: nothing to be seen")

        def flush_and_tell(instance: Instance) -> None:
            flush(instance)
            flushed.touch()

        converge._carry_out, converge.check = carry_out_and_be_busy, fail
        servers.flush = flush_and_tell

    assert Apply(lab, (image(), server("a"))).run(prepare) == 1
    assert flushed.exists()
    assert lab.init("a")
    lab.converge(image(), server("a"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_for_a_server_that_does_not_stop(
    lab: Lab, tmp_path: Path, number: signal.Signals
) -> None:
    script = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.01; done"
    stubborn = server("a", "/bin/sh", "-c", script, init={"stopTimeout": "1h"})
    lab.converge(image(), stubborn)
    lab.wait_until(lambda: lab.console("a") == "ready\n")
    with subprocess.Popen(
        lab.vsprov.command("restart", "a"), env=lab.vsprov.environment, stderr=subprocess.PIPE, text=True
    ) as stopping:
        lab.wait_until(lambda: lab.console("a") == "ready\nasked\n")
        stopping.send_signal(number)
        _, said = stopping.communicate(timeout=SECONDS)
    assert stopping.returncode == 128 + number
    assert said.splitlines()[1:] == [
        "Server/a: was asked to stop, and is not killed if it does not",
        "  hint: vsprov restart a",
    ]
    assert lab.init("a") and lab.is_settled(image(), stubborn)
    lab.vsprov("stop", "a", "--timeout", "1ms")


def test_a_signal_ends_the_watch_over_started_servers(lab: Lab) -> None:
    command = lab.vsprov.command("apply", "-y", "--settle", "1h", "-")
    applying = subprocess.Popen(command, env=lab.vsprov.environment, stdin=subprocess.PIPE, text=True)
    assert applying.stdin
    applying.stdin.write(to_yaml(image(), server("a", "/bin/sh", "-c", "echo ready; sleep 123456")))
    applying.stdin.close()
    lab.wait_until(lambda: lab.console("a") == "ready\n")
    applying.terminate()
    assert applying.wait(SECONDS) == 143
    assert lab.init("a")
    lab.converge(image(), server("a", "/bin/sh", "-c", "echo ready; sleep 123456"))
