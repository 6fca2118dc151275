"""A forked command line starts with what a new process would start with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import preloaded

CHECKOUT = Path(__file__).resolve().parent.parent.parent
COMMAND = [sys.executable, "-m", "vsprov"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(CHECKOUT), "ONLY": "here \udcff"}


@pytest.fixture
def odd_umask() -> Iterator[None]:
    before = os.umask(0o013)
    yield
    os.umask(before)


@pytest.mark.parametrize("input", ["", "a\nb \udcfe\n", "long" * 100_000], ids=["none", "some", "long"])
def test_a_forked_program_finds_what_a_new_process_finds(odd_umask: None, tmp_path: Path, input: str) -> None:
    forked = preloaded.run(
        [*COMMAND, "one", "two words"],
        program="tests.mirror:tell",
        input=input,
        timeout=60,
        cwd=tmp_path,
        env=ENVIRONMENT,
    )
    new = subprocess.run(
        [sys.executable, "-m", "tests.mirror", "one", "two words"],
        capture_output=True,
        text=True,
        input=input,
        errors="surrogateescape",
        cwd=tmp_path,
        env=ENVIRONMENT,
    )
    assert preloaded.is_used(ENVIRONMENT)
    assert json.loads(forked.stdout) == json.loads(new.stdout)
    assert (forked.stderr, forked.returncode) == (new.stderr, new.returncode) == ("and complaints\n", 3)


def test_a_signal_that_ends_it_is_its_exit_code() -> None:
    killed = preloaded.run(COMMAND, program="tests.mirror:die", timeout=60, env=ENVIRONMENT)
    assert killed.returncode == -signal.SIGTERM
    assert killed.stdout == "last words\n"


def test_it_is_killed_when_it_takes_too_long() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        preloaded.run(COMMAND, program="signal:pause", timeout=0.1, env=ENVIRONMENT)
    again = preloaded.run([*COMMAND, "version"], timeout=60, env=ENVIRONMENT)
    assert again.stdout.startswith("vsprov ")


@pytest.mark.parametrize("name", ["PYTHONHASHSEED", "LC_ALL"])
def test_what_python_reads_at_its_start_is_given_to_a_new_process(name: str) -> None:
    assert not preloaded.is_used({**ENVIRONMENT, name: "C.UTF-8"})
