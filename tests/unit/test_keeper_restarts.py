"""When the keeper starts servers again."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from vsprov.keeper.protocol import DUE, GAVE_UP
from vsprov.keeper.subjects.restarts import EXIT, REBOOT, Mark, reason, schedule

SECOND = 1_000_000


def policy(**given: Any) -> dict[str, Any]:
    usual = {"attempts": 5, "interval": 600 * SECOND, "delay": 2 * SECOND, "maxDelay": 300 * SECOND}
    return {**usual, **given}


def exited(code: int) -> int:
    return code << 8


@pytest.mark.parametrize(
    ("status", "once", "restarted"),
    [
        (exited(0), False, ("always", "unless-stopped")),
        (exited(3), False, ("on-failure", "always", "unless-stopped")),
        (int(signal.SIGKILL), False, ("on-failure", "always", "unless-stopped")),
        (None, False, ("on-failure", "always", "unless-stopped")),
        (exited(0), True, ()),
        (exited(3), True, ("on-failure", "always", "unless-stopped")),
        (int(signal.SIGINT), False, ()),
    ],
)
def test_how_a_server_ended_decides_with_its_policy(
    status: int | None, once: bool, restarted: tuple[str, ...]
) -> None:
    every = ("no", "on-failure", "always", "unless-stopped")
    assert {name: reason(status, name, once=once) for name in every} == {
        name: EXIT if name in restarted else "" for name in every
    }


def test_a_reboot_restarts_it_whatever_the_policy() -> None:
    for name in ("no", "on-failure", "always", "unless-stopped"):
        assert reason(int(signal.SIGHUP), name, once=False) == REBOOT


def delays(why: str, rule: dict[str, Any], number: int, lasts: float = 0.0) -> list[float | None]:
    """The delays of so many restarts of a server that runs for so long; None where it gave up."""
    mark, now, found = Mark(DUE, 0, 0, why, (1, 1), []), 1000.0, []
    for _ in range(number):
        schedule(mark, rule, now)
        found.append(round(mark.at - now, 3) if mark.state == DUE else None)
        now = mark.at + lasts
    return found


def test_delays_double_up_to_the_longest_and_attempts_within_the_interval_are_limited() -> None:
    assert delays(EXIT, policy(), 7) == [2, 4, 8, 16, 32, None, None]
    assert delays(EXIT, policy(maxDelay=5 * SECOND), 6) == [2, 4, 5, 5, 5, None]
    assert delays(EXIT, policy(attempts="max", maxDelay=10 * SECOND), 50)[-1] == 10
    assert delays(EXIT, policy(delay=400 * SECOND, attempts="max"), 2) == [400, 400]
    assert delays(EXIT, policy(attempts=2, interval=10 * SECOND), 4, lasts=6) == [2, 4, 8, 16]


def test_only_restarts_of_the_last_interval_count_as_with_the_start_limit_of_systemd() -> None:
    rule = policy(attempts=3, interval=60 * SECOND, delay=SECOND, maxDelay=SECOND)
    assert delays(EXIT, rule, 20, lasts=61) == [1] * 20
    assert delays(EXIT, rule, 20, lasts=20) == [1] * 20  # three within each 60 s, and never a fourth
    assert delays(EXIT, rule, 4, lasts=18) == [1, 1, 1, None]


def test_without_a_delay_only_the_first_restart_is_at_once() -> None:
    assert delays(EXIT, policy(delay=0), 4) == [0, 0.1, 0.1, 0.1]


def test_a_reboot_is_at_once_and_never_given_up() -> None:
    assert delays(REBOOT, policy(attempts=1), 4) == [0, 4, 8, 16]


def test_giving_up_has_a_time() -> None:
    mark = Mark(DUE, 0, 5, EXIT, (1, 1), [1.0, 2.0])
    schedule(mark, policy(attempts=2), 3.0)
    assert (mark.state, mark.at, mark.times) == (GAVE_UP, 3.0, [1.0, 2.0])


def test_without_delays_and_without_a_longest_one_restarts_have_a_pause() -> None:
    assert delays(EXIT, policy(delay=0, maxDelay=0, attempts="max"), 3) == [0, 0.1, 0.1]


def test_restarts_that_an_earlier_version_has_noted_in_unix_time_do_not_count() -> None:
    mark = Mark(DUE, 0, 2, EXIT, (1, 1), [90_000.0, 90_001.0])
    schedule(mark, policy(attempts=2), 1000.0)
    assert (mark.state, mark.times) == (DUE, [1008.0])


def test_a_mark_has_no_more_times_than_an_extended_attribute_can_hold() -> None:
    now = 1_700_000_000.0
    mark = Mark(DUE, 0, 0, EXIT, (1, 1), [now - number for number in range(10_000)])
    schedule(mark, policy(attempts="max", interval=SECOND * 86400), now)
    assert len(",".join(f"{at:.3f}" for at in mark.times)) < 65_000
    schedule(mark, policy(attempts=1 << 20, interval=SECOND * 86400), now)
    assert mark.state == GAVE_UP
