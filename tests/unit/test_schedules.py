"""Schedules, and which of the snapshots that were made by one are kept."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from vsprov.model.kinds.sections.snapshots import Keep
from vsprov.model.values import schedules
from vsprov.model.values.units import UnitError
from vsprov.plan.scheduled import surplus
from vsprov.store.written import scheduled

BERLIN = ZoneInfo("Europe/Berlin")
HOUR, DAY = 3600.0, 86_400.0


def times(schedule: str, start: datetime, count: int) -> list[str]:
    moment, found = start.timestamp(), []
    for _ in range(count):
        moment = schedules.next_after(schedule, moment, BERLIN)
        found.append(datetime.fromtimestamp(moment, BERLIN).strftime("%m-%d %H:%M %z"))
    return found


def test_a_fixed_hour_comes_once_a_day_when_clocks_are_put_forward_and_back() -> None:
    assert times("30 2 * * *", datetime(2026, 3, 28, 12, tzinfo=BERLIN), 2) == [
        "03-29 03:00 +0200",
        "03-30 02:30 +0200",
    ]
    assert times("30 2 * * *", datetime(2026, 10, 24, 12, tzinfo=BERLIN), 2) == [
        "10-25 02:30 +0200",
        "10-26 02:30 +0100",
    ]


def test_every_hour_comes_every_hour_when_clocks_are_put_back() -> None:
    assert times("@hourly", datetime(2026, 10, 25, 1, 30, tzinfo=BERLIN), 3) == [
        "10-25 02:00 +0200",
        "10-25 02:00 +0100",
        "10-25 03:00 +0100",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("61 * * * *", "'61 * * * *': Bad minute"),
        ("* * * *", "has 4 fields instead of 5"),
        ("* * * * * *", "has 6 fields instead of 5"),
        ("@reboot", "'@reboot' is not a schedule"),
        ("0 0 30 2 *", "'0 0 30 2 *': "),
        (f"{'0' * 5000} * * * *", "is not a schedule"),
        ("\u00b2 * * * *", "Bad minute"),
        (5, "5 is not a schedule"),
    ],
)
def test_what_is_no_schedule_is_refused_with_a_reason(text: object, message: str) -> None:
    with pytest.raises(UnitError) as refused:
        schedules.parse(text)
    assert message in str(refused.value) and refused.value.hint


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (Keep(last=2), [8, 9]),
        (Keep(daily=2), [7, 9]),
        (Keep(weekly=2), [5, 9]),
        (Keep(last=1, monthly=2), [1, 9]),
        (Keep(hourly=1, yearly=5), [0, 9]),
        (Keep(last=100), [*range(10)]),
    ],
)
def test_each_key_keeps_the_last_one_of_its_periods(keep: Keep, left: list[int]) -> None:
    made = [
        datetime(*when, tzinfo=UTC).timestamp()  # type: ignore[misc]
        for when in (
            (2025, 12, 30, 3),
            (2026, 4, 29, 3),
            (2026, 5, 1, 3),
            (2026, 5, 2, 3),
            (2026, 5, 3, 3),
            (2026, 5, 3, 23),  # Sunday
            (2026, 5, 4, 3),
            (2026, 5, 4, 23),
            (2026, 5, 5, 3),
            (2026, 5, 5, 3, 30),
        )
    ]
    gone = surplus([(at, str(number)) for number, at in enumerate(made)], keep, UTC)
    assert gone == [str(number) for number in range(10) if number not in left]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    try:
        os.setxattr(tmp_path, "trusted.vsprov.test", b"")
    except OSError:
        pytest.skip("marks need root")
    return tmp_path


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    def set_clock(now: float) -> None:
        monkeypatch.setattr(time, "time", lambda: now)

    monkeypatch.setattr(scheduled, "zone", lambda: UTC)
    return set_clock


def due(folder: Path) -> float:
    return float(os.getxattr(folder, "trusted.vsprov.snapshots-due").split()[0])


def test_what_is_overdue_stays_so_and_a_new_schedule_begins_with_its_next_time(
    folder: Path, at: Callable[[float], None]
) -> None:
    at(100 * DAY + 1)
    scheduled.review(str(folder), "@daily")
    assert due(folder) == 101 * DAY and not scheduled.is_due(str(folder), 0.5)
    at(105 * DAY + 1)
    scheduled.review(str(folder), "@daily")
    assert due(folder) == 101 * DAY and scheduled.is_due(str(folder), 0.5)
    scheduled.review(str(folder), "@hourly")
    assert due(folder) == 105 * DAY + HOUR
    scheduled.done(str(folder), "@hourly", "auto-1")
    assert due(folder) == 105 * DAY + HOUR * 2  # the one after the one that was still to come


def test_a_clock_that_is_put_back_a_little_repeats_nothing_and_one_that_is_put_back_far_begins_anew(
    folder: Path, at: Callable[[float], None]
) -> None:
    at(101 * DAY + 1)
    scheduled.review(str(folder), "@daily")
    scheduled.done(str(folder), "@daily", "auto-1")
    assert due(folder) == 103 * DAY
    at(101 * DAY - 5)
    scheduled.review(str(folder), "@daily")
    assert due(folder) == 102 * DAY
    at(50 * DAY + 1)
    scheduled.review(str(folder), "@daily")
    assert due(folder) == 51 * DAY


def test_marks_that_were_edited_are_made_anew(folder: Path, at: Callable[[float], None]) -> None:
    at(100 * DAY)
    for text in (b"x", b"nan @daily", b"inf @daily", b"", b"12"):
        os.setxattr(folder, "trusted.vsprov.snapshots-due", text)
        scheduled.review(str(folder), "@daily")
        assert due(folder) == 101 * DAY
