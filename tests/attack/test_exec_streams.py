"""What a server can do with the terminal of whoever runs exec in it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from itertools import product

import pytest

from tests.attack.conftest import Field
from tests.lab import wait_until
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
