"""The first process of a server, while a step works in its namespaces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from vsprov.engine.run.context import ApplyContext
from vsprov.errors import StepError
from vsprov.kernel import process


@contextmanager
def running(context: ApplyContext, server: str) -> Iterator[int]:
    """The pid of a server's init, which does not end unnoticed during the block."""
    init = context.inits[server]
    pidfd = process.open_pidfd(init.pid, init.start)
    if pidfd is None:
        raise StepError(f"{server}: its first process, {init.pid}, has ended")
    try:
        yield init.pid
    finally:
        os.close(pidfd)
