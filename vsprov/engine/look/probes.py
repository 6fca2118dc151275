"""What the probes of a running server have found out: the mark that the keeper writes on its home group."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from vsprov.plan.observed import ObservedServer, Probed, Process
from vsprov.store.disk import marks

MARK = "probes"  # vsprov.keeper.probes.marks describes it


def read(home: str, init: Process, recorded: Mapping[str, Any]) -> dict[str, Probed]:
    """{"readiness", "health": what is known} of the probes that a recorded spec has."""
    wanted = [name for name in ("readiness", "health") if recorded.get(name)]
    if not wanted:
        return {}
    try:
        found = json.loads(marks.find_mark(home, MARK) or "{}")
        if found.get("init") == f"{init.pid} {init.start}":
            known = {name: found[name] for name in wanted if name in found}
            return {
                name: Probed(
                    known[name]["ok"],
                    float(known[name]["at"]),
                    str(known[name]["message"]),
                    bool(known[name].get("unknown")),
                )
                if name in known
                else Probed(None)
                for name in wanted
            }
    except (ValueError, TypeError, KeyError, AttributeError):  # edited by hand
        pass
    return {name: Probed(None) for name in wanted}


def conditions(seen: ObservedServer) -> Iterator[dict[str, Any]]:
    """The conditions of a server in `get -o json`, as in Kubernetes: Ready, and Healthy if it is probed."""
    if seen.init is None:
        yield condition("Ready", False, "NotRunning", "", None)
    elif seen.readiness is None:
        yield condition("Ready", True, "Running", "", None)
    else:
        yield _probed("Ready", seen.readiness, bool(seen.readiness.ok), "Starting")
    if seen.health:
        yield _probed("Healthy", seen.health, seen.health.ok, "NotProbedYet")


def _probed(kind: str, one: Probed, status: bool | None, undecided: str) -> dict[str, Any]:
    if one.unknown:
        return condition(kind, None, "ProbeNotMade", one.message, one.at)
    reasons = {True: "ProbeSucceeded", False: "ProbeFailed", None: undecided}
    return condition(kind, status, reasons[one.ok], one.message, one.at)


def condition(kind: str, status: bool | None, reason: str, message: str, at: float | None) -> dict[str, Any]:
    """A condition: whether that is so (None if that is unknown), why, and since when."""
    since = (
        datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if at else None
    )
    word = {True: "True", False: "False", None: "Unknown"}[status]
    return {"type": kind, "status": word, "reason": reason, "message": message, "lastTransitionTime": since}
