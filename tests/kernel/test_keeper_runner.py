"""The process that the keeper runs when something is due, and how long it may take."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vsprov.keeper import runner as module
from vsprov.keeper.runner import Runner
from vsprov.keeper.service import Service
from vsprov.keeper.subjects.subject import Subject
from vsprov.keeper.timers import Timers

pytestmark = pytest.mark.kernel
SECONDS = 60.0


class Notes(Subject):
    """The codes with which processes have ended."""

    def __init__(self, loop: Any) -> None:
        super().__init__(loop)
        self.codes: list[int] = []

    def acted(self, code: int, began: float) -> None:
        self.codes.append(code)


class Loop(Service):
    """A loop that has nothing but timers and a runner."""

    def __init__(self, listener: int, script: str) -> None:
        super().__init__(listener)
        self.timers = Timers()
        self.subjects = (Notes(self),)
        loop: Any = self
        self.runner = Runner(loop, "none", "/none")
        self.runner.command = ["/bin/sh", "-c", script]

    def run(self, seconds: float = SECONDS) -> list[int]:
        """Have it run, until it has ended, or the time is over."""
        self.runner.request()
        end = time.monotonic() + seconds
        while self.runner.pid and time.monotonic() < end:
            self.turn(min(max(self.timers.timeout(), 0.0), 0.1))
            self.timers.run()
        return self.subjects[0].codes


@pytest.fixture
def make() -> Iterator[Callable[[str], Loop]]:
    """Makes a loop whose runner runs a shell script."""
    made = []

    def new(script: str) -> Loop:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind("")  # an abstract address, whichever is free
        listener.listen()
        made.append(Loop(listener.detach(), script))
        return made[-1]

    yield new
    for loop in made:
        loop.listener.close()
        loop.poller.close()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST", 0.3)
    monkeypatch.setattr(module, "SECONDS_TO_END", 0.3)


def test_one_that_takes_too_long_is_asked_to_end_and_that_is_said(make: Callable[[str], Loop]) -> None:
    loop = make("trap 'exit 3' TERM; while :; do sleep 0.01; done")
    assert loop.run() == [3]
    assert loop.runner.late
    assert loop.runner.problem == "keeper act: took longer than 0.3 s, and was ended"


def test_one_that_does_not_end_is_killed_and_that_is_said(make: Callable[[str], Loop]) -> None:
    loop = make("trap '' TERM; while :; do sleep 0.01; done")
    assert loop.run() == [-9]
    assert loop.runner.problem == "keeper act: took longer than 0.3 s, and was ended"


def test_the_next_one_has_its_own_time_and_removes_the_problem(make: Callable[[str], Loop]) -> None:
    loop = make("exec sleep 1000")
    assert loop.run() == [-15]
    loop.runner.command = ["/bin/true"]
    assert loop.run() == [-15, 0]
    assert not loop.runner.late and loop.runner.problem == ""


def test_a_lock_that_another_command_holds_is_no_problem(make: Callable[[str], Loop]) -> None:
    loop = make("echo 'vsprov: x: locked by another command' >&2; exit 75")
    assert loop.run() == [75] and loop.runner.problem == ""
    loop.runner.command[-1] = "echo 'vsprov: x: broken' >&2; exit 1"
    assert loop.run() == [75, 1] and loop.runner.problem == "x: broken"


def test_one_that_has_announced_that_it_takes_longer_is_left_alone(make: Callable[[str], Loop]) -> None:
    loop = make("exec sleep 1000")
    loop.runner.request()
    loop.runner.allow(1000.0)
    loop.run(1.0)
    assert loop.runner.pid and not loop.runner.late
    loop.runner.allow(0.0)
    assert loop.run() == [-15]
