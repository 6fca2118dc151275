"""Running the stand-alone programs that pack and unpack files."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vsprov.errors import FailedError
from vsprov.store.layers.unpacking import PROGRAM, hint_of, messages

SECONDS_TO_END = 2.0


@contextmanager
def worker(
    package: str,
    label: str,
    job: dict[str, Any],
    *,
    archive: int | None = None,
    passed: Sequence[int] = (),
) -> Iterator[Iterator[dict[str, Any]]]:
    """Run the worker of a package in `vsprov.store.unpack`; its messages. At the end of the block it is
    ended, and removes what is incomplete.
    """
    flags = ["-P", "-X", "utf8"] + (["-B"] if sys.dont_write_bytecode else [])
    text = json.dumps({"parent": os.getpid(), **job})
    with open(os.devnull, "r+b") as nowhere, subprocess.Popen(
        [sys.executable, *flags, PROGRAM, f"{package}.worker", text],
        stdin=nowhere if archive is None else archive,
        stdout=subprocess.PIPE, stderr=nowhere, cwd="/", bufsize=0, pass_fds=passed,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        try:
            yield _checked(label, job.get("target"), messages(child.stdout.fileno()))
        finally:
            child.terminate()
            try:
                child.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                child.kill()


def _checked(label: str, target: str | None, found: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The messages of a worker, up to its result. FailedError if it reports an error or ends without one,
    BrokenPipeError if nobody reads what it writes.
    """
    for message in found:
        if "unread" in message:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        if "error" in message:
            raise FailedError(f"{label}: {message['error']}", hint=hint_of(message, target))
        yield message
        if "files" in message:
            return
    raise FailedError(f"{label}: the copying process ended unexpectedly")
