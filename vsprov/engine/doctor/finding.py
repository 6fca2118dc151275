"""The result of a probe, and ways to probe: by an attempt, in a child process."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from vsprov.errors import HostError, reason

State = Literal["ok", "degraded", "missing"]


class Finding(Struct, frozen=True):
    """One feature. `found` is what was found or the error; `cost` is what does not work without it."""

    feature: str
    state: State
    found: str
    cost: str = ""

    @property
    def fatal(self) -> bool:
        """Whether no server can run without it."""
        return self.state == "missing"


def attempt(feature: str, probe: Callable[[], None], cost: str, otherwise: State = "missing") -> Finding:
    """A finding for a feature that is available if its probe does not raise OSError."""
    try:
        probe()
    except OSError as error:
        return Finding(feature, otherwise, reason(error), cost)
    except HostError as error:
        return Finding(feature, otherwise, str(error), error.hint)
    return Finding(feature, "ok", "")


def in_child(work: Callable[[], None]) -> None:
    """Run `work` in a child process, whose namespaces end with it; its OSError is raised here."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            work()
            code = 0
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code:
        raise OSError(code, os.strerror(code) if 0 < code < 255 else f"the probe exited with code {code}")
