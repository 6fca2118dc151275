"""What an apply tells about its progress."""

from __future__ import annotations

from typing import Protocol

from vsprov.errors import VsprovError
from vsprov.plan.plan import Change


class Report(Protocol):
    """Receives the progress of an apply.

    `started` and `finished` are called for each change, `notice` for messages without a change of their own,
    and `progressed` for imports: `address` has `done` of `total` bytes, 0 if the total is unknown.
    """

    def started(self, change: Change) -> None: ...
    def finished(self, change: Change, error: VsprovError | None) -> None: ...
    def notice(self, line: str) -> None: ...
    def progressed(self, address: str, what: str, done: int, total: int) -> None: ...
