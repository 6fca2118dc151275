"""When snapshots of servers are due by their schedules: marks on their directories, which last over reboots.

    snapshots-due     "AT SCHEDULE": when the next one is due by this schedule
    snapshots-made    "AT NAME": when the last one was made
    snapshots-error   "AT TEXT": when one was not made since, and why

The keeper waits until AT, see `vsprov/keeper/subjects/snapshots.py`. Times are in Unix time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, tzinfo
from typing import Any

from vsprov.model.values import schedules
from vsprov.plan.scheduled import Scheduled
from vsprov.store.disk import marks

DUE, MADE, ERROR = "snapshots-due", "snapshots-made", "snapshots-error"
LOCAL_TIME = "/etc/localtime"
CORRECTION = 3 * 3600.0  # seconds; if the clock is put back by less, nothing is repeated, as in cron(8)
LONGEST_ERROR = 1000


def zone() -> tzinfo:
    """The time zone of the host."""
    from zoneinfo import ZoneInfo

    try:
        with open(LOCAL_TIME, "rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError):  # no such file, or not one of tzfile(5)
        return UTC


def read(folder: str, record: Mapping[str, Any] | None) -> Scheduled | None:
    """What is known of the snapshots of a server by its directory; None if its record has no schedule."""
    if not record or not record["spec"].get("snapshots"):
        return None
    due, _ = _find(folder, DUE)
    at, made = _find(folder, MADE)
    failed, error = _find(folder, ERROR)
    return Scheduled(due, made, at, error, failed)


def _find(folder: str, mark: str) -> tuple[float | None, str]:
    at, _, text = (marks.find_mark(folder, mark) or "").partition(" ")
    try:
        return float(at), text
    except ValueError:  # no mark, or edited by hand
        return None, ""


def review(folder: str, schedule: str) -> None:
    """Set when the next snapshot is due: if the schedule is new, or if the clock was put back since.

    One that is overdue stays so.
    """
    now = time.time()
    due, known = _find(folder, DUE)
    made, _ = _find(folder, MADE)
    since = made if made and now < made < now + CORRECTION else now
    coming = schedules.next_after(schedule, since, zone())
    if due is None or known != schedule or not due <= coming:
        marks.write_mark(folder, DUE, f"{coming:.0f} {schedule}")


def forget(folder: str) -> None:
    """The server has no schedule any more."""
    if marks.find_mark(folder, DUE):
        for mark in (DUE, ERROR):
            marks.remove_mark(folder, mark)


def is_due(folder: str, slack: float) -> bool:
    """Whether a snapshot is due now, or within so many seconds."""
    due, _ = _find(folder, DUE)
    return due is not None and due <= time.time() + slack


def done(folder: str, schedule: str, name: str, error: str = "") -> None:
    """Record that a snapshot was made, or why not, and set when the next one is due."""
    now = time.time()
    if error:
        marks.write_mark(folder, ERROR, f"{now:.0f} {error[:LONGEST_ERROR]}")
    else:
        marks.write_mark(folder, MADE, f"{now:.0f} {name}")
        marks.remove_mark(folder, ERROR)
    # What is due within the slack of `is_due` was done just now.
    coming = schedules.next_after(schedule, max(now, _find(folder, DUE)[0] or 0.0), zone())
    marks.write_mark(folder, DUE, f"{coming:.0f} {schedule}")
