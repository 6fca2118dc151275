"""Kinds of values: schema, parse, dump and format of each agree."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.effort import examples
from tests.unit.knob_values import VALUES, nasty
from vsprov.manifest.problems import strict
from vsprov.manifest.syntax import scalar
from vsprov.model.values import value_kinds
from vsprov.model.values.units import MAX, UnitError
from vsprov.model.values.value_kinds import ValueKind

few = examples(30)
KINDS = [kind for kind in vars(value_kinds).values() if isinstance(kind, ValueKind)]
of_each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
# Several words: a manifest spells these as maps and lists.
SPOKEN = (value_kinds.RLIMIT, value_kinds.RLIMIT_BYTES, value_kinds.IO_DEVICES)


def test_every_kind_is_tested() -> None:
    assert {kind.name for kind in KINDS} == set(VALUES)


@of_each_kind
@few
@given(data=st.data())
def test_what_is_kept_of_a_value_is_read_as_that_value_and_fits_the_schema(
    kind: ValueKind, data: st.DataObject
) -> None:
    value = data.draw(VALUES[kind.name])
    kept = kind.dump(value)
    assert kind.parse(kept) == value
    assert strict(kind.schema).is_valid(kept)


@of_each_kind
@few
@given(data=st.data())
def test_what_people_are_shown_can_be_written_in_a_manifest(kind: ValueKind, data: st.DataObject) -> None:
    value = data.draw(VALUES[kind.name])
    shown = kind.format(value)
    assert shown and "\n" not in shown
    if kind not in SPOKEN:
        assert kind.parse(scalar.plain(shown)) == value


@of_each_kind
@few
@given(data=st.data())
def test_what_can_be_read_fits_the_schema_and_the_rest_is_refused_in_words(
    kind: ValueKind, data: st.DataObject
) -> None:
    raw = data.draw(nasty(kind))
    fits = strict(kind.schema).is_valid(raw)
    try:
        value = kind.parse(raw)
    except UnitError as error:
        assert str(error) and "\n" not in str(error)
        if fits and kind not in SPOKEN:
            # What a schema cannot say: sums and bounds of quantities, and 5.0 for 5.
            assert (
                isinstance(raw, float)
                or any(
                    word in str(error)
                    for word in (
                        "too large",
                        "not a whole number of",
                        "is below",
                        "more CPUs",
                        "runs backwards",
                    )
                )
                or kind in (value_kinds.ID_LIST, value_kinds.LIMIT_COUNT)
            ), (raw, str(error))
    else:
        assert fits, raw
        assert kind.parse(kind.dump(value)) == value


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (5, (5, 5)),
        (MAX, (MAX, MAX)),
        ({"soft": 5}, (5, 5)),
        ({"hard": 5}, (5, 5)),
        ({"soft": 5, "hard": MAX}, (5, MAX)),
        ({"soft": 0, "hard": 5}, (0, 5)),
    ],
)
def test_one_limit_stands_for_both(raw: Any, value: tuple[Any, Any]) -> None:
    assert value_kinds.RLIMIT.parse(raw) == value


@pytest.mark.parametrize(
    ("raw", "value", "shown"),
    [
        ("8Mi", (8 << 20, 8 << 20), "8Mi:8Mi"),
        ({"soft": "1Mi", "hard": MAX}, (1 << 20, MAX), "1Mi:max"),
        (4097, (4097, 4097), "4097:4097"),
    ],
)
def test_a_limit_in_bytes_is_written_and_shown_with_a_unit(
    raw: Any, value: tuple[Any, Any], shown: str
) -> None:
    assert value_kinds.RLIMIT_BYTES.parse(raw) == value
    assert value_kinds.RLIMIT_BYTES.format(value) == shown


@pytest.mark.parametrize(
    "raw", [{"soft": 6, "hard": 5}, {"soft": MAX, "hard": 5}, {}, {"soft": None}, "5", -1, True]
)
def test_limits_that_make_no_sense_are_refused(raw: Any) -> None:
    with pytest.raises(UnitError):
        value_kinds.RLIMIT.parse(raw)


def test_devices_are_sorted_and_what_is_not_limited_is_max() -> None:
    raw = [{"device": "/dev/vdb", "writeIops": 9}, {"device": "/dev/vda", "readBps": "1Mi"}]
    value = value_kinds.IO_DEVICES.parse(raw)
    assert [dict(row) for row in value] == [
        {"device": "/dev/vda", "readBps": 2**20, "writeBps": MAX, "readIops": MAX, "writeIops": MAX},
        {"device": "/dev/vdb", "readBps": MAX, "writeBps": MAX, "readIops": MAX, "writeIops": 9},
    ]
    assert value_kinds.IO_DEVICES.format(value) == "/dev/vda readBps=1Mi, /dev/vdb writeIops=9"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"readBps": 0}, "readBps: 0 would block all I/O"),
        ({"readIops": 0}, "0 is not between 1 and 4294967294"),
        ({"readIops": 2**32 - 1}, "4294967295 is not between 1 and 4294967294"),
    ],
)
def test_a_limit_that_the_kernel_would_take_for_something_else_is_refused(
    row: dict[str, Any], said: str
) -> None:
    with pytest.raises(UnitError, match=said):
        value_kinds.IO_DEVICES.parse([{"device": "/dev/vda", **row}])


def test_a_device_listed_twice_is_refused() -> None:
    with pytest.raises(UnitError, match="duplicate device /dev/vda"):
        value_kinds.IO_DEVICES.parse([{"device": "/dev/vda"}, {"device": "/dev/vda"}])


@pytest.mark.parametrize(("raw", "value"), [("10m", 10), ("0.01", 10), (MAX, MAX)])
def test_the_least_cpu_limit_is_what_the_scheduler_can_give(raw: Any, value: Any) -> None:
    assert value_kinds.CPU_OR_MAX.parse(raw) == value


@pytest.mark.parametrize("raw", ["9m", 0, "0.001"])
def test_a_smaller_cpu_limit_is_refused(raw: Any) -> None:
    with pytest.raises(UnitError, match="is below 10m"):
        value_kinds.CPU_OR_MAX.parse(raw)
