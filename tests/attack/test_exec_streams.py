"""What a server can do with the terminal of whoever runs exec in it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from itertools import product
from pathlib import Path

import pytest

from tests.attack.conftest import Field
from tests.lab import wait_until
from vsprov.engine.guests.commands import relay
from vsprov.kernel import cgroup

# Leaves three readers behind, one for each stream, and says what the streams are.
STAY = """
exec 3<&0 4<&1 5<&2
trap '' HUP TERM
for fd in 3 4 5; do
  readlink /proc/$$/fd/$fd >> /tmp/streams
  (cat <&$fd > /tmp/read$fd 2>/dev/null; sleep 1000) &
done
"""
TYPED = b"password\n"


@pytest.mark.parametrize("terminals", [each for each in product((False, True), repeat=3) if any(each)])
def test_what_stays_behind_after_exec_reads_nothing_from_the_terminal(
    field: Field, terminals: tuple[bool, bool, bool]
) -> None:
    """In each combination of standard input, output and error that are the caller's terminal."""
    field.shell("weak", "rm -f /tmp/streams /tmp/read*")
    master, slave = pty.openpty()
    null = os.open("/dev/null", os.O_RDWR)
    stdin, stdout, stderr = (slave if each else null for each in terminals)
    command = field.lab.vsprov.command("exec", "weak", "--", "sh", "-c", STAY)
    try:
        subprocess.run(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=field.lab.vsprov.environment,
            start_new_session=True,
            timeout=60,
            check=True,
        )
        wait_until(lambda: field.shell("weak", "ls /tmp/read*").count("read") == 3)
        os.write(master, TYPED)
        assert os.read(slave, 100) == TYPED
        assert field.shell("weak", "cat /tmp/read3 /tmp/read4 /tmp/read5") == ""
        streams = field.shell("weak", "cat /tmp/streams").splitlines()
        if terminals[0] and terminals[1]:
            assert streams == ["/dev/pts/0"] * 3  # of the server's own devpts
        else:
            assert [stream.partition(":")[0] for stream in streams] == ["pipe"] * 3
    finally:
        for pid in cgroup.processes(str(field.lab.group("weak") / "exec")):
            os.kill(pid, signal.SIGKILL)
        for fd in (master, slave, null):
            os.close(fd)


# Writes to its own standard input, which is a pipe: after it has read a byte, as much as the pipe holds.
REFILL = """
import os
end = os.open("/proc/self/fd/0", os.O_WRONLY | os.O_NONBLOCK)
os.read(0, 1)
try:
    while True:
        os.write(end, bytes(4096))
except BlockingIOError:
    pass
"""


def test_a_command_moves_the_offset_of_the_callers_file_to_nothing_it_was_not_given(
    field: Field, tmp_path: Path
) -> None:
    (tmp_path / "list").write_bytes(b"before\nline\n")
    fd = os.open(tmp_path / "list", os.O_RDONLY)
    try:
        os.lseek(fd, 7, os.SEEK_SET)
        command = field.lab.vsprov.command("exec", "weak", "--", "python3", "-c", REFILL)
        environment = field.lab.vsprov.environment
        done = subprocess.run(command, stdin=fd, capture_output=True, env=environment, timeout=60, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert os.lseek(fd, 0, os.SEEK_CUR) == 7
    finally:
        os.close(fd)


def test_output_that_a_process_in_the_server_takes_back_holds_up_nothing(tmp_path: Path) -> None:
    """It owns the pipe, may open it for reading, and can be faster than we are after poll(2)."""
    read_end, write_end = os.pipe()
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)  # no target of splice(2)
    stop = relay._Stop()
    copy = relay._Output(read_end, log, stop)
    try:
        assert [copy.move(), copy.move()] == [-1, -1]
        os.write(write_end, bytes(1 << 15))
        stop.give()
        assert copy._wait() and copy.left == 1 << 15
        os.read(read_end, 1 << 15)
        os.write(write_end, b"x")
        assert copy._wait() and copy.left == 1
    finally:
        for fd in (read_end, write_end, log, stop.fd):
            os.close(fd)
