"""Both holders of the consoles of system servers are killed at once: the next command opens others."""

from __future__ import annotations

import os
import signal

import pytest

from tests.lab import Document, Lab, image, members, server, wait_for, wait_until

WRITES = "mkfifo /tmp/go 2>/dev/null; while :; do read line < /tmp/go && echo $line > /dev/console; done"
WIDE = {"COLUMNS": "300"}


def booting(name: str) -> Document:
    """A server whose init writes to its console what it is told."""
    document = server(name)
    document["spec"]["init"] = {"style": "sysv", "command": ["sh", "-c", WRITES]}
    return document


def tell(lab: Lab, name: str, line: str) -> None:
    fifo = lab.root(name) / "tmp/go"
    wait_until(fifo.exists)
    fifo.write_text(f"{line}\n")


def holders(lab: Lab) -> list[int]:
    return members(lab.group(".terminals"))


def kill_holders(lab: Lab) -> None:
    """Kill both, so that neither can replace the other."""
    wait_until(lambda: len(holders(lab)) == 2)
    found = holders(lab)
    pidfds = [os.pidfd_open(pid) for pid in found]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in found:
            os.kill(pid, number)
    for pidfd in pidfds:
        wait_for(pidfd)


def test_the_next_command_opens_another_console_and_doctor_names_the_servers_without(lab: Lab) -> None:
    documents = (image(), booting("a"), server("plain"))
    lab.apply(*documents)
    tell(lab, "a", "one")
    wait_until(lambda: lab.console("a") == "one\n")
    before = lab.inits("a", "plain")
    kill_holders(lab)
    assert "hung up: a " in lab.vsprov("doctor", env=WIDE).stdout
    said = lab.apply(*documents).stderr
    assert "Server/a: its console had hung up and is a new one" in said
    assert "hung up" not in lab.vsprov("doctor", env=WIDE).stdout
    assert len(holders(lab)) == 2
    tell(lab, "a", "two")
    wait_until(lambda: lab.console("a") == "one\ntwo\n")
    assert lab.inits("a", "plain") == before and lab.is_settled(*documents)
    assert "hung up" not in lab.apply(*documents).stderr
    root = lab.run("a", "stat", "-c", "%u %F", "/dev/console").stdout
    assert root == "0 character special file\n"
    kill_holders(lab)  # again
    lab.apply(*documents)
    tell(lab, "a", "three")
    wait_until(lambda: lab.console("a") == "one\ntwo\nthree\n")


def test_a_holder_that_was_started_for_another_server_does_not_hide_what_is_lost(lab: Lab) -> None:
    lab.apply(image(), booting("a"))
    kill_holders(lab)
    lab.apply(image(), booting("a"), booting("b"))
    for name in ("a", "b"):
        tell(lab, name, "here")
        wait_until(lambda name=name: lab.console(name) == "here\n")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("umount /dev/console && rm /dev/console", "/dev/console: No such file or directory"),
        ("mount --bind /dev/null /dev/pts/ptmx", "/dev/pts/ptmx: not the pty multiplexer"),
        ("mount -t tmpfs tmpfs /dev/pts && ln -s /dev/ptmx /dev/pts", "/dev/pts/ptmx: Too many levels"),
    ],
)
def test_a_server_that_has_no_place_for_another_console_runs_on(lab: Lab, script: str, why: str) -> None:
    documents = (image(), booting("a"), server("b"))
    lab.apply(*documents)
    init = lab.init("a")
    lab.shell("a", script)
    kill_holders(lab)
    assert f"Server/a: its console is lost until it restarts: {why}" in lab.apply(*documents).stderr
    assert lab.init("a") == init
    lab.vsprov("restart", "a")
    tell(lab, "a", "here")
    wait_until(lambda: lab.console("a") == "here\n")
