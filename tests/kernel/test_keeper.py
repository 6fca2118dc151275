"""Parts of the keeper, in this process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.features import requires
from vsprov.keeper import ends
from vsprov.keeper.connector import Exits

pytestmark = pytest.mark.kernel


def child(code: int) -> int:
    """A child that ends with a code once it gets SIGCONT; the caller waits for it."""
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(code)
    os.waitpid(pid, os.WUNTRACED)
    return pid


@pytest.fixture
def exits() -> Iterator[Exits]:
    requires("root")
    found = Exits()
    yield found
    found.close()


def test_the_connector_tells_of_watched_processes_alone(exits: Exits) -> None:
    others, watched = child(1), child(3)
    exits.watch((watched,))
    for pid in (others, watched):
        os.kill(pid, signal.SIGCONT)
        os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(exits.take(watched) or 0) == 3
    assert exits.take(others) is None


def test_the_connector_tells_of_signals(exits: Exits) -> None:
    pids = tuple(child(0) for _ in range(300))  # more than one jump of a filter can pass
    exits.watch(pids)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert {os.waitstatus_to_exitcode(exits.take(pid) or 0) for pid in pids} == {-9}


def test_the_connector_tells_of_more_processes_than_a_filter_can_name(exits: Exits) -> None:
    """4096 instructions, BPF_MAXINSNS."""
    others, watched = child(1), child(3)
    absent = range(1 << 23, (1 << 23) + 2100)  # above any pid_max
    exits.watch((*absent, watched))
    for pid in (others, watched):
        os.kill(pid, signal.SIGCONT)
        os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(exits.take(watched) or 0) == 3
    assert exits.take(others) is None


def test_the_status_is_known_before_and_after_the_wait() -> None:
    pid = child(7)
    pidfd = os.pidfd_open(pid)
    start = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    os.kill(pid, signal.SIGCONT)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ends.status(pidfd, pid, start) == 7 << 8
    os.waitpid(pid, 0)
    assert ends.status(pidfd, pid, start) == (7 << 8 if ends.pidfds_keep_status() else None)
    os.close(pidfd)
