"""Starts servers again that have ended, as their key `restart` wants; and after a reboot from inside.

The keeper decides and waits; `keeper act` does it, for all servers that are due (`runner`). The decision is a
mark on the home group of the server, so that another keeper goes on where this one was:

    STATE AT COUNT WHY PID START TIMES

STATE is `due`, or `gave-up` at the time AT. COUNT is the number of restarts since the server last ran for so
long that delays begin anew. WHY is `exit`, `reboot` or `unhealthy`. PID and START are those of the init that
has ended, or is to end. TIMES are those of the restarts within the interval, separated by commas, or `-`.
Times are those of `timers.uptime`, so that setting the clock of the host changes nothing. The mark is removed
when a command starts or stops the server. If an unhealthy server recovers before its restart, PID becomes 0:
nothing is to be done, but earlier restarts still count. `engine.look.restarts` reads the mark too.

A server that could not be started because of servers that it depends on has the mark WAITS, with their names:
nothing was tried, so that is not counted. It is due again when something has changed about one of them.
"""

from __future__ import annotations

import os
from errno import ENODATA, ENODEV, ENOENT, ESRCH
from signal import SIGHUP, SIGINT
from time import time

from ..kept import Kept
from ..protocol import DUE, GAVE_UP
from ..runner import LOCKED, NOT_RUN
from ..timers import uptime
from .subject import Subject

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..loop import Loop

MARK, INIT = "trusted.vsprov.restarts", "trusted.vsprov.init"
WAITS, ERROR = "trusted.vsprov.restart-waits", "trusted.vsprov.restart-error"  # written by `keeper act`
NOBODY = (0, 0)  # instead of the pid and start of an init
EXIT, REBOOT, UNHEALTHY = "exit", "reboot", "unhealthy"
SHORTEST = 0.1  # seconds between an end and another restart than the first
SECONDS_LOCKED = 1.0  # until the next try when another command held the lock
MOST_DOUBLINGS = 40
MOST_TIMES = 4000  # in a mark: an extended attribute has at most 64 KiB
TICKS = os.sysconf("SC_CLK_TCK")


class Mark:
    """The mark on the home group of a server."""

    __slots__ = ("at", "count", "run", "state", "times", "why")

    def __init__(
        self, state: str, at: float, count: int, why: str, run: tuple[int, int], times: list[float]
    ) -> None:
        self.state, self.at, self.count, self.why, self.run, self.times = state, at, count, why, run, times

    def write(self, home: int) -> None:
        """Write it, if the group is still there."""
        times = ",".join(f"{at:.3f}" for at in self.times) or "-"
        text = f"{self.state} {self.at:.3f} {self.count} {self.why} {self.run[0]} {self.run[1]} {times}"
        note(home, MARK, text)


def note(home: int, name: str, text: str) -> None:
    """Write a mark on a home group, if that is still there."""
    try:
        os.setxattr(home, name, text.encode())
    except OSError as error:
        if error.errno not in (ENOENT, ENODEV, ESRCH):
            raise


def read(home: int) -> Mark | None:
    """The mark of a home group; None if it has none, or somebody has edited it."""
    words = _text(home, MARK).split()
    try:
        state, at, count, why, pid, start, times = words
        listed = [float(word) for word in times.split(",")] if times != "-" else []
        return Mark(state, float(at), int(count), why, (int(pid), int(start)), listed)
    except ValueError:
        return None


def forget(home: int, name: str) -> None:
    """Remove a mark, if it is there."""
    try:
        os.removexattr(home, name)
    except OSError as error:
        if error.errno not in (ENODATA, ENOENT, ENODEV, ESRCH):
            raise


def _text(home: int, name: str) -> str:
    try:
        return os.getxattr(home, name).decode(errors="replace")
    except OSError as error:
        if error.errno not in (ENODATA, ENOENT, ENODEV, ESRCH):
            raise
        return ""


