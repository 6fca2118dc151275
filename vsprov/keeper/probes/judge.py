"""What the results of one probe of a server mean. Pure: no input or output."""

from __future__ import annotations

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from typing import Any

CHECKS = ("exec", "tcp", "http", "file")  # the keys of a probe that the prober can make
FIRST = 0.1  # seconds between the first probes; then twice as long each time, up to the interval
MICROSECONDS = 1_000_000


class Judge:
    """The judgement on a server: `ok` is True or False, or None as long as no probe has decided it.

    `since` is when that began, in Unix time, to be shown. `began` is when the server was first to be probed,
    by `timers.uptime`. `message` is why the last probe failed, "" if it did not; or if
    `unknown`, why it could not be made.
    """

    __slots__ = (
        "began",
        "failures",
        "interval",
        "message",
        "ok",
        "retries",
        "since",
        "start_period",
        "timeout",
        "tries",
        "unknown",
    )

    def __init__(self, spec: dict[str, Any], ok: bool | None, since: float, began: float) -> None:
        self.interval: float = spec["interval"] / MICROSECONDS
        self.timeout: float = spec["timeout"] / MICROSECONDS
        self.start_period: float = spec["startPeriod"] / MICROSECONDS
        self.retries: int = spec["retries"]
        self.ok, self.since, self.began, self.message = ok, since, began, ""
        self.unknown = False
        self.failures = self.tries = 0

    def take(self, succeeded: bool, message: str, now: float, clock: float, *, may_start: bool) -> bool:
        """Take the result of a probe; whether anything changed. `now` is in Unix time, `clock` as `began`.

        Before the first success, a server has the time of its start period and then that of as many probes
        as may fail in a row, and as many must have failed: there may have been none for a while. `may_start`:
        it has all the time, because it is only known not to be ready yet.
        """
        before = (self.ok, self.message, self.unknown)
        self.tries += 1
        self.message, self.unknown = message, False
        self.failures = 0 if succeeded else self.failures + 1
        if succeeded:
            self._decide(True, now)
        elif self.failures >= self.retries and (
            self.ok is not None or (not may_start and clock >= self.began + self._first_time())
        ):
            self._decide(False, now)
        return before != (self.ok, self.message, self.unknown)

    def take_none(self, why: str) -> bool:
        """Take it that a probe could not be made, which says nothing about the server; whether it is news."""
        before = (self.message, self.unknown)
        self.message, self.unknown = why, True
        return before != (self.message, self.unknown)

    def _first_time(self) -> float:
        return self.start_period + self.retries * self.interval

    def _decide(self, ok: bool, now: float) -> None:
        if self.ok is not ok:
            self.ok, self.since = ok, now

    def delay(self) -> float:
        """How long to wait until the next probe, in seconds."""
        if self.ok is not None:
            return self.interval
        return min(self.interval, FIRST * float(1 << min(self.tries, 16)))


def check_of(spec: dict[str, Any] | None) -> str:
    """The key of a probe that says what is checked; "" for none that the prober makes."""
    return next((key for key in CHECKS if spec and spec.get(key)), "")
