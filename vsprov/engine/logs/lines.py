"""The lines of several logs in the order in which they were written, as far as that is known."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from vsprov.engine.logs.files import Block

LONGEST = 1 << 16  # bytes of a line that are held back until it ends


class Line(NamedTuple):
    """A line of a server, or a part of a long or unfinished one, with the newline if it `ends` with it.

    `time`: when it was begun, in microseconds; 0 if that is not known.
    """

    server: str
    time: int
    text: bytes
    ends: bool


class Splitter:
    """Makes lines of the pieces of a server's log."""

    __slots__ = ("_rest", "_server", "_time")

    def __init__(self, server: str) -> None:
        self._server = server
        self._rest = b""
        self._time = -1  # of the line that has begun; -1 for none

    def feed(self, block: Block) -> Iterator[Line]:
        """The lines that end in this piece, and what is too long to be held back."""
        at, data = 0, block.data
        while at < len(data):
            if self._time < 0:
                self._time = block.file.times.at(block.offset + at)
            end = data.find(b"\n", at) + 1
            text = self._rest + data[at : end or len(data)]
            self._rest = b""
            at = end or len(data)
            if end:
                yield Line(self._server, self._time, text, True)
                self._time = -1
            elif len(text) >= LONGEST:
                yield Line(self._server, self._time, text, False)
            else:
                self._rest = text

    def flush(self) -> Iterator[Line]:
        """The line that has not ended."""
        if self._rest:
            yield Line(self._server, self._time, self._rest, False)
            self._rest = b""


def split(splitter: Splitter, blocks: Iterable[Block], *, flush: bool) -> Iterator[Line]:
    """The lines in pieces of a log; with `flush`, also what has not ended."""
    for block in blocks:
        yield from splitter.feed(block)
    if flush:
        yield from splitter.flush()


def merge(logs: Iterable[Iterator[Line]]) -> Iterator[Line]:
    """The lines of all logs by time. Those of one log stay in order, even if the clock was set back, and the
    parts of a line stay together.
    """
    waiting: list[tuple[int, int, Line, Iterator[Line]]] = []
    for index, lines in enumerate(logs):
        if (line := next(lines, None)) is not None:
            waiting.append((line.time, index, line, lines))
    heapq.heapify(waiting)
    while waiting:
        time, index, line, lines = waiting[0]
        yield line
        following = next(lines, None)
        while not line.ends and following is not None:
            yield (line := following)
            following = next(lines, None)
        if following is None:
            heapq.heappop(waiting)
        else:
            heapq.heapreplace(waiting, (max(time, following.time), index, following, lines))
