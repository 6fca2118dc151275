"""What the keeper has decided about servers that have ended, see `vsprov/keeper/subjects/restarts.py`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from vsprov.engine.look import last_exit
from vsprov.keeper.protocol import DUE, GAVE_UP
from vsprov.plan.observed import ObservedServer, Restarts
from vsprov.store.disk import marks

MARK, ERROR, WAITS = "restarts", "restart-error", "restart-waits"
LONGEST_ERROR = 1000


def read(home: str) -> Restarts | None:
    """The decision about the last run of a server; None if there is none."""
    words = (marks.find_mark(home, MARK) or "").split()
    run = last_exit.marked_init(home) if words else None
    try:
        state, at, _count, why, pid, start, times = words
        if run is None or (run.pid, run.start) != (int(pid), int(start)) or state not in (DUE, GAVE_UP):
            return None
        number = times.count(",") + 1 if times != "-" else 0
        error = marks.find_mark(home, ERROR) or ""
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        return Restarts(state == DUE, booted + float(at), number, why, error)
    except ValueError:  # no mark, or edited by hand
        return None


def forget(home: str) -> None:
    """Remove the decision, because a command starts or stops the server."""
    for mark in (MARK, ERROR, WAITS):
        marks.remove_mark(home, mark)


def forget_error(home: str) -> None:
    """The last attempt has succeeded."""
    marks.remove_mark(home, ERROR)
    marks.remove_mark(home, WAITS)


def note_error(home: str, text: str, waits: Iterable[str] = ()) -> None:
    """Record why an attempt has failed, or, if that was for other servers, which it `waits` for."""
    if names := " ".join(waits):
        marks.write_mark(home, WAITS, names)
    else:
        marks.remove_mark(home, WAITS)
    marks.write_mark(home, ERROR, text[:LONGEST_ERROR])


def document(seen: ObservedServer) -> dict[str, Any] | None:
    """The decision for `get`: whether the keeper waits or gave up, since or until when, and why."""
    decided = seen.restarts
    if decided is None or seen.applied is None:
        return None
    spec = seen.applied["spec"].get("restart", {})
    return {
        "state": "Waiting" if decided.due else "GaveUp",
        "at": last_exit.timestamp(decided.at),
        "count": decided.count,
        "attempts": spec.get("attempts"),
        "reason": decided.reason if decided.due else decided.gave_up(spec),
        "error": decided.error,
    }
