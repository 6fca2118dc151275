"""What the events of the guest programs mean to the user."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vsprov.guest.wire import Exited, Failed

# By the beginning of the step that failed.
_HINTS = {
    "exec ": "is the program in the image, and its interpreter?",
    "working directory ": "init.workingDir can name another than the image does",
}


def explain(event: Failed) -> str:
    """The failed step, the path unless the step names it, and what the kernel said."""
    step, path = event["step"], event["path"]
    cause = event["message"] or os.strerror(event["errno"])
    return ": ".join((step, path, cause) if path and path not in step else (step, cause))


def hint(event: Failed) -> str:
    """What to check after a failure; "" if nothing is known."""
    return next((text for beginning, text in _HINTS.items() if event["step"].startswith(beginning)), "")


def exit_code(event: Exited) -> int:
    """The exit code as a shell reports it: 128 + N when signal N ended the process."""
    return event["code"] if "code" in event else 128 + event["signal"]
