"""The step in progress, and the report of a failure in it."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from .wire import Exited, Failed

    Failure = tuple[str, int, str | None, str | None]

_step = "start"


def at(step: str) -> None:
    """Name the step in progress, for the report should it fail."""
    global _step
    _step = step


def describe(error: Exception) -> Failure:
    """(step in progress, errno or 0, path or None, message or None) of an exception."""
    if not isinstance(error, OSError):
        return _step, 0, None, repr(error)
    path = error.filename
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    return _step, error.errno or 0, path if isinstance(path, str) else None, error.strerror


def failed(number: int, failure: Failure) -> Failed:
    """The event that reports a failure; 0 is the number of the guest program itself."""
    step, errno, path, message = failure
    return {
        "event": "failed", "id": number, "step": step, "errno": errno, "path": path, "message": message
    }  # fmt: skip


def exited(number: int, code: int) -> Exited:
    """The event that reports an end; `code` as from os.waitstatus_to_exitcode: negative for a signal."""
    if code < 0:
        return {"event": "exited", "id": number, "signal": -code}
    return {"event": "exited", "id": number, "code": code}
