"""What an apply tells about its progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from vsprov.errors import VsprovError
from vsprov.model.objects import few
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


class Silent:
    """A report that nobody reads."""

    def started(self, change: Change) -> None: ...
    def finished(self, change: Change, error: VsprovError | None) -> None: ...
    def notice(self, line: str) -> None: ...
    def progressed(self, address: str, what: str, done: int, total: int) -> None: ...


def report_killed(overdue: Mapping[str, str], unhandled: Mapping[str, str], report: Report) -> None:
    """Say which servers were killed, because their stop signal had no effect, or not in time; both are as in
    `ApplyContext`.
    """
    for how in sorted(set(overdue.values())):
        names = (name for name, killed in overdue.items() if killed == how)
        report.notice(f"{few(names)}: killed {how}, because it was still running")
    if unhandled:
        signals = ", ".join(f"SIG{name}" for name in sorted(set(unhandled.values())))
        report.notice(
            f"{few(unhandled)}: killed at once: the command, as pid 1, has no handler for {signals}"
        )
        report.notice(
            "  hint: handle the signal, set init.stopSignal to one that is handled, or init.reaper: true"
        )
