"""Snapshots by schedule of servers that run: the key `snapshots`.

When the next one is due is a mark on the directory of the server, "AT SCHEDULE" in Unix time, which
`store.written.scheduled` computes: the keeper cannot read schedules. `keeper act` makes the snapshots that
are due, and sets the next times, also after the clock of the host was set. The mark ERROR says why the last
one was not made.
"""

from __future__ import annotations

import os
from errno import ENODATA, ENOENT
from time import time

from ..kept import Kept
from ..runner import LOCKED, NOT_RUN
from ..timers import uptime
from .restarts import SECONDS_LOCKED
from .subject import Subject

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..clock import Clock
    from ..loop import Loop

DUE, ERROR = "trusted.vsprov.snapshots-due", "trusted.vsprov.snapshots-error"
LATEST = 1e11  # Unix time of the year 5138
SECONDS_AGAIN = 30.0  # until the next try, if `keeper act` did not set the next time


def read(folder: int, mark: str) -> str:
    """The text of a mark; "" without one."""
    try:
        return os.getxattr(folder, mark).decode(errors="replace")
    except OSError as error:
        if error.errno not in (ENODATA, ENOENT):
            raise
        return ""


class Snapshots(Subject):
    """The servers that have a schedule."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.kept_ones: dict[str, Kept] = {}
        self.times: dict[str, float] = {}  # when the next snapshot is due, in Unix time
        self.clock: Clock | None = None
        self.clock_was_set = False
        self.woken = 0.0  # when something has last become due, by `uptime`
        self.retrying = False  # and waiting for the next try
        self.trouble = ""  # why there is no timer

    def kept(self, one: Kept) -> None:
        if one.spec["snapshots"]:
            self.kept_ones[one.name] = one
            self.look(one)
            self.set_timer()
        else:
            self.drop(one.name)

    def released(self, one: Kept) -> None:
        if self.kept_ones.get(one.name) is one:
            self.drop(one.name)

    def drop(self, name: str) -> None:
        """Make no snapshots of a server any more."""
        self.kept_ones.pop(name, None)
        self.times.pop(name, None)

    def look(self, one: Kept) -> None:
        """Read when the next snapshot of a server is due."""
        try:
            at = float(read(one.folder, DUE).partition(" ")[0])
        except ValueError:
            at = 0.0
        # Otherwise somebody has edited it: `keeper act` sets it again.
        self.times[one.name] = at if 0 < at < LATEST else 0.0

    def set_timer(self) -> None:
        """Wake when the first of them is due, or when the clock is set."""
        if not self.times or self.retrying:
            return
        try:
            if self.clock is None:
                from ..clock import Clock

                self.clock = Clock()
                self.loop.watch(self.clock.fd, self.on_timer)
            self.clock.set(min(self.times.values()))
            self.trouble = ""
        except (OSError, ImportError) as error:  # EMFILE; a Python without ctypes
            self.trouble = f"snapshots by schedule: {error}"

    def on_timer(self) -> None:
        """Something is due, or the clock was set."""
        self.woken = uptime()
        if self.clock and self.clock.was_set():
            self.clock_was_set = True
        if self.is_due():
            self.loop.runner.request()
        else:
            self.set_timer()

    def is_due(self) -> bool:
        now = time()
        return not self.retrying and (self.clock_was_set or any(at <= now for at in self.times.values()))

    def acted(self, code: int, began: float) -> None:
        for one in self.kept_ones.values():
            self.look(one)
        if self.woken > began:
            return  # it may not have seen what is due; if so, the next one begins now
        undone = code in (LOCKED, NOT_RUN)
        if any(at <= time() for at in self.times.values()) or (self.clock_was_set and undone):
            self.retrying = True
            seconds = SECONDS_LOCKED if code == LOCKED else SECONDS_AGAIN
            self.loop.timers.set("snapshots", seconds, self.retry)
        else:
            self.clock_was_set = False
            self.set_timer()

    def retry(self) -> None:
        """Try again what was not done."""
        self.retrying = False
        if self.is_due():
            self.loop.runner.request()
        else:
            self.set_timer()

    def status(self) -> Iterator[tuple[str, Any]]:
        yield "snapshots", dict(self.times)

    def problems(self) -> Iterator[str]:
        if self.trouble:
            yield self.trouble
        for name, one in self.kept_ones.items():
            if why := read(one.folder, ERROR).partition(" ")[2]:
                yield f"Server/{name}: snapshot by schedule: {why}"
