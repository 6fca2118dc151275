"""Limits on the contents of an image, against archives that would fill the disk."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    entries: int = 1_000_000
    bytes: int = 64 << 30
    depth: int = 256  # of nested directories
    path: int = 4095  # bytes; path_resolution(7)


LIMITS = Limits()
MAX_ID = 65535  # the highest id in a server
