"""Schedules: when something is done again and again, as in crontab(5)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from vsprov.model.values import units
from vsprov.model.values.units import UnitError

if TYPE_CHECKING:
    from datetime import tzinfo

NAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
LONGEST = 500  # characters
HINT = "write minute, hour, day of month, month and day of week, such as '30 3 * * *', or @daily"


def parse(raw: Any) -> str:
    """A schedule: five fields, or a name. Raises UnitError, also for one that never comes."""
    if not isinstance(raw, str) or len(raw) > LONGEST:
        raise UnitError(f"{units.short(raw, repr)} is not a schedule", HINT)
    text = " ".join(raw.split())
    if text.startswith("@") and text not in NAMES:
        raise UnitError(f"{units.short(text, repr)} is not a schedule", f"write one of {', '.join(NAMES)}")
    if text not in NAMES and len(text.split()) != 5:
        raise UnitError(f"{units.short(text, repr)} has {len(text.split())} fields instead of 5", HINT)
    if problem := _problem(text):
        raise UnitError(f"{units.short(text, repr)}: {problem}", HINT)
    return text


@cache  # records of many servers have the same one
def _problem(text: str) -> str:
    """Why a schedule is none; "" if it is one."""
    from datetime import UTC

    from cronsim import CronSimError

    try:
        next_after(text, 0.0, UTC)
    except CronSimError as error:
        return str(error)
    except StopIteration:
        return "there is no such day"
    return ""


def next_after(schedule: str, moment: float, zone: tzinfo) -> float:
    """The first time of a schedule after a moment, both in Unix time, by the clock of a time zone.

    When clocks are put forward, what would be in the hour that is left out comes right after it. When they
    are put back, what is at fixed hours comes once. So does cron(8) of Debian.
    """
    from datetime import datetime

    from cronsim import CronSim

    start = datetime.fromtimestamp(moment, zone)
    return next(CronSim(NAMES.get(schedule, schedule), start)).timestamp()
