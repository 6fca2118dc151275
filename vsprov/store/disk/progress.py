"""Progress reports of long operations, and their cancellation."""

from __future__ import annotations

import time
from collections.abc import Callable

# Called from any thread with (operation, bytes done, total bytes or 0 if unknown). An exception raised by it
# cancels the operation, which leaves nothing incomplete.
Progress = Callable[[str, int, int], None]
PIECE = 1 << 20  # bytes between two calls, at most
PACE = 0.5  # seconds between two calls, at most


class Meter:
    """Calls `progress` after each `PIECE` of bytes, and each `PACE` seconds while bytes are added."""

    def __init__(self, progress: Progress, what: str, total: int = 0) -> None:
        self._progress, self._what, self._total = progress, what, total
        self._done = self._reported = 0
        self._when = time.monotonic()

    def add(self, count: int) -> None:
        """Count bytes, and report them if it is time."""
        self._done += count
        if self._done - self._reported >= PIECE or time.monotonic() - self._when >= PACE:
            self.report()

    def report(self) -> None:
        """Report the bytes counted so far, now."""
        self._reported, self._when = self._done, time.monotonic()
        self._progress(self._what, min(self._done, self._total or self._done), self._total)
