"""What is being done, and how what went wrong is told."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # importing typing would double the heap every child copies
if TYPE_CHECKING:
    Failure = tuple[str, int, str | None, str | None]

_step = "start"


def at(step: str) -> None:
    """Name what is being done, for the report should it fail."""
    global _step
    _step = step


def describe(error: Exception) -> Failure:
    """(step, errno or 0, path or None, message) of what went wrong."""
    if not isinstance(error, OSError):
        return _step, 0, None, repr(error)
    path = error.filename
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    return _step, error.errno or 0, path if isinstance(path, str) else None, error.strerror
