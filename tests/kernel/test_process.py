"""Processes of guests as the host finds, limits and ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from tests.kernel.guests import SECONDS
from tests.kernel.houses import House
from vsprov.kernel import process


def test_pid_and_start_time_are_of_one_process_only(house: House) -> None:
    who = house.guest
    assert process.start_time(who.pid) == who.start
    assert process.open_pidfd(who.pid, who.start + 1) is None
    fd = process.open_pidfd(who.pid, who.start)
    assert fd is not None
    try:
        assert process.find_init([os.getpid(), who.pid]) == who.pid
        assert process.find_init([os.getpid()]) is None
        assert not process.receives(who.pid, signal.SIGTERM)
        assert process.send_signal(fd, signal.SIGKILL)
        house.workshop.wait(house.guest.number, "exited")
        assert not process.send_signal(fd, signal.SIGKILL)
        how = process.exit_info(fd, who.pid, who.start)
        assert how in (None, process.ExitInfo(None, signal.SIGKILL))  # None before Linux 6.15
    finally:
        os.close(fd)
    assert process.start_time(who.pid) is None
    assert process.limits(who.pid) == {}


@pytest.mark.parametrize("ending", ["exit 3", "kill -TERM $$"])
def test_how_a_process_ended_is_seen_while_it_is_a_zombie(ending: str) -> None:
    child = subprocess.Popen(["sh", "-c", f"read line; {ending}"], stdin=subprocess.PIPE)
    start = process.start_time(child.pid)
    assert start and child.stdin
    fd = os.pidfd_open(child.pid)
    try:
        assert process.exit_info(fd, child.pid, start) is None
        child.stdin.close()
        os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOWAIT)
        wanted = process.ExitInfo(3, None) if "3" in ending else process.ExitInfo(None, signal.SIGTERM)
        assert process.exit_info(fd, child.pid, start) == wanted
        assert process.exit_info(fd, child.pid, start + 1) is None
    finally:
        child.wait()
        os.close(fd)


def test_a_limit_of_a_running_process_is_set_and_read(house: House) -> None:
    process.set_limit(house.guest.pid, "nofile", 50, 60)
    process.set_limit(
        house.guest.pid, "core", 0, -1 if process.limits(house.guest.pid)["core"][1] == -1 else 0
    )
    limits = process.limits(house.guest.pid)
    assert limits["nofile"] == (50, 60)
    assert limits["core"][0] == 0
    assert list(limits) == list(process.LIMITS)


def test_a_handler_is_seen(house: House) -> None:
    spawned = house.workshop.request("sh", "-c", "trap 'exit 0' TERM; echo set; while :; do sleep 1; done")
    guest = house.workshop.run(spawned)
    deadline = time.monotonic() + SECONDS
    while house.workshop.output() != "set\n" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.receives(guest.pid, signal.SIGTERM)
    assert not process.receives(guest.pid, signal.SIGUSR1)
