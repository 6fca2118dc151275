"""A host on which files are renamed all the time, as any user and any server can do."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def renames(folder: Path) -> Iterator[None]:
    """Rename a file of `folder` without a pause: lookups of ".." by openat2(2) then often fail: EAGAIN."""
    here, there = folder / "renamed", folder / "renamed-again"
    here.touch()
    pid = os.fork()
    if pid == 0:
        try:
            while os.getppid() != 1:
                here.rename(there)
                there.rename(here)
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
