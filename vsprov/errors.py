"""The errors that vsprov raises on purpose, and the exit codes of the commands that they end.

    VsprovError                     exit code
    ├── UsageError                  64   invalid command line
    ├── ManifestError               65   invalid manifest; carries all problems that were found
    ├── HostError                   69   this host lacks a required kernel feature
    ├── LockedError                 75   another command holds the lock of the instance
    ├── NotPermittedError           77   root, or a capability, is missing
    └── FailedError                  1   everything else that could not be done
        ├── ConflictError                an object of others is in the place of one of ours
        ├── StalePlanError               a saved plan no longer matches the manifest or the host
        ├── ImageError                   an image source is unusable
        └── StepError                    the kernel refused a step

A message has the form *who: what was wanted: what was done: what the kernel said*; the hint says what the
user can do.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct


class Position(Struct, frozen=True, order=True):
    """A position in a file; lines and columns are counted from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Problem(Struct, frozen=True):
    """One error or warning about the input.

    `subject` is the object ("Server/web1"), `path` the key in it ("spec.memory.max"); both may be empty.
    `lack` marks a feature that this host lacks.
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
    """The base class: a message, an optional hint, and the exit code of the command that it ends."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(VsprovError):
    exit_code = 64


class ManifestError(VsprovError):
    """All problems of the input together; warnings alone do not raise it."""

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
    """The message of the kernel, without the number and path that Python adds."""
    return error.strerror or str(error)


def path_of(error: OSError) -> str:
    """The path in an error; "" if it has none, or only the number of a descriptor."""
    return error.filename if isinstance(error.filename, str) else ""


# What to do if the kernel has no more of a resource, by number of the error.
EXHAUSTED: Mapping[int, str] = {
    errno.EAGAIN: "the host, or the group vsprov runs in, is at its limit of processes: pids.max, ulimit -u",
    errno.EMFILE: "vsprov has as many files open as it may: ulimit -n",
    errno.ENFILE: "the host has as many files open as it may: fs.file-max",
    errno.ENOMEM: "free some memory, or raise the memory limit of this session",
    errno.ENOSPC: "free some space on that file system",
    errno.EDQUOT: "the disk quota on that file system is exhausted",
}
