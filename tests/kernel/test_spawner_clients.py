"""A spawner with several clients: each has its own guests, and takes only those along when it goes."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.instance import CHECKOUT
from tests.kernel.guests import SECONDS, Workshop, bind, ended, members
from tests.lab import wait_until
from tests.silent_fuse import silent_fuse
from vsprov.engine.run.spawn import Connection
from vsprov.guest.sys_calls import raw_syscall
from vsprov.kernel import process

KCMP = {"x86_64": 312, "aarch64": 272}[os.uname().machine]
KCMP_VM = 1
SERVE = """
import os, sys
from _socket import AF_UNIX, SOCK_STREAM, socket
sys.path.insert(0, sys.argv[1])
from guest.child.program import CHANNEL, REAPER
from guest.spawner import absent
from guest.spawner.loop import Loop
for reserved in (CHANNEL, REAPER):
    os.dup2(0, reserved, False)
absent.SECONDS_TO_ANSWER = 0.5
loop = Loop(in_python=False, share_memory=False)
for number in sys.argv[2:]:
    loop.add_client(socket(AF_UNIX, SOCK_STREAM, 0, int(number)))
loop.serve()
"""


@contextmanager
def clients(count: int) -> Iterator[tuple[subprocess.Popen[bytes], list[Connection]]]:
    """A spawner and connections to it."""
    pairs = [socket.socketpair() for _ in range(count)]
    high = [fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 50) for _ours, theirs in pairs]
    program = [sys.executable, "-I", "-S", "-c", SERVE, str(CHECKOUT / "vsprov"), *map(str, high)]
    with subprocess.Popen(program, stdin=subprocess.DEVNULL, pass_fds=high) as spawner:
        for fd in high:
            os.close(fd)
        for _ours, theirs in pairs:
            theirs.close()
        connections = [Connection(ours) for ours, _theirs in pairs]
        try:
            yield spawner, connections
        finally:
            for connection in connections:
                connection.close()
            try:
                spawner.wait(SECONDS)
            finally:
                spawner.kill()  # does nothing when it has ended


@contextmanager
def client(workshop: Workshop, connection: Connection) -> Iterator[Workshop]:
    """The workshop as this client; ids of guests are each client's own."""
    kept = workshop.spawner, workshop.seen
    workshop.spawner, workshop.seen = connection, []  # type: ignore[assignment]
    try:
        yield workshop
    finally:
        workshop.spawner, workshop.seen = kept


def stays(workshop: Workshop, text: str) -> dict[str, Any]:
    """A request for a guest that writes a text and stays."""
    return workshop.request("sh", "-c", f"echo {text}; exec sleep 1000")


def said(workshop: Workshop, number: int) -> str:
    return workshop.output(number)


def test_a_client_takes_its_waiting_guests_along_and_no_others(workshop: Workshop) -> None:
    with clients(2) as (spawner, (one, two)):
        with client(workshop, one):
            runs = workshop.run(stays(workshop, "first"))
            waits = workshop.ready(stays(workshop, "second"))
        with client(workshop, two):
            others = workshop.ready(stays(workshop, "third"))
            assert others.number == runs.number == 1
            # Not even a guest at its gate shares the memory of a spawner that may live long.
            assert raw_syscall(KCMP, spawner.pid, others.pid, KCMP_VM, 0, 0, 0) != 0
            one.close()
            assert ended(waits.pid)
            assert process.start_time(runs.pid) == runs.start
            assert spawner.poll() is None
            two.release(others.number)
            workshop.wait(others.number, "running")
            last = workshop.run(stays(workshop, "fourth"))
            os.kill(last.pid, signal.SIGKILL)
            assert workshop.wait(last.number, "exited")["signal"] == signal.SIGKILL
        two.close()
        assert spawner.wait(SECONDS) == 0
    assert process.start_time(others.pid) == others.start
    assert said(workshop, 2) == ""
    assert members(workshop.group(2) / "payload") == []


def test_a_client_that_reads_nothing_delays_no_other(workshop: Workshop) -> None:
    with clients(2) as (_spawner, (deaf, other)):
        with client(workshop, deaf):
            request = workshop.request("true")
        del request["root"]
        for _ in range(3000):
            deaf.request(request)  # type: ignore[arg-type]
        with client(workshop, other):
            guest = workshop.run(stays(workshop, "here"))
            assert process.start_time(guest.pid) == guest.start
        # Nothing was lost of what it had not read.
        deadline, count = time.monotonic() + SECONDS, 0
        while count < 3000:
            assert select.select([deaf], [], [], max(0.0, deadline - time.monotonic()))[0]
            events = deaf.events()
            assert all(event["event"] == "failed" for event in events)
            count += len(events)


def test_a_client_that_dies_with_guests_in_the_making_leaves_none(workshop: Workshop) -> None:
    with clients(2) as (spawner, (hasty, other)):
        with client(workshop, hasty):
            for _ in range(10):
                hasty.request(stays(workshop, "never"))  # type: ignore[arg-type]
        hasty.close()
        with client(workshop, other):
            guest = workshop.run(stays(workshop, "here"))
        wait_until(lambda: not any(members(workshop.group(n) / "payload") for n in range(1, 11)))
        assert process.start_time(guest.pid) == guest.start
        assert spawner.poll() is None
    assert [said(workshop, number) for number in range(1, 11) if log(workshop, number)] == []


def log(workshop: Workshop, number: int) -> bool:
    """Whether a guest has written anything."""
    return workshop.output(number) != ""


@pytest.mark.requires("fuse")
def test_a_path_on_a_file_system_that_does_not_answer_is_given_up_and_delays_no_other(
    workshop: Workshop,
) -> None:
    """The link leads to the file system, where the spawner looks for what the guest has not found there."""
    (workshop.image / "link").symlink_to("/srv/missing")
    with silent_fuse(workshop.folder / "remote", lookups=2) as remote, clients(2) as (_spawner, (one, two)):
        mounts = [bind(remote.point, "/srv"), {"type": "tmpfs", "target": "/link"}]
        with client(workshop, one):
            stuck = one.request(workshop.request("true", mounts=mounts))  # type: ignore[arg-type]
            assert remote.asked.wait(SECONDS)
        with client(workshop, two):
            workshop.run(stays(workshop, "here"))
        with client(workshop, one):
            event = workshop.wait(stuck, "failed")
        assert (event["step"], event["errno"]) == ("mount /link", errno.ETIMEDOUT)
        assert (event["path"], event["message"]) == ("/link", "its file system did not answer within 0.5 s")
        one.close()
        two.close()
