"""Carry out the changes of a plan in one thread, concurrently if they do not depend on each other.

Each change is a generator that carries out its steps and yields what it waits for: `Readable` for a file
descriptor, `NextEvent` for the spawner. The loop sleeps in poll(2) until one of them is ready.
"""

from __future__ import annotations

import heapq
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from vsprov.errors import VsprovError
from vsprov.kernel import process
from vsprov.kernel.syscall import milliseconds

if TYPE_CHECKING:
    from vsprov.guest import wire

# A generous bound of the open files of a command, and of each change that is under way, besides those of its
# bind mounts.
FILES, FILES_PER_CHANGE = 64, 16


class Readable(Struct, frozen=True):
    """Wait until `fd` has one of the poll(2) events; `yield` returns False after a timeout of `seconds`."""

    fd: int
    seconds: float
    events: int = select.POLLIN


class NextEvent(Struct, frozen=True):
    """Wait for the next event of the spawner for the server with this number; `yield` returns the event.

    It returns None after a timeout of `seconds`; without them there is no timeout.
    """

    number: int
    seconds: float | None = None


class Changed(Struct, frozen=True):
    """Wait until the watcher has seen a change of what is watched with `key`; `yield` returns False after a
    timeout of `seconds`.
    """

    key: str
    seconds: float


Wait = Readable | NextEvent | Changed
Work = Generator[Wait, Any, None]
Job = tuple[Collection[str], Collection[str], Callable[[], Work]]


class Source(Protocol):
    """The source of events: the spawner."""

    def fileno(self) -> int: ...
    def events(self) -> list[wire.Event]: ...


class Changes(Protocol):
    """What tells of changes: the watcher. Its fileno is -1 while it watches nothing."""

    def fileno(self) -> int: ...
    def changed(self) -> Iterable[str]: ...


