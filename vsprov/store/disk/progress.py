"""How work that takes long tells how far it is, and how it is cancelled."""

from __future__ import annotations

import time
from collections.abc import Callable

# (what, bytes done, bytes in all or 0 where that is unknown), from any thread. What it raises ends the work,
# which leaves nothing half made.
Progress = Callable[[str, int, int], None]
PIECE = 1 << 20  # bytes, the most between two calls
PACE = 0.5  # seconds, the longest between two calls


class Meter:
    """Tells `progress` of bytes: after each `PIECE`, and after each `PACE` of smaller files."""

    def __init__(self, progress: Progress, what: str, total: int = 0) -> None:
        self._progress, self._what, self._total = progress, what, total
        self._done = self._reported = 0
        self._when = time.monotonic()

    def add(self, count: int) -> None:
        self._done += count
        if self._done - self._reported >= PIECE or time.monotonic() - self._when >= PACE:
            self.report()

    def report(self) -> None:
        self._reported, self._when = self._done, time.monotonic()
        self._progress(self._what, min(self._done, self._total or self._done), self._total)
