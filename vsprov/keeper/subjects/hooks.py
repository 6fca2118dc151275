"""Has the hooks of servers run that have ended by themselves.

Their home groups then have the mark of hooks that are due, see `vsprov.plan.servers.hooks`. The keeper looks
after a moment whether it is still there: a command that has stopped the server runs the hooks itself.
"""

from __future__ import annotations

import os
from errno import ENODATA, ENODEV, ENOENT, ESRCH

from ..kept import Kept
from ..runner import LOCKED
from ..timers import uptime
from .restarts import SECONDS_LOCKED, is_marked
from .subject import Subject

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from ..loop import Loop

MARK, DUE = "trusted.vsprov.hooks", b"postStop"
SECONDS, SECONDS_AGAIN = 0.1, 30.0  # until the first look; until the next, if `keeper act` did not run them


class Ended:
    """A server that has ended, by the pid and start of its init, and when."""

    __slots__ = ("at", "home", "name", "run")

    def __init__(self, one: Kept) -> None:
        self.at = uptime()
        self.name, self.home, self.run = one.name, os.dup(one.home), (one.pid, one.start)

    def is_due(self) -> bool:
        """Whether its hooks are to be run, and no command has stopped or started it meanwhile."""
        return has_mark(self.home) and is_marked(self.home, self.run)


def has_mark(home: int) -> bool:
    """Whether a home group has the mark."""
    try:
        return os.getxattr(home, MARK) == DUE
    except OSError as error:
        if error.errno not in (ENODATA, ENOENT, ENODEV, ESRCH):
            raise
        return False


class Hooks(Subject):
    """The servers whose hooks are due."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.ends: dict[str, Ended] = {}

    def kept(self, one: Kept) -> None:
        before = self.ends.get(one.name)
        if before and before.run != (one.pid, one.start):
            self.drop(before)

    def ended(self, one: Kept) -> None:
        if one.name in self.ends or not has_mark(one.home):
            return
        found = self.ends[one.name] = Ended(one)
        self.wake(found, SECONDS)

    def wake(self, one: Ended, seconds: float) -> None:
        """See in so many seconds whether they are still due."""
        self.loop.timers.set(("hooks", one.name), seconds, lambda: self.request(one))

    def request(self, one: Ended) -> None:
        """Have them run, if they are still due."""
        if one.is_due():
            self.loop.runner.request()
        else:
            self.drop(one)

    def acted(self, code: int, began: float) -> None:
        for one in list(self.ends.values()):
            if not one.is_due():
                self.drop(one)
            elif one.at > began:  # it may not have seen that
                self.wake(one, SECONDS)
            else:
                self.wake(one, SECONDS_LOCKED if code == LOCKED else SECONDS_AGAIN)

    def review(self) -> None:
        for one in list(self.ends.values()):
            if not one.is_due():
                self.drop(one)

    def drop(self, one: Ended) -> None:
        """Do not care for it any more."""
        del self.ends[one.name]
        self.loop.timers.cancel(("hooks", one.name))
        os.close(one.home)

    def is_busy(self) -> bool:
        return bool(self.ends)
