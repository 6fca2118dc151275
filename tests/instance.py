"""A vsprov of its own for each test: a random name, a state root, and the command line to drive it."""

from __future__ import annotations

import gc
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import leaks, preloaded
from tests.features import SERVERS

CHECKOUT = Path(__file__).resolve().parent.parent
SECONDS_TO_VANISH = 20.0  # the kernel takes a dead network namespace apart in a worker of its own
TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance of vsprov that nothing else on this machine shares.

    Calling it runs the command line: `instance("apply", "-y", path)`, in the network namespace that is open
    as `network`, or in this one.
    """

    name: str
    folder: Path
    network: int | None = None

    @property
    def root(self) -> Path:
        """The state root, as in `--root`. Made by vsprov, not by the fixture."""
        return self.folder / "state"

    @property
    def temporary(self) -> Path:
        """The TMPDIR of every command; nothing may be left in it."""
        return self.folder / "tmp"

    @property
    def run(self) -> Path:
        """The run directory."""
        return Path("/run") / self.name

    @property
    def environment(self) -> dict[str, str]:
        """The environment every command is given; no setting of the caller's own vsprov is in it."""
        kept = {key: text for key, text in os.environ.items() if not key.startswith("VSPROV_")}
        return kept | {
            "VSPROV_INSTANCE": self.name,
            "PYTHONPATH": str(CHECKOUT),
            "VSPROV_SETTLE": "0",  # tests of it set another time; the others have to be quick
            "TMPDIR": str(self.temporary),
            "COLUMNS": "200",
            "NO_COLOR": "1",
        }

    def command(self, *arguments: str | Path) -> list[str]:
        """The words of a command line of this instance, for tests that start the process themselves."""
        program = [sys.executable, "-m", "vsprov", "--instance", self.name, "--root", str(self.root)]
        return program + [str(each) for each in arguments]

    def __call__(
        self,
        *arguments: str | Path,
        check: bool = True,
        input: str | None = None,
        timeout: float = TIMEOUT,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run vsprov to its end and return what it said, standard output and standard error apart.

        With `check`, any exit code but 0 fails the test. A traceback fails it always.
        """
        command = self.command(*arguments)
        done = preloaded.run(
            command,
            input=input if input is not None else "",
            timeout=timeout,
            cwd=cwd,
            env=self.environment | dict(env or {}),
            network=self.network,
        )
        told = f"{' '.join(command)}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        if "Traceback (most recent call last)" in done.stderr:
            pytest.fail(f"a traceback reached the user\n{told}", pytrace=False)
        if check and done.returncode != 0:
            pytest.fail(told)
        return done

    def left(self) -> list[str]:
        """A line for each thing this instance has on this machine now."""
        own = {f"on disk {self.root}", f"on disk {self.temporary}"}
        return [line for line in leaks.found(self.name, self.folder, self.network) if line not in own]


@contextmanager
def own_instance(parent: Path = SERVERS, network: int | None = None) -> Iterator[Instance]:
    """An instance with a new random name; in the end everything of it is destroyed, and nothing may be left.

    Its files lie in a folder of its own below `parent`.

    Looked at are mounts, cgroups, links, nft tables, loop devices, processes, files, and this process's own
    open files. What is left fails the test, and is then removed by force.
    """
    name = f"{leaks.PREFIX}{secrets.token_hex(3)}"
    instance = Instance(name, parent / name, network)
    instance.temporary.mkdir(parents=True)
    if preloaded.is_used():
        preloaded.forker()
    open_before = leaks.descriptors()
    try:
        yield instance
    finally:
        problems = _destroy(instance) + _opened_since(open_before)
        if problems:
            leaks.remove(instance.name, instance.folder, network)
            problems += [f"not even force removes it: {line}" for line in instance.left()]
            told = "\n  ".join(problems)
            pytest.fail(f"{instance.name} left something behind:\n  {told}", pytrace=False)
        for empty in (instance.root, instance.temporary, instance.folder):
            if empty.exists():
                empty.rmdir()


def _destroy(instance: Instance) -> list[str]:
    if not instance.left():
        return []
    volumes = instance.root / "volumes"
    data = [f"--delete-data={path.name}" for path in volumes.iterdir()] if volumes.is_dir() else []
    command = instance.command("destroy", "--all", "-y", *data)
    try:
        done = preloaded.run(command, timeout=TIMEOUT, env=instance.environment, network=instance.network)
    except subprocess.TimeoutExpired:
        return [f"destroy --all does not end within {TIMEOUT:.0f} s", *instance.left()]
    problems = []
    if done.returncode != 0:
        problems.append(f"destroy --all ends with {done.returncode}: {done.stderr.strip()}")
    deadline = time.monotonic() + SECONDS_TO_VANISH
    while (left := instance.left()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return problems + left


def _opened_since(before: Mapping[int, str]) -> list[str]:
    gc.collect()
    return [
        f"open file {number} of the tests' own process: {target}"
        for number, target in leaks.descriptors().items()
        if before.get(number) != target
    ]
