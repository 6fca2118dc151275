"""Whether a running server was started for its repair: a mark on its home group."""

from __future__ import annotations

from vsprov.engine.aspects.observer import RunningServer, observes
from vsprov.plan.observed import RESCUE
from vsprov.store.disk import marks


@observes(RESCUE)
def is_rescued(server: RunningServer) -> bool:
    return bool(marks.find_mark(server.home, RESCUE))


def mark(home: str, rescued: bool) -> None:
    """Note on a home group how its server is started."""
    if rescued:
        marks.write_mark(home, RESCUE, "shell")
    else:
        marks.remove_mark(home, RESCUE)
