"""Snapshots by schedule: what is known of them, and which of them are not kept any more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, tzinfo

from msgspec import Struct

from vsprov.model.kinds.sections.snapshots import Keep


class Scheduled(Struct, frozen=True):
    """The snapshots of a server by its schedule, with times in Unix time.

    `due` is when the next one is, or was, due; None if that is unknown. `made` is the name of the last one
    and `at` when it was made, "" and None if there was none. `error` is why one was not made since, and
    `failed` when.
    """

    due: float | None = None
    made: str = ""
    at: float | None = None
    error: str = ""
    failed: float | None = None


_PERIODS: tuple[tuple[str, Callable[[datetime], object]], ...] = (
    ("hourly", lambda at: (at.date(), at.hour, at.utcoffset())),
    ("daily", lambda at: at.date()),
    ("weekly", lambda at: at.date() - timedelta(days=at.weekday())),
    ("monthly", lambda at: (at.year, at.month)),
    ("yearly", lambda at: at.year),
)


def surplus(made: Iterable[tuple[float, str]], keep: Keep, zone: tzinfo) -> list[str]:
    """The names of the snapshots, given as (Unix time, name), that no key of `keep` keeps, the oldest first.

    >>> from datetime import UTC
    >>> hours = [(float(hour * 3600), f"h{hour}") for hour in (0, 1, 23, 24, 25)]
    >>> surplus(hours, Keep(last=1, daily=2), UTC)
    ['h0', 'h1', 'h24']
    """
    newest = sorted(made, reverse=True)
    kept = {name for _, name in newest[: keep.last or 0]}
    for key, period in _PERIODS:
        last: dict[object, str] = {}
        for at, name in newest:
            last.setdefault(period(datetime.fromtimestamp(at, zone)), name)
        kept.update(list(last.values())[: getattr(keep, key) or 0])
    return [name for _, name in reversed(newest) if name not in kept]
