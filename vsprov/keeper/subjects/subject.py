"""The base class of subjects: what the keeper does for servers.

A subject is a module with a class derived from `Subject`, and its entry in `SUBJECTS` of `loop.py`. The
loop tells each subject of each server; a subject has the loop call it when a descriptor becomes ready
(`loop.watch`) or after a time (`loop.timers`). None of its methods may block: what can goes into a process of
its own. What changes a server is done by `vsprov keeper act`, which a subject asks for
(`loop.runner.request`).
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ..kept import Kept
    from ..loop import Loop


class Subject:
    """What is done for servers; the methods do nothing unless a subject overrides them."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def kept(self, one: Kept) -> None:
        """Begin to work for a server that has just been started or adopted, or go on by its new spec. OSError
        if that is not possible; `one` is not kept then.
        """

    def judged(self, one: Kept, *, healthy: bool) -> None:
        """Its health was probed, and is recorded."""

    def changed(self, one: Kept) -> None:
        """What its probes have found out has changed, and is recorded."""

    def settle(self, one: Kept) -> None:
        """Catch up with what a server has done before, because a command waits for that."""

    def review(self) -> None:
        """A command that may have changed anything is about to end."""

    def ended(self, one: Kept) -> None:
        """Its init has ended, and that is recorded. Its descriptors are closed afterwards. Also called for a
        server that has ended while there was no keeper, of which `kept` was never called.
        """

    def released(self, one: Kept) -> None:
        """It is not kept any more; called after `ended`, and for one that could not be kept."""

    def is_busy(self) -> bool:
        """Whether something is still to be done, so that the keeper stays even without servers."""
        return False

    def is_due(self) -> bool:
        """Whether there is something that `keeper act` has to do now, see `Loop.runner`."""
        return False

    def acted(self, code: int, began: float) -> None:
        """A `keeper act` that began at this time, by `timers.uptime`, has ended, with this exit code."""

    def status(self) -> Iterable[tuple[str, Any]]:
        """(key, value) of what `keeper status` shows."""
        return ()

    def problems(self) -> Iterable[str]:
        """One line for each problem that lasts, beginning with "Server/NAME: "."""
        return ()
