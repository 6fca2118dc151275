"""Everything vsprov raises on purpose, and what a user is told.

    VsprovError                     exit code
    ├── UsageError                  64   the command line is wrong
    ├── ManifestError               65   the manifest is wrong; carries every problem found
    ├── HostError                   69   this host lacks a needed kernel feature
    ├── LockedError                 75   another apply is at work
    ├── NotPermittedError           77   root, or a capability, is missing
    └── FailedError                  1   the rest: what was asked for could not be done
        ├── ConflictError                an object that is not ours stands where ours would go
        ├── StalePlanError               a saved plan no longer fits the manifest or the kernel
        ├── ImageError                   an image source is unusable
        └── StepError                    the kernel refused a step

A message reads *who: what was wanted: what was done: what the kernel said*; the hint says what to do about
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the input.

    `subject` is the object ("Server/web1"), `path` the key in it ("spec.memory.max"); either may be empty.
    `lack`: the input asks for a feature that this host lacks.
    """

    message: str
    position: Position | None = None
    path: str = ""
    subject: str = ""
    hint: str = ""
    severity: Literal["error", "warning"] = "error"
    lack: bool = False

    def __str__(self) -> str:
        where = [str(part) for part in (self.position, self.subject, self.path) if part]
        return ": ".join([*where, self.message])


class VsprovError(Exception):
    """The base: a message for people, an optional hint, the exit code of the command it ends."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(VsprovError):
    exit_code = 64


class ManifestError(VsprovError):
    """All problems of the input at once; warnings among them do not raise this on their own."""

    exit_code = 65

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class HostError(VsprovError):
    exit_code = 69


class LockedError(VsprovError):
    exit_code = 75


class NotPermittedError(VsprovError):
    exit_code = 77


class FailedError(VsprovError):
    exit_code = 1


class ConflictError(FailedError):
    pass


class StalePlanError(FailedError):
    pass


class ImageError(FailedError):
    pass


class StepError(FailedError):
    pass


def reason(error: OSError) -> str:
    """What the kernel said, without Python's number and path around it."""
    return error.strerror or str(error)
