"""Snapshots of a server that are made by a schedule: `snapshots`."""

from __future__ import annotations

from typing import Any

from vsprov.model.fields import Section, one, value
from vsprov.model.values import schedules
from vsprov.model.values.value_kinds import parse_count

MOST = 10_000
_NUMBER = {"minimum": 1, "maximum": MOST}
_parse = parse_count(1, MOST)


class Keep(Section):
    """How many snapshots are kept: those that any of the keys keeps."""

    last: int | None = value(None, doc="The latest snapshots.", schema=_NUMBER, parse=_parse)
    hourly: int | None = value(
        None,
        doc="The last snapshot of each of so many hours that have one, by the clock of the host.",
        schema=_NUMBER,
        parse=_parse,
    )
    daily: int | None = value(None, doc="The last one of each of so many days.", schema=_NUMBER, parse=_parse)
    weekly: int | None = value(
        None,
        doc="The last one of each of so many weeks, which begin on Monday.",
        schema=_NUMBER,
        parse=_parse,
    )
    monthly: int | None = value(
        None, doc="The last one of each of so many months.", schema=_NUMBER, parse=_parse
    )
    yearly: int | None = value(
        None, doc="The last one of each of so many years.", schema=_NUMBER, parse=_parse
    )


DEFAULT_KEEP = Keep(last=7)


def expand_keep(raw: Any) -> Any:
    """`keep: 7` is short for `keep: {last: 7}`."""
    return raw if isinstance(raw, dict) else {"last": raw}


class Snapshots(Section):
    """When the keeper makes snapshots of the server while it runs, and how many of them it keeps."""

    schedule: str = value(
        doc="When a snapshot is made, by the clock of the host, while the server runs: the five fields of "
        "crontab(5) (minute, hour, day of month, month, day of week), or @hourly, @daily, @weekly, @monthly "
        "or @yearly. One that was missed is made as soon as the server runs.",
        schema={"maxLength": schedules.LONGEST},
        parse=schedules.parse,
    )
    keep: Keep = one(
        Keep,
        DEFAULT_KEEP,
        doc="How many of these snapshots are kept: a number, or a map. Older ones are removed when a new one "
        "is complete. Snapshots that were made by hand are never removed. Defaults to 7.",
        schema={"type": ["object", "integer"], "minProperties": 1, **_NUMBER},
        expand=expand_keep,
    )
