"""The standard streams of commands that join a running guest: pipes of their own, copied to and from ours."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.instance import CHECKOUT
from tests.kernel.guests import SECONDS
from tests.kernel.houses import House, join
from tests.kernel.test_enter import arrived
from tests.lab import wait_until

FLOOD = 3_000_000  # bytes, more than any pipe holds


def begin(house: House, script: str, **streams: Any) -> subprocess.Popen[str]:
    command = join(house.request("sh", "-c", script), "pipes")
    return subprocess.Popen(command, cwd=CHECKOUT, text=True, **streams)


@pytest.mark.vm_subset
@pytest.mark.parametrize("user", ["0:0", "33:33"])
def test_the_streams_can_be_opened_by_their_paths(house: House, user: str) -> None:
    script = "cat /dev/stdin; echo out > /dev/stdout; echo err > /dev/stderr"
    done = house.run("sh", "-c", script, input="in\n", user=user)
    assert (done.returncode, done.stdout, done.stderr) == (0, "in\nout\n", "err\n")


def test_output_and_error_that_are_one_file_keep_their_order(house: House) -> None:
    script = "for n in 1 2 3 4 5 6 7 8 9; do echo $n; echo $n >&2; done"
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with begin(house, script, stdin=subprocess.DEVNULL, **streams) as client:
        said, _ = client.communicate(timeout=SECONDS)
    assert said == "".join(f"{n}\n{n}\n" for n in range(1, 10))


@pytest.mark.parametrize("flags", [os.O_APPEND, os.O_NONBLOCK, 0])
def test_files_and_flags_of_the_caller_are_respected(house: House, flags: int, tmp_path: Path) -> None:
    given, taken = tmp_path / "given", tmp_path / "taken"
    given.write_bytes(os.urandom(FLOOD))
    taken.write_bytes(b"before")
    source = os.open(given, os.O_RDONLY | flags)
    target = os.open(taken, os.O_WRONLY | flags)
    os.lseek(target, 0, os.SEEK_END)
    with begin(house, "cat", stdin=source, stdout=target) as client:
        assert client.wait(SECONDS) == 0
    assert taken.read_bytes() == b"before" + given.read_bytes()
    assert [fcntl.fcntl(fd, fcntl.F_GETFL) & flags for fd in (source, target)] == [flags, flags]
    os.close(source)
    os.close(target)


def test_pipes_that_do_not_block_carry_everything_and_stay_so(house: House) -> None:
    """A pipe is shared with whoever else has it, so that its flags are not ours to change."""
    (source, feed), (drain, target) = os.pipe(), os.pipe()
    for fd in (source, target):
        os.set_blocking(fd, False)
    with begin(house, "cat", stdin=source, stdout=target) as client:
        assert [os.get_blocking(fd) for fd in (source, target)] == [False, False]
        os.close(source)
        os.close(target)
        writer = threading.Thread(target=write, args=[feed])
        writer.start()
        with open(drain, "rb") as reader:
            assert len(reader.read()) == FLOOD
        writer.join()
        assert client.wait(SECONDS) == 0


@pytest.mark.parametrize(("length", "size"), [(1000, 1 << 16), (FLOOD, 1 << 20)])
def test_only_a_long_stream_enlarges_the_pipes_of_the_caller(house: House, length: int, size: int) -> None:
    (source, feed), (drain, target) = os.pipe(), os.pipe()
    for fd in (source, target):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 1 << 16)
    with begin(house, f"head -c {length}", stdin=source, stdout=target) as client:
        os.close(target)
        writer = threading.Thread(target=write, args=[feed, length])
        writer.start()
        with open(drain, "rb") as reader:
            assert reader.read() == b"x" * length
            assert client.wait(SECONDS) == 0
            assert [fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) for fd in (source, drain)] == [size, size]
        writer.join()
    os.close(source)


def write(fd: int, length: int = FLOOD) -> None:
    with open(fd, "wb") as file:
        file.write(b"x" * length)


def test_a_reader_that_has_gone_ends_the_command_as_a_plain_pipe_does(house: House) -> None:
    with begin(house, "tr '\\0' x < /dev/zero", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as client:
        assert client.stdout and client.stdout.read(3) == "xxx"
        client.stdout.close()
        assert client.wait(SECONDS) == 128 + 13


def test_a_writer_learns_that_the_command_reads_no_more(house: House) -> None:
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with begin(house, "exec <&-; echo closed; cat /dev/stdin 2>&-; sleep 1000", **streams) as client:
        assert client.stdin and client.stdout and client.stdout.readline() == "closed\n"
        with pytest.raises(BrokenPipeError):
            while True:
                client.stdin.write("x" * 65536)
        client.terminate()


def test_a_reader_that_pauses_holds_up_no_other_stream(house: House) -> None:
    script = f"head -c {FLOOD} /dev/zero >&2 & echo out; exec >&-; wait"
    piped = subprocess.PIPE
    with begin(house, script, stdin=subprocess.DEVNULL, stdout=piped, stderr=piped) as client:
        assert client.stdout and client.stderr
        assert client.stdout.readline() == "out\n"
        assert len(client.stderr.read()) == FLOOD
        assert client.wait(SECONDS) == 0


def test_output_is_delivered_although_the_command_has_ended(house: House) -> None:
    """What is in the pipe when the command ends, also to a reader slower than any deadline."""
    script, piped = "head -c 1000000 /dev/zero; echo ended >&2", subprocess.PIPE
    with begin(house, script, stdin=subprocess.DEVNULL, stdout=piped, stderr=piped) as client:
        assert client.stdout and client.stderr and client.stderr.readline() == "ended\n"
        events = house.workshop.group(1) / "exec/cgroup.events"
        wait_until(lambda: "populated 0" in events.read_text())
        assert len(client.stdout.read()) == 1_000_000
        assert client.wait(SECONDS) == 0


def test_what_stays_behind_does_not_hold_the_caller(house: House) -> None:
    piped = subprocess.PIPE
    script = "sleep 1000 & echo $!; exec 2>&-; exit 4"
    with begin(house, script, stdin=piped, stdout=piped, stderr=piped) as client:
        said, _ = client.communicate(timeout=SECONDS)
        assert client.returncode == 4 and said.strip().isdigit()
    os.kill(arrived(house.workshop.group(1) / "exec", "sleep"), 9)


def test_what_stays_behind_and_writes_without_end_does_not_hold_the_caller(house: House) -> None:
    with begin(house, "tr '\\0' x < /dev/zero & exit 4", stdout=subprocess.DEVNULL) as client:
        assert client.wait(SECONDS) == 4


def test_input_ends_with_the_command_although_what_stays_behind_reads_on(house: House) -> None:
    with open("/dev/zero", "rb") as endless:
        script = "exec 3<&0; cat <&3 >&- & head -c 2000000 >/dev/null; exit 4"
        with begin(house, script, stdin=endless) as client:
            assert client.wait(SECONDS) == 4


def test_a_file_is_left_at_what_the_command_has_read(house: House, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_text("one\ntwo\nthree\n")
    with open(lines, "rb", buffering=0) as file:
        for expected in ("one\n", "two\n"):
            with begin(house, "read line; echo $line", stdin=file, stdout=subprocess.PIPE) as client:
                assert client.communicate(timeout=SECONDS)[0] == expected
        with begin(house, "exit 0", stdin=file) as client:
            assert client.wait(SECONDS) == 0
        assert file.read() == b"three\n"


def test_a_command_that_could_not_be_started_takes_no_input(house: House) -> None:
    (source, feed) = os.pipe()
    os.write(feed, b"in")
    with subprocess.Popen(join(house.request("nothing"), "pipes"), cwd=CHECKOUT, stdin=source) as client:
        assert client.wait(SECONDS) == 127
    assert os.read(source, 10) == b"in"
    os.close(source)
    os.close(feed)


def test_an_output_that_fails_is_named(house: House) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with begin(house, "echo lost", stdout=full, stderr=subprocess.PIPE) as client:
        _, said = client.communicate(timeout=SECONDS)
    os.close(full)
    assert (client.returncode, said) == (
        1,
        "refused 1: write standard output: No space left on device\n",
    )
