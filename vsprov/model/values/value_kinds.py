"""The kinds of values that knobs and keys have: how they are written, parsed, stored as JSON and shown.

For every kind and value, `parse(dump(v)) == v`. If a manifest writes the value as a scalar, `format` returns
that scalar.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct, field

from vsprov.model.disk_backends import AUTO, BACKENDS
from vsprov.model.values import units
from vsprov.model.values.units import MAX, UnitError

MOST_IOPS = 2**32 - 2  # block/blk-throttle.c stores "no limit" as 2**32 - 1
ITEM = "[]"  # any item of a list, in a path
SMALLEST_CPU = 10  # thousandths of a CPU; sched-bwc.rst: a quota is at least 1 ms, our period is 100 ms


def _same(value: Any) -> Any:
    return value


class ValueKind(Struct, frozen=True):
    """A kind of value.

    `schema`: JSON Schema of the value in a manifest. `parse` raises UnitError. `dump` returns JSON that
    `parse` reads, `format` text for people. `parts`: parsers of the scalars inside a value, by path.
    """

    name: str
    schema: Mapping[str, Any]
    parse: Callable[[Any], Any]
    dump: Callable[[Any], Any] = _same
    format: Callable[[Any], str] = str
    parts: Mapping[tuple[str, ...], Callable[[Any], Any]] = field(default_factory=dict)


def _quantity(pattern: str, *, also_max: bool, number: str = "integer") -> dict[str, Any]:
    body = pattern[1:-1]
    return {"type": [number, "string"], "pattern": f"^(max|{body})$" if also_max else pattern, "minimum": 0}


def parse_count(low: int, high: int, *, also_max: bool = False) -> Callable[[Any], Any]:
    """A parser of whole numbers between `low` and `high`."""

    def parse(raw: Any) -> Any:
        if also_max and raw == MAX:
            return MAX
        if isinstance(raw, bool) or not isinstance(raw, int):
            hint = "write max for no limit" if also_max and raw in ("unlimited", "infinity", "-1") else ""
            raise UnitError(f"{units.short(raw, repr)} is not a whole number", hint)
        if not low <= raw <= high:
            raise UnitError(
                f"{units.short(raw)} is not between {low} and {high}",
                "write max for no limit" if also_max else "",
            )
        return raw

    return parse


def _parse_cpu_limit(raw: Any) -> Any:
    limit = units.parse_cpu_or_max(raw)
    if limit != MAX and limit < SMALLEST_CPU:
        raise UnitError(
            f"{units.short(raw, repr)} is below {SMALLEST_CPU}m, "
            "the minimum of the scheduler (1 ms per 100 ms)"
        )
    return limit


def _parse_flag(raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    raise UnitError(f"{units.short(raw, repr)} is not true or false")


def _rlimit(
    name: str, schema: Mapping[str, Any], one: Callable[[Any], Any], show: Callable[[Any], str]
) -> ValueKind:
    """A process limit; `schema`, `one` and `show` are those of the soft or hard limit alone."""

    def parse(raw: Any) -> tuple[Any, Any]:
        """(soft, hard) from `{soft: 1024, hard: 4096}` or from one number for both."""
        if isinstance(raw, tuple):
            raw = dict(zip(("soft", "hard"), raw, strict=True))
        if not isinstance(raw, Mapping):
            both = one(raw)
            return both, both
        hard = one(raw.get("hard", raw.get("soft")))
        soft = one(raw.get("soft", hard))
        if hard != MAX and (soft == MAX or soft > hard):
            hint = "the soft limit cannot exceed the hard limit"
            raise UnitError(f"soft {show(soft)} is above hard {show(hard)}", hint)
        return soft, hard

    pair = {"soft": schema, "hard": schema}
    whole = {"additionalProperties": False, "minProperties": 1, "properties": pair}
    return ValueKind(
        name,
        {**schema, "type": ["object", *schema["type"]], **whole},
        parse,
        dump=lambda value: {"soft": value[0], "hard": value[1]},
        format=lambda value: f"{show(value[0])}:{show(value[1])}",
        parts={("soft",): one, ("hard",): one},
    )


def choice(*words: str) -> ValueKind:
    """One of these words."""

    def parse(raw: Any) -> str:
        if raw not in words:
            raise UnitError(f"{units.short(raw, repr)} is not one of {', '.join(words)}")
        return str(raw)

    return ValueKind("choice", {"type": "string", "enum": list(words)}, parse)


_parse_iops = parse_count(1, MOST_IOPS, also_max=True)
_IO_FIELDS = {
    "readBps": units.parse_bytes_or_max,
    "writeBps": units.parse_bytes_or_max,
    "readIops": _parse_iops,
    "writeIops": _parse_iops,
}


def _parse_io_devices(raw: Any) -> tuple[tuple[tuple[str, Any], ...], ...]:
    """One row of (key, value) pairs for each device, sorted; limits that are not set are "max"."""
    rows: dict[str, tuple[tuple[str, Any], ...]] = {}
    for given in raw:
        entry = dict(given)
        device = entry["device"]
        if device in rows:
            raise UnitError(f"duplicate device {device}")
        limits = []
        for key, parse in _IO_FIELDS.items():
            limit = parse(entry.get(key, MAX))
            if limit == 0:
                raise UnitError(f"{key}: 0 would block all I/O", "write max for no limit, or at least 1")
            limits.append((key, limit))
        rows[device] = (("device", device), *limits)
    return tuple(rows[device] for device in sorted(rows))


def _dump_io_devices(value: Any) -> list[dict[str, Any]]:
    return [{key: limit for key, limit in row if limit != MAX} for row in value]


def _format_io_devices(value: Any) -> str:
    out = []
    for row in value:
        (_, device), *limits = row
        shown = (
            f"{key}={units.format_bytes(v) if key.endswith('Bps') else v}" for key, v in limits if v != MAX
        )
        out.append(f"{device} {' '.join(shown)}")
    return ", ".join(out)


_COUNT_OR_MAX = {"type": ["integer", "string"], "minimum": 0, "pattern": "^max$"}

BYTES = ValueKind(
    "bytes",
    _quantity(units.BYTES_PATTERN, also_max=False),
    units.parse_bytes,
    format=units.format_bytes,
)
LIMIT_BYTES = ValueKind(
    "bytes or max",
    _quantity(units.BYTES_PATTERN, also_max=True),
    units.parse_bytes_or_max,
    format=units.format_bytes,
)
CPU = ValueKind(
    "CPUs",
    _quantity(units.CPU_PATTERN, also_max=False, number="number"),
    units.parse_cpu,
    dump=units.format_cpu,
    format=units.format_cpu,
)
CPU_OR_MAX = ValueKind(
    "CPUs or max",
    _quantity(units.CPU_PATTERN, also_max=True, number="number"),
    _parse_cpu_limit,
    dump=units.format_cpu,
    format=units.format_cpu,
)
DURATION = ValueKind(
    "duration",
    {"type": ["string", "integer"], "pattern": units.DURATION_PATTERN, "maximum": 0, "minimum": 0},
    units.parse_duration,
    dump=units.format_duration,
    format=units.format_duration,
)
RATE = ValueKind(
    "rate or max",
    {
        "type": "string",
        "pattern": f"^(max|{units.RATE_PATTERN[1:-1]})$",
        "patternErrorMessage": "is not a rate; write 100Mbit, or max for no limit",
    },
    units.parse_rate,
    dump=units.format_rate,
    format=units.format_rate,
)
WEIGHT = ValueKind("weight", {"type": "integer", "minimum": 1, "maximum": 10000}, parse_count(1, 10000))
LIMIT_COUNT = ValueKind("count or max", {**_COUNT_OR_MAX, "minimum": 1}, parse_count(1, 2**22, also_max=True))
NUMBER_OR_MAX = ValueKind(
    "number or max",
    _quantity(units.NUMBER_PATTERN, also_max=True),
    lambda raw: MAX if raw == MAX else units.parse_number(raw),
    format=units.format_number,
)
DISK_BACKEND = choice(AUTO, *BACKENDS)
FLAG = ValueKind("true or false", {"type": "boolean"}, _parse_flag, format=lambda value: str(value).lower())
ID_LIST = ValueKind(
    "list of numbers",
    {
        "type": ["string", "integer"],
        "minimum": 0,
        "pattern": "^[0-9, -]+$",
        "patternErrorMessage": 'is not a list of numbers; write "0-3,8"',
    },
    units.parse_id_list,
)
RLIMIT = _rlimit("soft and hard limit", _COUNT_OR_MAX, parse_count(0, units.LARGEST, also_max=True), str)
RLIMIT_BYTES = _rlimit(
    "soft and hard limit in bytes", LIMIT_BYTES.schema, units.parse_bytes_or_max, units.format_bytes
)
IO_DEVICES = ValueKind(
    "list of devices",
    {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["device"],
            "additionalProperties": False,
            "properties": {
                "device": {
                    "type": "string",
                    "description": "Path of the block device, not of a partition.",
                    "pattern": "^/dev/[A-Za-z0-9._/-]+$",
                    "patternErrorMessage": "is not the path of a device, such as /dev/vda",
                },
                **{key: LIMIT_BYTES.schema if key.endswith("Bps") else _COUNT_OR_MAX for key in _IO_FIELDS},
            },
        },
        "maxItems": 256,
    },
    _parse_io_devices,
    dump=_dump_io_devices,
    format=_format_io_devices,
    parts={(ITEM, key): parse for key, parse in _IO_FIELDS.items()},
)
