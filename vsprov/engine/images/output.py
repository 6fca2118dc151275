"""What a step of a build prints, through a FIFO: a thread reads it and keeps the end."""

from __future__ import annotations

import os
import select
import threading

KEPT = 16 << 10  # bytes
_PART = 1 << 16
_PARTS_LEFT = 16  # of a full pipe: fs.pipe-max-size, 1 MiB


class Output:
    """Reads a FIFO, which it creates, until `close`."""

    def __init__(self, path: str) -> None:
        os.mkfifo(path, 0o600)
        # For writing too, so that the end of one writer is not taken for the end of the output.
        self._fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._end = b""
        self._thread = threading.Thread(target=self._work, name="output")
        self._thread.start()

    def close(self) -> bytes:
        """Stop reading, once everything written so far is read; the end of it."""
        if self._thread.is_alive():
            os.eventfd_write(self._stop, 1)
            self._thread.join()
            os.close(self._fifo)
            os.close(self._stop)
        return self._end

    def _work(self) -> None:
        poll = select.poll()
        poll.register(self._fifo, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        while self._stop not in dict(poll.poll()):
            self._read()
        for _ in range(_PARTS_LEFT):
            if not self._read():
                return

    def _read(self) -> bool:
        try:
            part = os.read(self._fifo, _PART)
        except BlockingIOError:
            return False
        self._end = (self._end + part)[-KEPT:]
        return True
