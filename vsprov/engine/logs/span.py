"""The part of a log that is asked for, by number of lines, by time, or by run."""

from __future__ import annotations

from msgspec import Struct

from vsprov.engine.logs.files import Log
from vsprov.errors import FailedError

SHOWN = 1000  # microseconds: times are shown with this precision, and one that was shown includes its line


class Asked(Struct, frozen=True):
    """What of a log is asked for: `lines` from the end, None for all; times in microseconds; with `previous`,
    the run before the last start.
    """

    lines: int | None = None
    since: int | None = None
    until: int | None = None
    previous: bool = False

    @property
    def by_time(self) -> bool:
        return self.since is not None or self.until is not None


class Span(Struct, frozen=True):
    """Where the part begins and ends, and how many bytes are left out because their time is not known."""

    start: int
    end: int
    unknown: int = 0


def find(name: str, log: Log, asked: Asked) -> Span:
    """The part of a server's log that is asked for. FailedError if there is no previous run."""
    start, end, unknown = 0, log.size, 0
    if asked.by_time or asked.previous:
        log.read_times()
    if asked.previous:
        start, end = _previous(name, log)
    if asked.by_time:
        first = log.line_from(_at(log, asked.since or 0))
        last = log.line_from(_at(log, asked.until + SHOWN, first)) if asked.until is not None else end
        unknown = _unknown(log, start, end)
        start, end = min(max(start, first), end), max(min(end, last), start)
    if asked.lines is not None:
        start = max(start, log.tail(asked.lines, end, start))
    return Span(start, max(start, end), unknown)


def _at(log: Log, earliest: int, after: int = 0) -> int:
    """The first offset, from `after` on, that was written at a time or later; the end if there is none."""
    for file in log.files:
        found = file.times.first(earliest, after - file.base)
        if found is not None and found < file.size:
            return file.base + found
    return log.size


def _unknown(log: Log, start: int, end: int) -> int:
    """How many bytes in a part have no time: those before the first record of each file."""
    count = 0
    for file in log.files:
        known = file.times.known_from()
        stop = file.size if known is None else known
        count += max(0, min(end, file.base + stop) - max(start, file.base))
    return count


def _previous(name: str, log: Log) -> tuple[int, int]:
    runs = log.runs()
    if not runs:
        raise FailedError(f"Server/{name}: the log has no output of an earlier run")
    return runs[-2] if len(runs) > 1 else 0, runs[-1]
