"""How a server's last run ended, if vsprov saw it: a mark on its home group, until the next start.

No daemon waits for a server's init, so the kernel keeps its exit status for nobody: a run that ended while no
vsprov looked on has no such mark, and a mark there is never that of an earlier run.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from vsprov.kernel.process import ExitInfo
from vsprov.store.disk import marks

MARK = "exit"


def record(home: str, how: ExitInfo) -> None:
    """Note on a home group how its init ended, now."""
    at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    marks.write_mark(home, MARK, json.dumps({"code": how.code, "signal": how.signal, "at": at}))


def forget(home: str) -> None:
    """The server starts anew."""
    marks.remove_mark(home, MARK)


def read(home: str) -> dict[str, Any] | None:
    """{"code", "signal", "at"} as `get` shows it, one of the first two None; None where nobody saw it end."""
    try:
        found = json.loads(marks.read_mark(home, MARK) or "null")
    except ValueError:  # edited by hand
        return None
    return found if isinstance(found, dict) and found.keys() == {"code", "signal", "at"} else None
