"""What results of probes mean, and when the next probe is made."""

from __future__ import annotations

from typing import Any

import pytest

from vsprov.keeper.probes.judge import Judge, check_of
from vsprov.keeper.probes.marks import plain

SECOND = 1_000_000
SPEC = {"interval": 5 * SECOND, "timeout": SECOND, "retries": 3, "startPeriod": 0, "exec": ["true"]}
NOW, BEGAN = 1000.0, 50.0  # in Unix time, and since the boot of the host


def judge(ok: bool | None = None, **changed: Any) -> Judge:
    return Judge({**SPEC, **changed}, ok, NOW, BEGAN)


def take(one: Judge, results: str, *, may_start: bool = False, begin: float = NOW) -> list[bool | None]:
    """The judgements after results a second apart: + for a success, - for a failure."""
    out = []
    for number, result in enumerate(results):
        message = "" if result == "+" else "no"
        one.take(not message, message, begin + number, BEGAN + number, may_start=may_start)
        out.append(one.ok)
    return out


def test_one_success_is_enough_and_failures_count_only_in_a_row() -> None:
    assert take(judge(), "+--+--+") == [True] * 7
    assert take(judge(True), "---+") == [True, True, False, True]


def test_a_server_is_not_ready_yet_however_long_it_takes() -> None:
    assert take(judge(), "-" * 100, may_start=True) == [None] * 100
    assert take(judge(True), "---", may_start=True) == [True, True, False]


@pytest.mark.parametrize(
    ("changed", "seconds"),
    [({}, 15), ({"startPeriod": 30 * SECOND}, 45), ({"retries": 1, "interval": SECOND}, 1)],
)
def test_a_server_that_was_never_healthy_has_the_time_of_as_many_probes(
    changed: dict[str, int], seconds: int
) -> None:
    found = take(judge(**changed), "-" * 50)
    assert found.index(False) == seconds


def test_probes_are_frequent_until_the_first_success() -> None:
    one, delays = judge(), []
    for _ in range(9):
        delays.append(one.delay())
        one.take(False, "no", NOW, BEGAN, may_start=True)
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5]
    one.take(True, "", NOW, BEGAN, may_start=True)
    assert one.delay() == 5


def test_whether_anything_changed_is_told_and_since_when() -> None:
    one = judge()
    assert one.take(False, "refused", NOW + 1, BEGAN + 1, may_start=True)
    assert not one.take(False, "refused", NOW + 2, BEGAN + 2, may_start=True)
    assert one.since == NOW
    assert one.take(True, "", NOW + 3, BEGAN + 3, may_start=True)
    assert (one.ok, one.since, one.message) == (True, NOW + 3, "")
    assert not one.take(True, "", NOW + 4, BEGAN + 4, may_start=True)
    assert one.since == NOW + 3


@pytest.mark.parametrize("year", [-31_536_000, 31_536_000])
def test_setting_the_clock_of_the_host_changes_no_judgement(year: int) -> None:
    one = judge(startPeriod=30 * SECOND)
    for second in range(45):
        one.take(False, "no", NOW + year + second, BEGAN + second, may_start=False)
        assert one.ok is None
    one.take(False, "no", NOW + year + 45, BEGAN + 45, may_start=False)
    assert (one.ok, one.since) == (False, NOW + year + 45)


def test_what_could_not_be_probed_counts_for_nothing() -> None:
    one = judge()
    assert one.take_none("Too many open files")
    assert not one.take_none("Too many open files")
    assert (one.ok, one.unknown, one.message, one.tries) == (None, True, "Too many open files", 0)
    for second in (100, 101):  # its time is over, but no probe of it was made
        assert one.take(False, "no", NOW, BEGAN + second, may_start=False)
        assert (one.ok, one.unknown) == (None, False)
        one.take_none("Too many open files")
    assert one.take(False, "no", NOW, BEGAN + 102, may_start=False)
    assert one.ok is False


def test_only_what_the_prober_can_check_is_a_check() -> None:
    assert check_of(SPEC) == "exec"
    assert check_of({**SPEC, "exec": [], "file": "/a"}) == "file"
    assert check_of({**SPEC, "exec": [], "notify": True}) == ""
    assert check_of(None) == ""


def test_what_a_server_says_cannot_change_the_mark() -> None:
    assert plain('a"b\\c\nd\x1b[0mé') == "a?b?c?d?[0m?"
    assert len(plain("x" * 1000)) == 200
