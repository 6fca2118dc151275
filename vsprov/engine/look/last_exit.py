"""The exit of a server's init, kept as a mark on its home group until the next start.

Written by whoever sees the exit: the keeper, or a command that runs meanwhile. The mark never refers to an
earlier run.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from vsprov.kernel.process import ExitInfo
from vsprov.plan.observed import LastExit
from vsprov.store.disk import marks

MARK = "exit"


def record(home: str, how: ExitInfo, *, oom: bool = False) -> None:
    """Write the mark of a home group whose init has just exited, unless there is one with a code or signal.

    `oom`: the kernel has killed a process of the server for lack of memory.
    """
    known = read(home)
    if known and (known.code, known.signal) != (None, None):
        return
    oom = (oom and how.code != 0) or (known is not None and known.oom)
    exit_ = {"code": how.code, "signal": how.signal, "oom": oom, "at": time.time()}
    marks.write_mark(home, MARK, json.dumps(exit_))


def forget(home: str) -> None:
    """Remove the mark, because the server starts again."""
    marks.remove_mark(home, MARK)


def read(home: str) -> LastExit | None:
    """The exit of the last run; None if it has not ended, or nobody saw it."""
    try:
        found = json.loads(marks.find_mark(home, MARK) or "null")
        return LastExit(found["code"], found["signal"], bool(found["oom"]), float(found["at"]))
    except (ValueError, TypeError, KeyError):  # no group, no mark, or edited by hand
        return None


def document(seen: LastExit | None) -> dict[str, Any] | None:
    """{"code", "signal", "oom", "at"} for `get`."""
    if seen is None:
        return None
    at = datetime.fromtimestamp(seen.at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return {"code": seen.code, "signal": seen.signal, "oom": seen.oom, "at": at}
