"""Threads for long operations, because the thread of the scheduler must not wait for networks and disks.

A thread signals its end through an eventfd.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator
from queue import SimpleQueue
from typing import Any

from vsprov.engine.run.schedule import Readable, Wait
from vsprov.errors import VsprovError
from vsprov.kernel import syscall
from vsprov.store.disk.progress import Progress

SECONDS_TO_END = 30.0
WORKERS = 4  # they mostly wait for the disk
DAY = 86400.0  # seconds; `Readable` requires a limit
OnProgress = Callable[[str, str, int, int], None]  # (address, label, bytes done, total bytes or 0)


class Cancelled(VsprovError):
    """The import was cancelled because the apply has ended."""


class Threads:
    """The running imports, and a few workers for shorter operations. `close` cancels imports, which then
    remove what is unfinished, and operations that no worker has begun.
    """

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._stop = threading.Event()
        self._running: list[threading.Thread] = []
        self._queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._workers = 0

    def progress(self, address: str) -> Progress:
        """The function to which an import reports its progress; raises Cancelled after `close`."""

        def report(label: str, done: int, total: int) -> None:
            if self._stop.is_set():
                raise Cancelled(f"{address}: the import was cancelled")
            self._on_progress(address, label, done, total)

        return report

    def run(self, work: Callable[[], Any]) -> Generator[Wait, Any, Any]:
        """Run `work` in a thread of its own, and return its result or raise its exception."""
        return self._await(work, self._start)

    def queue(self, work: Callable[[], Any]) -> Generator[Wait, Any, Any]:
        """As `run`, for work that takes milliseconds: in one of a few threads, as soon as it is free."""
        return self._await(work, self._enqueue)

    def begin(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """As `queue`, outside of the scheduler: a function that waits for the end, to be called once."""
        waiting = self.queue(work)
        done = next(waiting)
        assert isinstance(done, Readable)

        def wait() -> Any:
            syscall.is_ready(done.fd, DAY)
            try:
                waiting.send(True)
            except StopIteration as end:
                return end.value

        return wait

    def _await(
        self, work: Callable[[], Any], begin: Callable[[Callable[[], None]], None]
    ) -> Generator[Wait, Any, Any]:
        done = os.eventfd(0, os.EFD_CLOEXEC)
        outcome: list[Any] = [None, None]

        def call() -> None:
            try:
                outcome[0] = work()
            except BaseException as error:  # raised in the thread of the scheduler
                outcome[1] = error
            finally:
                os.eventfd_write(done, 1)

        try:
            begin(call)
        except BaseException:  # no further process can be started
            os.close(done)
            raise
        while not (yield Readable(done, DAY)):
            pass
        os.close(done)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def _start(self, call: Callable[[], None]) -> None:
        thread = threading.Thread(target=call, name="import", daemon=True)  # `close` waits, but not for ever
        thread.start()
        self._running.append(thread)

    def _enqueue(self, call: Callable[[], None]) -> None:
        if self._workers < WORKERS:
            try:
                self._start(self._work)
                self._workers += 1
            except RuntimeError:  # no further process can be started
                if not self._workers:
                    call()
                    return
        self._queue.put(call)

    def _work(self) -> None:
        while True:
            call = self._queue.get()
            if self._stop.is_set():
                return
            call()

    def close(self) -> int:
        """Cancel everything and wait until all threads have ended; how many have not in SECONDS_TO_END.

        Nothing can wake a thread that reads from a file system which does not answer.
        """
        self._stop.set()
        for _ in range(self._workers):
            self._queue.put(lambda: None)
        deadline = time.monotonic() + SECONDS_TO_END
        for thread in self._running:
            thread.join(max(0.0, deadline - time.monotonic()))
        return sum(thread.is_alive() for thread in self._running)
