"""Applies, and other commands, that are under way while a test does something else."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from tests import world
from tests.lab import SECONDS, Document, Lab, to_yaml
from tests.leaks import descriptors


@dataclass(frozen=True, slots=True)
class Applying:
    """An apply that is under way."""

    process: subprocess.Popen[bytes]
    said: IO[bytes]

    def is_waiting(self) -> bool:
        """Whether it waits for a change of a server."""
        return "inotify" in opened(self.process.pid)

    def ended(self) -> tuple[int, str]:
        """Its exit code, and what it has said on standard error."""
        code = self.process.wait(SECONDS)
        self.said.seek(0)
        return code, self.said.read().decode()

    def succeeds(self) -> None:
        code, said = self.ended()
        assert code == 0, said


@contextmanager
def applying(
    lab: Lab, *documents: Document, flags: tuple[str, ...] = (), verb: tuple[str, ...] = ("apply", "-y", "-")
) -> Iterator[Applying]:
    """Run an apply, or another verb; it is killed if the test fails meanwhile."""
    command = lab.vsprov.command(*verb, *flags)
    if lab.vsprov.network is not None:
        command = world.within(lab.vsprov.network, *command)
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
        given.write(to_yaml(*documents).encode())
        given.seek(0)
        with subprocess.Popen(
            command, stdin=given, stdout=subprocess.DEVNULL, stderr=said, env=lab.vsprov.environment
        ) as process:
            try:
                yield Applying(process, said)
            finally:
                process.kill()


def opened(pid: int) -> str:
    """What a process has open."""
    try:
        return " ".join(descriptors(pid).values())
    except FileNotFoundError:  # it has ended
        return ""
