"""What the tests of the verbs share: a few documents, a shop of servers, and a terminal to sit at."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import select
import subprocess
import termios
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab import (
    SECONDS,
    Document,
    Lab,
    image,
    pool,
    quota,
    server,
)

HOST = image("host")
TICKER = 'i=0; while :; do i=$((i+1)); echo "tick $i"; sleep 0.05; done'


def web(name: str = "web1", **spec: Any) -> Document:
    return server(name, labels={"tier": "web"}, **spec)


def on_a_terminal(lab: Lab, *words: str, typed: str = "", when: str = "") -> tuple[int, str]:
    """(exit code, what was shown) of a command line on a terminal; `typed` is typed when `when` is seen."""
    return _on_a_terminal(lab, words, [(when, lambda: typed)] if typed else [])


def asked(lab: Lab, words: tuple[str, ...], *answers: Callable[[], str]) -> tuple[int, str]:
    """The same, for a command line that asks as many times as there are answers, which are called for."""
    return _on_a_terminal(lab, words, [("[y/N] ", answer) for answer in answers])


def _on_a_terminal(
    lab: Lab, words: tuple[str, ...], answers: list[tuple[str, Callable[[], str]]]
) -> tuple[int, str]:
    leader, follower = pty.openpty()
    running = subprocess.Popen(
        lab.vsprov.command(*words),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**lab.vsprov.environment, "TERM": "xterm", "NO_COLOR": "", "LC_ALL": "C.UTF-8"},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that ^C reaches it
    )
    os.close(follower)
    shown, read = b"", 0
    while select.select([leader], [], [], SECONDS)[0]:
        try:
            shown += os.read(leader, 65536)
        except OSError as error:
            assert error.errno == errno.EIO  # nobody has the terminal any more
            break
        while answers and answers[0][0].encode() in shown[read:]:
            when, answer = answers.pop(0)
            read = shown.index(when.encode(), read) + len(when)
            os.write(leader, answer().encode())
    code = running.wait(SECONDS)  # before the terminal goes: that would send it SIGHUP
    os.close(leader)
    return code, shown.decode(errors="replace").replace("\r\n", "\n")


@pytest.fixture(scope="module")
def shop(shared_lab: Lab) -> Iterator[Lab]:
    """A lab with a pool, two servers in it, one beside it and one that is stopped."""
    shared_lab.apply(
        HOST,
        quota("small", cpu={"limit": "500m"}),
        pool("all", memory={"max": "512Mi"}, cpu={"cpus": "0"}),
        web(quota="all", resources={"memory": {"max": "64Mi"}, "cpu": {"reservation": "100m"}}),
        server("web2", "/bin/sh", "-c", TICKER, quota="all", resources={"pids": {"max": 20}}),
        server("db1", quota="small", annotations={"vsprov/ignore": "pids.max"}),
        server("old", state="Stopped", resources={"rlimits": {"nofile": {"soft": 100, "hard": 200}}}),
    )
    yield shared_lab
