"""How much an image may hold; else an archive of a few megabytes could unpack to fill any disk."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    entries: int = 1_000_000
    bytes: int = 64 << 30
    depth: int = 256  # directories in directories
    path: int = 4095  # bytes; path_resolution(7)


LIMITS = Limits()
MAX_ID = 65535  # the last id of a server's range
