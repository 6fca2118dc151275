"""cp, export: one end of a copy fails."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.lab import Lab, image, server

HOST = image()


def test_the_end_that_fails_first_says_why(lab: Lab, tmp_path: Path) -> None:
    """What the other one says, that nobody reads what it sends, would not help."""
    lab.apply(HOST, server("web1"))
    script = """
import os
os.mkdir("/srv/deep"); os.chdir("/srv/deep")
open("later", "wb").write(b"x" * (4 << 20))
for _ in range(17): os.mkdir("d" * 250); os.chdir("d" * 250)
"""
    lab.run("web1", "python3", "-c", script)
    done = lab.vsprov("cp", "web1:/srv/deep", tmp_path / "deep", check=False)
    assert done.returncode == 1 and os.listdir(tmp_path) == []
    assert "lies too deep: at most 256 levels and 4095 bytes are allowed" in done.stderr


def test_whoever_reads_the_archive_may_stop(lab: Lab) -> None:
    lab.apply(HOST, server("web1"))
    lab.shell("web1", "truncate -s 4M /srv/unread")
    command = lab.vsprov.command("cp", "web1:/srv/unread", "-")
    with subprocess.Popen(
        command, env=lab.vsprov.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        assert running.stdout.read(512)
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("cp", "web1:/etc/hostname", "-"), "Server/web1: write the archive: No space left on device"),
        (
            ("export", "web1"),
            "-: write the export: No space left on device\n  hint: free some space on /dev (",
        ),
    ],
)
def test_an_archive_that_does_not_fit_is_no_error_of_what_is_in_it(
    lab: Lab, words: tuple[str, ...], message: str
) -> None:
    lab.apply(HOST, server("web1"))
    with open("/dev/full", "wb") as full:
        command = lab.vsprov.command(*words)
        done = subprocess.run(command, env=lab.vsprov.environment, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1 and message in done.stderr.decode()
