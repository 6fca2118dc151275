"""The time since the boot, and calls at later times, from the loop of the keeper."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from time import CLOCK_BOOTTIME, clock_gettime, monotonic

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

WASTE = 64  # cancelled calls that may stay in the heap
LONGEST = 86_400  # seconds of one sleep: epoll_wait(2) counts milliseconds in an int, which is 24 days


def uptime() -> float:
    """Seconds since the host was booted, as the start times of processes are: nobody can set this clock, and
    another keeper goes on with it.
    """
    return clock_gettime(CLOCK_BOOTTIME)


class Timers:
    """A heap of calls, each with a key: there is at most one of a key."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Hashable]] = []
        self._calls: dict[Hashable, tuple[float, int, Callable[[], object]]] = {}
        self._number = 0  # so that keys are never compared

    def set(self, key: Hashable, seconds: float, call: Callable[[], object]) -> None:
        """Call in so many seconds, and not as was set for this key before."""
        self._number += 1
        when = monotonic() + max(seconds, 0.0)
        self._calls[key] = (when, self._number, call)
        heappush(self._heap, (when, self._number, key))
        if len(self._heap) > 2 * len(self._calls) + WASTE:
            self._heap = [(at, number, each) for each, (at, number, _) in self._calls.items()]
            heapify(self._heap)

    def cancel(self, key: Hashable) -> None:
        """Do not call what was set for this key, if anything was."""
        self._calls.pop(key, None)

    def seconds(self, key: Hashable) -> float | None:
        """How long until the call of this key; None if none is set."""
        return max(self._calls[key][0] - monotonic(), 0.0) if key in self._calls else None

    def timeout(self) -> float:
        """How long the loop may sleep; -1 for as long as nothing else happens."""
        while self._heap and self._calls.get(self._heap[0][2], (0, 0))[1] != self._heap[0][1]:
            heappop(self._heap)  # cancelled, or set again
        return min(max(self._heap[0][0] - monotonic(), 0.0), LONGEST) if self._heap else -1

    def run(self) -> None:
        """Make the calls that are due now; what they set is due in the next turn at the earliest."""
        last = self._number
        while self.timeout() == 0 and self._heap[0][1] <= last:
            key = heappop(self._heap)[2]
            self._calls.pop(key)[2]()
