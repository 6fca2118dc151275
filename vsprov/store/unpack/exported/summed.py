"""The archive as a stream with a checksum for each of its parts."""

from __future__ import annotations

import hashlib
from typing import Any

from ..stream import Stream


class SummedStream(Stream):
    """A part ends where the header of the next one begins, which is only known once that has been read."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.sum = hashlib.sha256()
        self.summed = 0  # the offset up to which bytes were counted
        self.held: list[memoryview] | None = None

    def hold(self, at: int) -> None:
        """Go to the offset `at`. Up to `release`, nothing behind it counts yet."""
        self.seek(at)
        self._count(at)
        self.held = []

    def release(self, *, anew: bool) -> str:
        """Count what was held. If it begins a part `anew`, the SHA-256 of the one before, else ""."""
        found = ""
        if anew:
            found, self.sum = self.sum.hexdigest(), hashlib.sha256()
        for data in self.held or ():
            self.sum.update(data)
        self.held = None
        return found

    def _count(self, end: int) -> None:
        data = memoryview(self.piece)[self.summed - self.before : end - self.before]
        if self.held is None:
            self.sum.update(data)
        else:
            self.held.append(data)
        self.summed = end

    def _fetch(self) -> bool:
        self._count(self.before + len(self.piece))
        return super()._fetch()

    def _sum(self, data: bytes) -> None:
        """The parts have sums; one of the whole archive is not needed."""
