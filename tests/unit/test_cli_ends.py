"""How the program ends: exit codes, signals, output that nobody reads or that cannot be written."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.cli import CHECKOUT, SERVER, Cli, process
from vsprov import __version__
from vsprov.cli import app


def test_version_tells_the_version(capfd: pytest.CaptureFixture[str]) -> None:
    done = process("version")
    out, err = done.communicate()
    assert (done.returncode, err) == (0, "")
    assert re.fullmatch(rf"vsprov {re.escape(__version__)} \(Python 3\.\d+\.\d+, Linux [^ ]+, [^ ]+\)\n", out)


def test_a_fault_of_vsprov_is_one_line_and_70(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object, **named: object) -> None:
        raise RuntimeError("the first line\nand the second")

    monkeypatch.setattr(app, "program", fail)
    monkeypatch.delenv("VSPROV_DEBUG", raising=False)
    told = cli("plan", "x")
    assert (told.code, told.out) == (70, "")
    assert told.err.splitlines()[0] == "vsprov: internal error: RuntimeError: the first line and the second"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (MemoryError(), 1, "vsprov: out of memory"),
        (ImportError("x.so: failed to map segment from shared object"), 1, "vsprov: out of memory"),
    ],
)
def test_a_lack_of_memory_is_no_fault_of_vsprov(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, line: str
) -> None:
    def fail(*given: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(app, "program", fail)
    told = cli("plan", "x")
    assert (told.code, told.err.splitlines()[0]) == (code, line)


def test_sigterm_that_a_library_turns_into_its_own_error_still_ends_with_143(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object, **named: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            raise SystemError("returned a result with an exception set") from error

    monkeypatch.setattr(app, "program", fail)
    told = cli("plan", "x")
    assert (told.code, told.err) == (143, "vsprov: terminated\n")


def test_with_vsprov_debug_a_fault_shows_where_it_happened() -> None:
    words = "from vsprov.cli import app; app.program = None; raise SystemExit(app.run(['plan']))"
    done = subprocess.run(
        [sys.executable, "-c", words],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env={**os.environ, "VSPROV_DEBUG": "1"},
    )
    assert done.returncode == 70
    assert "Traceback (most recent call last)" in done.stderr


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_it_with_the_code_of_that_signal(number: signal.Signals, code: int, said: str) -> None:
    running = process("validate", "-")
    assert running.stdin and running.stderr
    try:
        deadline = time.monotonic() + 60
        while "pipe" not in _waits_in(running.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        running.send_signal(number)
        assert running.wait(60) == code
        assert running.stderr.read() == f"vsprov: {said}\n"
    finally:
        running.kill()
        running.communicate()


def _waits_in(pid: int) -> str:
    """Where in the kernel the process sleeps, as proc_pid_wchan(5) has it."""
    return Path(f"/proc/{pid}/wchan").read_text()


def test_it_ends_quietly_when_nobody_reads_its_output() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    running = process("schema", stdout=writer)
    os.close(writer)
    _, err = running.communicate()
    assert (running.returncode, err) == (141, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_an_error(unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        running = process("schema", stdout=full, env={"PYTHONUNBUFFERED": unbuffered})
        _, err = running.communicate()
    assert (running.returncode, err) == (1, "vsprov: write the output: No space left on device\n")


def test_it_works_with_standard_streams_closed() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -m vsprov schema <&- >&- 2>&-', sys.executable],
        cwd=CHECKOUT,
        check=False,
    )
    assert done.returncode == 0


def test_text_the_locale_cannot_write_is_spelt_out(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("apiVersion: vsprov/v1\nkind: Größe\n")
    running = process("validate", str(tmp_path / "m.yaml"), env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    _, err = running.communicate()
    assert running.returncode == 65
    assert "Gr\\xf6\\xdfe" in err


@pytest.mark.parametrize("words", ["version", "--instance vt-x version", "--help", "help plan", "schema"])
def test_output_of_any_command_that_cannot_be_written_is_an_error(words: str) -> None:
    with open("/dev/full", "w") as full:
        running = process(*words.split(), stdout=full)
        _, err = running.communicate()
    assert (running.returncode, err) == (1, "vsprov: write the output: No space left on device\n")


def test_the_exit_code_stays_when_standard_error_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("kind: Sever")
    with open("/dev/full", "w") as full:
        running = process("validate", str(tmp_path / "m.yaml"), stderr=full)
        out, _ = running.communicate()
    assert (running.returncode, out) == (65, "")


def test_closed_standard_streams_are_not_taken_by_the_files_that_are_opened_next() -> None:
    words = (
        "import os, sys; from vsprov import cli; cli.fill_standard_descriptors(); "
        "number = os.open('/dev/zero', os.O_RDONLY); "
        "names = [os.readlink(f'/proc/self/fd/{fd}') for fd in range(3)]; "
        "os._exit(number > 2 and names == ['/dev/null'] * 3 and os.get_inheritable(1))"
    )
    command = ["/bin/sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, words]
    assert subprocess.run(command, cwd=CHECKOUT).returncode == 1


@pytest.fixture
def removed_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()


def test_in_a_removed_directory_only_relative_paths_are_an_error(
    cli: Cli, removed_directory: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.yaml").write_text(SERVER)
    assert cli("validate", tmp_path / "m.yaml").out == "Valid: 1 server, 1 image.\n"
    for words in (("init", "x"), ("get", "--root", "x")):
        told = cli(*words)
        assert told.code == 64
        assert told.err == "vsprov: the current directory has been removed\n  hint: cd to another directory\n"
    monkeypatch.chdir(tmp_path)
