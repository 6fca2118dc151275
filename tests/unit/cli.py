"""The command line without a process: what it prints and how it ends."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vsprov.cli.app import run

CHECKOUT = Path(__file__).resolve().parent.parent.parent
NOWHERE = {"VSPROV_INSTANCE": "vt-nowhere", "VSPROV_ROOT": "/nonexistent/vt-nowhere"}
SERVER = """
apiVersion: vsprov/v1
kind: Image
metadata: {name: host}
spec: {source: {host: {}}}
---
apiVersion: vsprov/v1
kind: Server
metadata: {name: web1, labels: {tier: web}}
spec:
  image: host
  resources: {memory: {max: 64Mi}}
  init: {command: [/bin/sleep, infinity]}
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Cli:
    """Calling it carries a command line out in this process."""

    capture: pytest.CaptureFixture[str]

    def __call__(self, *words: str | Path) -> Ended:
        self.capture.readouterr()
        code = run([str(word) for word in words])
        told = self.capture.readouterr()
        assert "Traceback" not in told.err
        return Ended(code, told.out, told.err)


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Meanwhile this process has no effective user id 0; it still opens the files of the user it was."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
        ctypes.CDLL(None).setfsuid(0)  # credentials(7): the checkout may be readable by root only
    try:
        yield
    finally:
        os.seteuid(was)


def process(*words: str, env: Mapping[str, str] | None = None, **more: Any) -> subprocess.Popen[str]:
    """The command line as a process of its own, with pipes."""
    kept = {key: text for key, text in os.environ.items() if not key.startswith("VSPROV_")}
    given: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    } | more
    return subprocess.Popen(
        [sys.executable, "-m", "vsprov", *words],
        text=True,
        cwd=CHECKOUT,
        env=kept | {"PYTHONPATH": str(CHECKOUT)} | dict(env or {}),
        **given,
    )
