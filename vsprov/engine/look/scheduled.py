"""What is shown of the snapshots of a server by its schedule."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from vsprov.engine.look import last_exit
from vsprov.engine.look.probes import condition
from vsprov.plan.observed import ObservedServer

SECONDS_LATE = 60.0  # after which one that is due counts as missed


def document(seen: ObservedServer) -> dict[str, Any] | None:
    """The status of the schedule in `get`; None if the server has none. `next` is None unless it runs."""
    found = seen.scheduled
    if found is None or seen.applied is None:
        return None
    return {
        "schedule": seen.applied["spec"]["snapshots"]["schedule"],
        "next": last_exit.timestamp(found.due) if found.due and seen.init else None,
        "last": {"name": found.made, "at": last_exit.timestamp(found.at)} if found.at else None,
        "error": found.error or None,
    }


def conditions(seen: ObservedServer) -> Iterator[dict[str, Any]]:
    """Whether all snapshots were made that the schedule of the server wanted, if it has one."""
    found = seen.scheduled
    if found is None:
        return
    late = found.due is not None and found.due < time.time() - (SECONDS_LATE if seen.init else 0)
    kind, missed = "SnapshotsMade", f"missed {last_exit.timestamp(found.due or 0)}"
    if found.error:
        yield condition(kind, False, "Failed", found.error, found.failed)
    elif late and not seen.init:
        yield condition(kind, False, "Stopped", f"{missed}: the server does not run", found.due)
    elif late:
        yield condition(kind, False, "Late", f"{missed}: see vsprov keeper status", found.due)
    elif found.made:
        yield condition(kind, True, "Made", found.made, found.at)
    else:
        yield condition(kind, None, "NotDueYet", "", None)
