"""Commands that join a running guest from a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.instance import CHECKOUT
from tests.kernel.guests import KEPT, SECONDS, open_workshop
from tests.kernel.houses import House, join


@dataclass(slots=True)
class Screen:
    """A terminal whose user is the test; the client runs on its other side."""

    master: int
    client: subprocess.Popen[bytes]
    shown: str = ""

    def until(self, text: str) -> None:
        """Wait until the screen has shown the text."""
        deadline = time.monotonic() + SECONDS
        while text not in self.shown:
            assert select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))[0], self.shown
            self.shown += os.read(self.master, 65536).decode()

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())


@pytest.fixture
def screens() -> Iterator[list[int]]:
    fds: list[int] = []
    yield fds
    for fd in fds:
        os.close(fd)


def open_screen(house: House, screens: list[int], *argv: str, **changes: Any) -> Screen:
    master, slave = pty.openpty()
    screens += [master, slave]
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 33, 77, 0, 0))
    client = subprocess.Popen(
        join(house.request(*argv, **changes), "tty"), cwd=CHECKOUT, stdin=slave, stdout=slave, stderr=slave
    )
    return Screen(master, client)


@pytest.mark.vm_subset
def test_a_terminal_is_the_guests_own_and_has_our_size(house: House, screens: list[int]) -> None:
    screen = open_screen(
        house, screens, "sh", "-c", "tty; stty size; stat -c %u $(tty); : > /dev/tty; exit 4"
    )
    assert screen.client.wait(SECONDS) == 4
    screen.until("33 77\r\n0\r\n")
    assert screen.shown == "/dev/pts/0\r\n33 77\r\n0\r\n"


def test_the_terminal_belongs_to_the_user_of_the_command(house: House, screens: list[int]) -> None:
    script = "stat -c %u $(tty); echo again > $(tty)"
    screen = open_screen(house, screens, "sh", "-c", script, user="app")
    assert screen.client.wait(SECONDS) == 0
    screen.until("again\r\n")
    assert screen.shown == "1000\r\nagain\r\n"


def test_typing_reaches_the_command_and_interrupts_it(house: House, screens: list[int]) -> None:
    screen = open_screen(house, screens, "sh", "-c", "read line; echo got $line; sleep 1000")
    screen.type("hello\n")
    screen.until("got hello\r\n")
    screen.type("\x03")
    assert screen.client.wait(SECONDS) == 128 + signal.SIGINT


def test_a_change_of_size_is_passed_on(house: House, screens: list[int]) -> None:
    script = "trap 'stty size; exit 0' WINCH; echo waiting; while :; do sleep 0.05; done"
    screen = open_screen(house, screens, "sh", "-c", script)
    screen.until("waiting\r\n")
    fcntl.ioctl(screen.master, termios.TIOCSWINSZ, struct.pack("4H", 11, 22, 0, 0))
    screen.client.send_signal(signal.SIGWINCH)  # the test's terminal controls no session that would be told
    screen.until("11 22\r\n")
    assert screen.client.wait(SECONDS) == 0


@pytest.mark.parametrize("ending", ["exit", "signal", "refused"])
def test_our_terminal_is_afterwards_what_it_was(house: House, screens: list[int], ending: str) -> None:
    script = "echo waiting; sleep 1000" if ending == "signal" else "exit 0"
    argv = ("none",) if ending == "refused" else ("sh", "-c", script)
    master, slave = pty.openpty()
    screens += [master, slave]
    before = termios.tcgetattr(slave)
    with subprocess.Popen(
        join(house.request(*argv), "tty"), cwd=CHECKOUT, stdin=slave, stdout=slave, stderr=slave
    ) as client:
        if ending == "signal":
            Screen(master, client).until("waiting")
            assert termios.tcgetattr(slave) != before
            client.terminate()
        assert client.wait(SECONDS) == {"exit": 0, "signal": 143, "refused": 127}[ending]
    assert termios.tcgetattr(slave) == before


def test_a_terminal_is_given_though_our_input_is_none(house: House) -> None:
    done = subprocess.run(
        join(house.request("sh", "-c", "tty; cat"), "tty"),
        cwd=CHECKOUT,
        input=b"typed\n",
        capture_output=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    # What the terminal echoes may come before the command has written its first line.
    assert sorted(done.stdout.split()) == [b"/dev/pts/0", b"typed", b"typed"]


def test_much_output_arrives_whole(house: House) -> None:
    done = subprocess.run(
        join(house.request("sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x"), "tty"),
        cwd=CHECKOUT,
        input=b"",
        capture_output=True,
        timeout=SECONDS,
    )
    assert done.stdout.replace(b"^D\b\b", b"") == b"x" * 1_000_000


@pytest.mark.parametrize("kind", ["file", "link", "fifo"])
def test_a_multiplexer_replaced_by_the_guest_is_refused(kind: str) -> None:
    make = {"file": "echo trap > ptmx", "link": "ln -s /etc/probe ptmx", "fifo": "mkfifo ptmx"}[kind]
    with open_workshop() as workshop:
        (workshop.image / "bin/mkfifo").symlink_to("busybox")
        script = f"mount -t tmpfs none /dev/pts; cd /dev/pts; {make}; echo made; exec sleep 1000"
        spawned = workshop.request("sh", "-euc", script, capabilities=[*KEPT, 21])
        house = House(workshop, workshop.run(spawned), spawned)
        deadline = time.monotonic() + SECONDS
        while workshop.output() != "made\n" and time.monotonic() < deadline:
            time.sleep(0.01)
        done = subprocess.run(
            join(house.request("true"), "tty"),
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("refused 1: terminal: /dev/pts/ptmx: ")
