"""The console log of a server."""

from __future__ import annotations

from typing import Any

from vsprov.model.fields import Section, value
from vsprov.model.values import units
from vsprov.model.values.units import MAX, UnitError
from vsprov.model.values.value_kinds import LIMIT_BYTES, parse_count

SMALLEST = 64 << 10  # bytes; the keeper writes up to four times as much at once
MOST_FILES = 100


def _parse_size(raw: Any) -> Any:
    size = units.parse_bytes_or_max(raw)
    if size != MAX and size < SMALLEST:
        raise UnitError(f"{units.short(raw)} is below {units.format_bytes(SMALLEST)}")
    return size


class Console(Section):
    max_size: Any = value(
        10 << 20,
        doc="Maximum size of each file of the log, with the times of its lines. A full file is put aside, "
        "and the next one begins. max: one file of any size.",
        kind=LIMIT_BYTES,
        parse=_parse_size,
    )
    max_files: int = value(
        3,
        doc="Number of files, including the one that is written to. If there are more, the oldest is "
        "removed. 1: when the file is full, it is removed, and the log begins again.",
        schema={"minimum": 1, "maximum": MOST_FILES},
        parse=parse_count(1, MOST_FILES),
    )
