"""Two applies at once, and one that is interrupted."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.lab import Document, Lab, image, server, to_yaml, wait_until

STUBBORN = "trap 'echo asked' TERM; echo up; while :; do sleep 0.02; done"


def slow_to_stop(name: str, seconds: str = "60s") -> Document:
    return server(name, "/bin/sh", "-c", STUBBORN, init={"stopTimeout": seconds})


def start(lab: Lab, *arguments: str, documents: tuple[Document, ...]) -> subprocess.Popen[str]:
    """Start an apply and give it its manifest."""
    process = subprocess.Popen(
        lab.vsprov.command("apply", "-y", *arguments, "-"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=lab.vsprov.environment,
    )
    assert process.stdin
    process.stdin.write(to_yaml(*documents))
    process.stdin.close()
    process.stdin = None
    return process


def stopping(lab: Lab, name: str, documents: tuple[Document, ...]) -> subprocess.Popen[str]:
    """An apply that waits for a server to stop."""
    process = start(lab, documents=documents)
    wait_until(lambda: "asked\n" in lab.console(name))
    return process


@pytest.fixture
def slow(lab: Lab) -> tuple[Document, ...]:
    """A manifest that stops a server that takes a minute, and makes another."""
    lab.apply(image(), slow_to_stop("slow"))
    wait_until(lambda: lab.console("slow") == "up\n")
    stopped = slow_to_stop("slow")
    stopped["spec"]["state"] = "Stopped"
    return (image(), stopped, server("late", dependsOn=[{"name": "slow"}]))


def test_a_second_apply_is_turned_away_and_told_by_whom(lab: Lab, slow: tuple[Document, ...]) -> None:
    first = stopping(lab, "slow", slow)
    try:
        said = lab.refused(image(), server("b"), code=75)
        assert f"pid {first.pid}" in said and "apply -y -" in said
        assert not lab.group("b").exists()
        # reading needs no lock
        assert lab.plan(image(), server("b"))["summary"]["add"] == 1
        assert "slow" in lab.vsprov("get", "servers").stdout
    finally:
        os.kill(lab.init("slow").pid, signal.SIGKILL)
        first.communicate(timeout=60)
    assert first.returncode == 0
    lab.apply(image(), server("b"))


def test_a_second_apply_waits_when_it_is_told_to(lab: Lab, slow: tuple[Document, ...]) -> None:
    first = stopping(lab, "slow", slow)
    second = start(lab, "--lock-timeout", "2m", documents=(image(), server("b")))
    try:
        lock = lab.vsprov.run / "lock"
        wait_until(lambda: second.poll() is not None or waits_for_a_lock(second.pid))
        assert second.poll() is None and lock.exists()
        assert not lab.group("b").exists()
    finally:
        os.kill(lab.init("slow").pid, signal.SIGKILL)
    assert first.wait(60) == 0
    assert second.wait(60) == 0
    first.communicate()
    second.communicate()
    assert lab.init("b")


def waits_for_a_lock(pid: int) -> bool:
    return any(
        "->" in line and str(pid) in line.split() for line in Path("/proc/locks").read_text().splitlines()
    )


def test_a_wait_for_the_lock_ends_in_time(lab: Lab, slow: tuple[Document, ...]) -> None:
    first = stopping(lab, "slow", slow)
    try:
        lab.refused(image(), server("b"), flags=("--lock-timeout", "100ms"), code=75)
    finally:
        os.kill(lab.init("slow").pid, signal.SIGKILL)
        first.communicate(timeout=60)


def test_no_server_keeps_the_lock_of_the_apply_that_made_it(lab: Lab) -> None:
    lab.apply(image(), server("a"))
    with open(lab.vsprov.run / "lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_apply_says_so_and_the_next_one_converges(
    lab: Lab, slow: tuple[Document, ...], number: int, code: int
) -> None:
    first = stopping(lab, "slow", slow)
    first.send_signal(number)
    _, said = first.communicate(timeout=60)
    assert first.returncode == code
    assert said.splitlines()[-4:] == [
        f"vsprov: {'interrupted' if number == signal.SIGINT else 'terminated'}",
        "Server/slow: was asked to stop, and is not killed if it does not",
        "Server/late: not begun",
        "  hint: the same command again does what is left",
    ]
    assert lab.init("slow")  # it was asked to end, and has not been killed
    os.kill(lab.init("slow").pid, signal.SIGKILL)
    lab.converge(*slow)
    assert lab.init("late")
