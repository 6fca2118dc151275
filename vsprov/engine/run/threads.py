"""Threads for long operations, because the thread of the scheduler must not wait for networks and disks.

A thread signals its end through an eventfd.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from vsprov.engine.run.schedule import Readable, Wait
from vsprov.errors import VsprovError
from vsprov.store.disk.progress import Progress

SECONDS_TO_END = 30.0
DAY = 86400.0  # seconds; `Readable` requires a limit
OnProgress = Callable[[str, str, int, int], None]  # (address, label, bytes done, total bytes or 0)


class Cancelled(VsprovError):
    """The import was cancelled because the apply has ended."""


class Threads:
    """The running imports. `close` cancels them; they remove what is unfinished."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._stop = threading.Event()
        self._running: list[threading.Thread] = []

    def progress(self, address: str) -> Progress:
        """The function to which an import reports its progress; raises Cancelled after `close`."""

        def report(label: str, done: int, total: int) -> None:
            if self._stop.is_set():
                raise Cancelled(f"{address}: the import was cancelled")
            self._on_progress(address, label, done, total)

        return report

    def run(self, work: Callable[[], Any]) -> Generator[Wait, Any, Any]:
        """Run `work` in a thread, and return its result or raise its exception."""
        done = os.eventfd(0, os.EFD_CLOEXEC)
        outcome: list[Any] = [None, None]

        def call() -> None:
            try:
                outcome[0] = work()
            except BaseException as error:  # raised in the thread of the scheduler
                outcome[1] = error
            finally:
                os.eventfd_write(done, 1)

        thread = threading.Thread(target=call, name="import", daemon=True)  # `close` waits, but not for ever
        try:
            thread.start()
        except BaseException:  # no further process can be started
            os.close(done)
            raise
        self._running.append(thread)
        while not (yield Readable(done, DAY)):
            pass
        thread.join()
        os.close(done)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def close(self) -> int:
        """Cancel all imports and wait until their threads have ended; how many have not in SECONDS_TO_END.

        Nothing can wake a thread that reads from a file system which does not answer.
        """
        self._stop.set()
        deadline = time.monotonic() + SECONDS_TO_END
        for thread in self._running:
            thread.join(max(0.0, deadline - time.monotonic()))
        return sum(thread.is_alive() for thread in self._running)
