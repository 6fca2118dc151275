"""Copying from a terminal to a FIFO."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from marshal import dumps, loads
from pathlib import Path

import pytest

from tests.lab import hierarchy, members, status, wait_for, wait_until
from tests.leaks import descriptors
from vsprov.engine.run import keeper
from vsprov.keeper.terminals import MISSING, Terminal


@dataclass(frozen=True, slots=True)
class Pair:
    terminal: Terminal
    slave: int
    reader: int

    def read(self) -> bytes:
        """What has come through."""
        return read(self.reader)


@pytest.fixture
def pair() -> Iterator[Pair]:
    master, slave = pty.openpty()
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    terminal = Terminal("a", master, writer, os.pidfd_open(os.getpid()))
    yield Pair(terminal, slave, reader)
    terminal.close()
    os.close(reader)
    os.close(slave)


def test_lines_lose_the_carriage_returns_of_the_terminal_and_keep_those_within(pair: Pair) -> None:
    os.write(pair.slave, b"one\ntwo\rthree\n")
    assert not pair.terminal.copy()
    assert pair.read() == b"one\ntwo\rthree\n"


def test_a_line_end_that_comes_in_two_parts_is_one(pair: Pair) -> None:
    for part in (b"one\r", b"\ntwo\r", b"three\r", b"\r\n"):
        pair.terminal.write(part)
    assert pair.read() == b"one\ntwo\rthree\r\n"


def test_output_without_room_is_dropped_and_never_waits(pair: Pair) -> None:
    for _ in range(1 << 10):
        pair.terminal.write(b"x" * 1024)
    first = pair.read()
    assert first.strip(b"x") == b"" and len(first) < 1 << 20
    pair.terminal.write(b"after\n")
    assert pair.read() == MISSING + b"after\n"


def test_a_terminal_that_no_process_has_open_is_not_at_its_end(pair: Pair) -> None:
    name = os.ttyname(pair.slave)
    os.close(pair.slave)
    assert not pair.terminal.copy()
    again = os.open(name, os.O_RDWR | os.O_NOCTTY)
    if again != pair.slave:
        os.dup2(again, pair.slave)  # for the fixture to close
        os.close(again)
    os.write(pair.slave, b"again\n")
    assert not pair.terminal.copy()
    assert pair.read() == b"again\n"


class Holder:
    """A holder of terminals, and connections to it."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "socket")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.path)
        self.listener.listen()
        self.first, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fds = (self.listener.fileno(), theirs.fileno())
        words = [sys.executable, "-I", "-S", "-B", keeper.PROGRAM, "a", "/", *map(str, fds), "terminals"]
        subprocess.run(words, pass_fds=fds, check=True)
        theirs.close()
        self.pid: int = loads(self.first.recv(4096))["pid"]

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.connect(self.path)
        loads(client.recv(4096))
        return client

    def fds(self) -> dict[int, str]:
        """What it has open."""
        return descriptors(self.pid)


@dataclass(frozen=True, slots=True)
class Server:
    """A console with a process that stands for an init; only the holder has its master."""

    init: subprocess.Popen[bytes]
    slave: int
    output: int
    rights: list[int]

    def hold(self, client: socket.socket) -> None:
        """Have its terminal held, without waiting for the answer."""
        name = f"{self.init.pid} 1"
        socket.send_fds(client, [dumps({"cmd": "hold", "name": name})], self.rights)
        while self.rights:
            os.close(self.rights.pop())


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    found = Holder(tmp_path)
    pidfd = os.pidfd_open(found.pid)
    yield found
    found.first.close()
    found.listener.close()
    wait_for(pidfd)


@pytest.fixture
def server(holder: Holder) -> Iterator[Callable[[], Server]]:
    made: list[Server] = []

    def make() -> Server:
        init = subprocess.Popen(["sleep", "infinity"])
        master, slave = pty.openpty()
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        made.append(Server(init, slave, reader, [master, writer, os.pidfd_open(init.pid)]))
        return made[-1]

    yield make
    for one in made:
        one.init.kill()
        one.init.wait()
        for fd in (one.slave, one.output, *one.rights):
            os.close(fd)


def test_the_end_of_a_server_ends_no_other_whose_descriptor_gets_its_number(
    holder: Holder, server: Callable[[], Server]
) -> None:
    """All that happens while the holder does not run is one batch of events, in this order."""
    spare = [holder.connect() for _ in range(2)]
    first, second = server(), server()
    first.hold(holder.first)
    assert loads(holder.first.recv(4096)) == {"event": "held"}
    for client in spare:
        client.close()
    wait_until(lambda: sum("socket" in each for each in holder.fds().values()) <= 3)
    (master,) = (fd for fd, path in holder.fds().items() if path == "/dev/ptmx")
    assert len([fd for fd in range(3, master) if fd not in holder.fds()]) == 2

    os.kill(holder.pid, signal.SIGSTOP)
    wait_until(lambda: status(holder.pid, "State").startswith("T"))
    first.init.kill()
    first.init.wait()
    second.hold(holder.first)
    os.write(first.slave, b"last words\n")
    os.kill(holder.pid, signal.SIGCONT)

    assert loads(holder.first.recv(4096)) == {"event": "held"}
    holder.connect().close()  # which it greets after the batch
    os.write(second.slave, b"it lives\n")
    wait_until(lambda: read(second.output) == b"it lives\n")


def test_a_holder_that_cannot_fork_goes_on_without_a_twin_and_makes_one_later(
    holder: Holder, server: Callable[[], Server], few: Path
) -> None:
    one = server()
    one.hold(holder.first)
    assert loads(holder.first.recv(4096)) == {"event": "held"}
    (twin,) = children(holder.pid)
    (few / "cgroup.procs").write_text(str(holder.pid))
    (few / "pids.max").write_text("1")
    pidfd = os.pidfd_open(twin)
    os.kill(twin, signal.SIGKILL)
    wait_for(pidfd)
    os.write(one.slave, b"it lives\n")
    wait_until(lambda: read(one.output) == b"it lives\n")
    assert children(holder.pid) == []
    (few / "pids.max").write_text("max")
    wait_until(lambda: len(children(holder.pid)) == 1)


@pytest.fixture
def few(holder: Holder, tmp_path: Path) -> Iterator[Path]:
    """A control group whose number of processes can be limited; at the end, the holder leaves it."""
    group = hierarchy("pids") / f"vt-{tmp_path.name}"
    group.mkdir()
    yield group
    (group / "pids.max").write_text("max")
    for pid in members(group):
        (group.parent / "cgroup.procs").write_text(str(pid))
    wait_until(lambda: (group / "pids.current").read_text().strip() == "0")
    group.rmdir()


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def read(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 20)
    except BlockingIOError:
        return b""