def is_marked(home: int, run: tuple[int, int]) -> bool:
    """Whether the home group has the mark of this init: no command has stopped it, or started another."""
    try:
        os.stat("cgroup.procs", dir_fd=home)  # a group that was removed keeps its marks while it is open
    except OSError:
        return False
    return _text(home, INIT).split()[:2] == [str(number) for number in run]


class Waiting:
    """A server that has ended and is started again at a time; `after` are the servers that it waits for."""

    __slots__ = ("after", "home", "mark", "name", "policy")

    def __init__(self, name: str, home: int, mark: Mark, policy: dict[str, Any]) -> None:
        self.name, self.home, self.mark, self.policy = name, home, mark, policy
        self.after: frozenset[str] = frozenset()

    def is_wanted(self) -> bool:
        """Whether no command has stopped or started it meanwhile."""
        return is_marked(self.home, self.mark.run) and read(self.home) is not None


class Restarts(Subject):
    """The servers that wait for their restart."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.waiting: dict[str, Waiting] = {}
        self.changes: dict[str, float] = {}  # when something has changed about a server

    def kept(self, one: Kept) -> None:
        """It runs again, whoever started it; or its spec has changed."""
        self.changed(one)
        policy, run = one.spec["restart"], (one.pid, one.start)
        before = self.waiting.get(one.name)
        mark = before.mark if before and before.mark.run == run else read(one.home)
        if mark is None or mark.run != run:
            self.drop(one.name)
        elif mark.why == UNHEALTHY and policy["policy"] == "no":
            self.take_back(one, mark)
        elif before and before.mark is mark:
            before.policy = policy
        else:
            self.drop(one.name)
            if mark.state == DUE:  # decided by an earlier keeper
                self.wait(Waiting(one.name, os.dup(one.home), mark, policy))

    def ended(self, one: Kept) -> None:
        self.changed(one)
        self.drop(one.name)
        why = reason(one.status, one.spec["restart"]["policy"], once=one.spec["init"]["oneshot"])
        if why and is_marked(one.home, (one.pid, one.start)):  # else a command has stopped or replaced it
            self.decide(one, why)

    def changed(self, one: Kept) -> None:
        """Try servers again that wait for this one."""
        self.changes[one.name] = uptime()
        for each in self.waiting.values():
            if one.name in each.after:
                each.after = frozenset()
                forget(each.home, WAITS)
                self.wake(each, 0.0)

    def judged(self, one: Kept, *, healthy: bool) -> None:
        """Have a server that runs restarted while it is unhealthy, if it has a policy."""
        waiting = self.waiting.get(one.name)
        if healthy and waiting and waiting.mark.why == UNHEALTHY:
            self.take_back(one, waiting.mark)
        elif not healthy and not waiting and one.spec["restart"]["policy"] != "no":
            self.decide(one, UNHEALTHY)

    def take_back(self, one: Kept, mark: Mark) -> None:
        """Do not restart a server that runs; what was counted before that was decided still counts."""
        self.drop(one.name)
        if mark.state == DUE:
            mark.count, mark.times = mark.count - 1, mark.times[:-1]
        mark.run = NOBODY
        mark.write(one.home)

    def decide(self, one: Kept, why: str) -> None:
        """Wait until a server is started again, or give up."""
        policy, run = one.spec["restart"], (one.pid, one.start)
        mark = read(one.home) or Mark(DUE, 0, 0, why, NOBODY, [])
        if mark.run != run:  # else an earlier keeper has decided
            if uptime() - one.start / TICKS >= policy["interval"] / 1e6:
                mark.count = 0
            mark.why, mark.run = why, run
            schedule(mark, policy, uptime())
            mark.write(one.home)
        if mark.state == DUE:
            self.wait(Waiting(one.name, os.dup(one.home), mark, policy))

    def wait(self, one: Waiting) -> None:
        """Have a server started at its time."""
        self.waiting[one.name] = one
        self.wake(one, min(one.mark.at - uptime(), longest(one.policy)))

    def wake(self, one: Waiting, seconds: float) -> None:
        """See in so many seconds whether it is still wanted."""
        self.loop.timers.set(("restart", one.name), seconds, lambda: self.due(one))

    def due(self, one: Waiting) -> None:
        """Have it started, unless a command has stopped it."""
        if one.is_wanted():
            if one.mark.at > uptime():  # somebody has edited it
                one.mark.at = uptime()
                one.mark.write(one.home)
            self.loop.runner.request()
        else:
            self.drop(one.name)

    def review(self) -> None:
        for one in [each for each in self.waiting.values() if not each.is_wanted()]:
            self.drop(one.name)

    def is_due(self) -> bool:
        now = uptime()
        return any(one.mark.at <= now and not one.after for one in self.waiting.values())

    def acted(self, code: int, began: float) -> None:
        """Those that were due, and were not started, are tried again, unless they are not wanted any more."""
        for one in [each for each in self.waiting.values() if each.mark.at <= began]:
            waits = frozenset(_text(one.home, WAITS).split())
            if not one.is_wanted():
                self.drop(one.name)
            elif code == LOCKED:
                self.wake(one, SECONDS_LOCKED)
            elif waits and code != NOT_RUN and not self.loop.runner.late:
                if all(self.changes.get(name, 0.0) < began for name in waits):  # else it is still due
                    one.after = waits
            else:
                self.failed(one)

    def failed(self, one: Waiting) -> None:
        """Try a server again that could not be started, or give up."""
        if self.loop.runner.late:
            note(one.home, ERROR, self.loop.runner.problem)
        schedule(one.mark, one.policy, uptime())
        one.mark.write(one.home)
        if one.mark.state == DUE:
            self.wait(one)
        else:
            self.drop(one.name)

    def drop(self, name: str) -> None:
        """Do not wait for a server any more."""
        one = self.waiting.pop(name, None)
        if one:
            self.loop.timers.cancel(("restart", name))
            os.close(one.home)

    def is_busy(self) -> bool:
        return bool(self.waiting)

    def status(self) -> Iterator[tuple[str, Any]]:
        booted = time() - uptime()
        yield "restarts", {name: booted + one.mark.at for name, one in self.waiting.items()}


def reason(status: int | None, policy: str, *, once: bool) -> str:
    """Why a server that has ended is started again; "" if it is not.

    The init of a pid namespace is killed by SIGHUP if a process of it calls reboot(2) to restart, by SIGINT
    if to halt or power off; it cannot be killed by these signals in another way (pid_namespaces(7)).
    """
    if status is not None and os.WIFSIGNALED(status):
        if os.WTERMSIG(status) == SIGHUP:
            return REBOOT
        if os.WTERMSIG(status) == SIGINT:
            return ""
    well = status == 0
    if policy == "no" or (well and (once or policy == "on-failure")):
        return ""
    return EXIT


def longest(policy: dict[str, Any]) -> float:
    """The longest time between an end and a restart, in seconds."""
    return max(float(policy["maxDelay"]), float(policy["delay"]), SHORTEST * 1e6) / 1e6


def schedule(mark: Mark, policy: dict[str, Any], now: float) -> None:
    """Set when the server is started again, or that it is not any more."""
    # abs(): times after now are of somebody who has edited the mark.
    mark.times = [at for at in mark.times if abs(now - at) < policy["interval"] / 1e6]
    most = policy["attempts"]
    if mark.why != REBOOT and most != "max" and len(mark.times) >= min(most, MOST_TIMES):
        mark.state, mark.at = GAVE_UP, now
        return
    delay = policy["delay"] / 1e6 * 2 ** min(mark.count, MOST_DOUBLINGS)
    if mark.count:
        delay = max(delay, SHORTEST)
    elif mark.why == REBOOT:
        delay = 0.0
    mark.state, mark.at = DUE, now + min(delay, longest(policy))
    mark.count += 1
    mark.times = [*mark.times[1 - MOST_TIMES :], mark.at]