class Loop:
    """Runs works, at most `limit` at a time. A work is skipped if one failed that it requires.

    `source` returns the spawner, None as long as it is not started. `stray` receives events that no work
    waits for. `watcher` is what works that yield `Changed` wait for.
    """

    def __init__(
        self,
        source: Callable[[], Source | None],
        limit: int,
        stray: Callable[[wire.Event], None],
        watcher: Changes | None = None,
    ) -> None:
        self._source, self._limit, self._stray, self._watcher = source, limit, stray, watcher
        self._by_key: dict[str, tuple[str, Work, int]] = {}
        self._poll = select.poll()
        self._by_fd: dict[int, tuple[str, Work, int]] = {}
        self._by_number: dict[int, tuple[str, Work, int]] = {}
        # (time, serial number, wait): numbers of file descriptors are reused, serial numbers are not.
        self._deadlines: list[tuple[float, int, Wait]] = []
        self._serial = 0
        self._watched = self._signals = self._changes = -1

    def run(
        self,
        works: Mapping[str, Job],
        done: Callable[[str, VsprovError | None], None],
        waiting: Collection[str] = (),
    ) -> None:
        """Run works, given as {key: (keys of those that it requires, keys of those that come first whether or
        not they fail, function that makes the generator)}.

        `done(key, error)` is called when a work ends; the error is None if it succeeded. Works with the keys
        `waiting` do nothing but wait, and do not count as running.
        """
        with self._woken_by_signals():
            self._run(works, done, frozenset(waiting))

    @contextmanager
    def _woken_by_signals(self) -> Iterator[None]:
        """Let every signal end a sleep, also one that arrives between the interpreter's last look for signals
        and poll(2). Its handler would otherwise run only when something else ends the sleep.
        """
        if threading.current_thread() is not threading.main_thread():  # which alone runs handlers
            yield
            return
        self._signals, written = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            before = signal.set_wakeup_fd(written, warn_on_full_buffer=False)
            try:
                self._poll.register(self._signals, select.POLLIN)
                yield
            finally:
                signal.set_wakeup_fd(before)
        finally:
            self._poll.unregister(self._signals)
            os.close(self._signals)
            os.close(written)

    def _run(
        self,
        works: Mapping[str, Job],
        done: Callable[[str, VsprovError | None], None],
        waiting: frozenset[str],
    ) -> None:
        waits = {
            key: {name for name in (*after, *follows) if name in works}
            for key, (after, follows, _) in works.items()
        }
        holds: dict[str, list[str]] = {key: [] for key in works}
        for key, names in waits.items():
            for name in names:
                holds[name].append(key)
        ready = deque(key for key in works if not waits[key])
        failed: set[str] = set()
        running = idle = 0
        resumed: deque[tuple[str, Work, Any]] = deque()
        while ready or running or idle:
            while ready and (running < self._limit or ready[0] in waiting):
                key = ready.popleft()
                running += key not in waiting
                idle += key in waiting
                resumed.append((key, works[key][2](), None))
            while resumed:
                key, work, answer = resumed.popleft()
                error: VsprovError | None = None
                try:
                    self._park(key, work, work.send(answer))
                    continue
                except StopIteration:
                    pass
                except VsprovError as caught:
                    error = caught
                running -= key not in waiting
                idle -= key in waiting
                self._finish(key, error, works, holds, waits, ready, failed, done)
                if ready:
                    break
            if not resumed and (running or idle) and (not ready or running >= self._limit):
                resumed.extend(self._wake())

    def _finish(
        self,
        key: str,
        error: VsprovError | None,
        works: Mapping[str, Job],
        holds: Mapping[str, list[str]],
        waits: Mapping[str, set[str]],
        ready: deque[str],
        failed: set[str],
        done: Callable[[str, VsprovError | None], None],
    ) -> None:
        """Call `done` for a work, and make its successors ready or, if it failed, skip them."""
        ended = deque([(key, error)])
        while ended:
            name, error = ended.popleft()
            done(name, error)
            if error:
                failed.add(name)
            for follower in holds[name]:
                if follower in failed:
                    continue
                if error and name in works[follower][0]:
                    failed.add(follower)
                    ended.append((follower, Skipped(follower, name)))
                else:
                    waits[follower].discard(name)
                    if not waits[follower]:
                        ready.append(follower)

    def _park(self, key: str, work: Work, wait: Wait) -> None:
        self._serial += 1
        if isinstance(wait, NextEvent):
            self._by_number[wait.number] = (key, work, self._serial)
        elif isinstance(wait, Changed):
            self._by_key[wait.key] = (key, work, self._serial)
        else:
            self._by_fd[wait.fd] = (key, work, self._serial)
            self._poll.register(wait.fd, wait.events)
        if wait.seconds is not None:
            heapq.heappush(self._deadlines, (time.monotonic() + wait.seconds, self._serial, wait))

    def _wake(self) -> list[tuple[str, Work, Any]]:
        """Sleep until a wait ends. Returns (key, work, answer) of the works to resume."""
        source = self._source()
        if source and self._watched != source.fileno():
            self._watched = source.fileno()
            self._poll.register(self._watched, select.POLLIN)
        watcher = self._watcher
        if watcher and watcher.fileno() >= 0 and self._changes < 0:
            self._changes = watcher.fileno()
            self._poll.register(self._changes, select.POLLIN)
        while self._deadlines and not self._is_due(*self._deadlines[0][1:]):
            heapq.heappop(self._deadlines)
        seconds = max(0.0, self._deadlines[0][0] - time.monotonic()) if self._deadlines else None
        out: list[tuple[str, Work, Any]] = []
        for fd, _ in self._poll.poll(milliseconds(seconds)):
            if source and fd == self._watched:
                for event in source.events():
                    if event["id"] in self._by_number:
                        out.append((*self._by_number.pop(event["id"])[:2], event))
                    else:
                        self._stray(event)
            elif fd == self._signals:
                os.read(fd, 4096)
            elif watcher and fd == self._changes:
                changed = [key for key in watcher.changed() if key in self._by_key]
                out += [(*self._by_key.pop(key)[:2], True) for key in changed]
            elif fd in self._by_fd:
                out.append((*self._resume(fd), True))
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, serial, wait = heapq.heappop(self._deadlines)
            if not self._is_due(serial, wait):
                continue
            if isinstance(wait, NextEvent):
                out.append((*self._by_number.pop(wait.number)[:2], None))
            elif isinstance(wait, Changed):
                out.append((*self._by_key.pop(wait.key)[:2], False))
            else:
                out.append((*self._resume(wait.fd), False))
        return out

    def _is_due(self, serial: int, wait: Wait) -> bool:
        """Whether the wait that a deadline belongs to has not ended."""
        if isinstance(wait, Changed):
            held = self._by_key.get(wait.key)
        else:
            held = (
                self._by_number.get(wait.number) if isinstance(wait, NextEvent) else self._by_fd.get(wait.fd)
            )
        return held is not None and held[2] == serial

    def _resume(self, fd: int) -> tuple[str, Work]:
        self._poll.unregister(fd)
        key, work, _ = self._by_fd.pop(fd)
        return key, work


class Skipped(VsprovError):
    """A change that was skipped because one that it depends on failed; `cause` is the key of that."""

    def __init__(self, key: str, cause: str, message: str = "") -> None:
        self.cause = cause
        super().__init__(message or f"{key}: skipped, because {cause} failed")


def affordable(parallelism: int, files_per_change: int) -> int:
    """The number of concurrent changes, at most `parallelism`, that the limit of open files permits.

    Raises the soft limit of this process as far as that helps.
    """
    files = process.raise_open_files(FILES + files_per_change * parallelism)
    return max(1, min(parallelism, (files - FILES) // files_per_change))
