"""The exit status of a server's init, kept as a mark on its home group until the next start.

There is no daemon that waits for init, and the kernel discards its exit status. The mark therefore only
exists if a vsprov command was running when init exited. It never refers to an earlier run.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from vsprov.kernel.process import ExitInfo
from vsprov.store.disk import marks

MARK = "exit"


def record(home: str, how: ExitInfo) -> None:
    """Write the mark of a home group whose init has just exited."""
    at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    marks.write_mark(home, MARK, json.dumps({"code": how.code, "signal": how.signal, "at": at}))


def forget(home: str) -> None:
    """Remove the mark, because the server starts again."""
    marks.remove_mark(home, MARK)


def read(home: str) -> dict[str, Any] | None:
    """{"code", "signal", "at"} for `get`; either code or signal is None. None if the exit is unknown."""
    try:
        found = json.loads(marks.read_mark(home, MARK) or "null")
    except ValueError:  # edited by hand
        return None
    return found if isinstance(found, dict) and found.keys() == {"code", "signal", "at"} else None
