"""Long work beside the one thread of the schedule, which must not wait for networks and disks.

A thread says through an eventfd that it is done.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from typing import Any

from vsprov.engine.run.schedule import Readable, Wait
from vsprov.errors import VsprovError
from vsprov.store.disk.progress import Progress

DAY = 86400.0  # poll(2) takes no time without end
Told = Callable[[str, str, int, int], None]  # (address, what, bytes done, bytes in all or 0)


class Cancelled(VsprovError):
    """The apply has ended; so does what it was importing."""


class Threads:
    """The imports that are under way. `close` ends them, and what they have half made goes."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._stop = threading.Event()
        self._running: list[threading.Thread] = []

    def progress(self, address: str) -> Progress:
        """What an import tells how far it is; raises Cancelled once the apply has ended."""

        def tell(what: str, done: int, total: int) -> None:
            if self._stop.is_set():
                raise Cancelled(f"{address}: the import was stopped")
            self._told(address, what, done, total)

        return tell

    def run(self, work: Callable[[], Any]) -> Generator[Wait, Any, Any]:
        """Do the work in a thread; what it returns or raises."""
        done = os.eventfd(0, os.EFD_CLOEXEC)
        outcome: list[Any] = [None, None]

        def call() -> None:
            try:
                outcome[0] = work()
            except BaseException as error:  # raised again where it is waited for
                outcome[1] = error
            finally:
                os.eventfd_write(done, 1)

        thread = threading.Thread(target=call, name="import")
        self._running.append(thread)
        thread.start()
        while not (yield Readable(done, DAY)):
            pass
        thread.join()
        os.close(done)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def close(self) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join()
