"""The log that the keeper writes, in this process: files of limited size, and times."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.features import requires
from vsprov.keeper.subjects import log as module
from vsprov.keeper.subjects.log import RECORD, RUN, Log

pytestmark = pytest.mark.kernel

SIZE = 1 << 16


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def contents(path: Path) -> dict[str, bytes]:
    """The files of the log, the oldest first."""
    names = os.listdir(path)
    full = [f"console.log.{number}" for number in module.numbers(names, "console.log")]
    return {name: (path / name).read_bytes() for name in [*full, "console.log"] if name in names}


def records(path: Path, number: int) -> list[tuple[int, int]]:
    return list(RECORD.iter_unpack((path / f"console.times.{number}").read_bytes()))


def append(log: Log, data: bytes) -> None:
    log.append(data, len(data))


def test_full_files_are_put_aside_at_the_end_of_a_line_and_the_oldest_is_removed(
    folder: int, tmp_path: Path
) -> None:
    log = Log(folder, SIZE, 3)
    written = b""
    numbers = iter(range(10**9))
    random.seed(1)
    while len(written) < 5 * SIZE:
        part = b"".join(b"line %d\n" % next(numbers) for _ in range(random.randrange(20000)))
        part += b"line "  # the next part continues it
        append(log, part)
        written += part
    log.close()
    found = contents(tmp_path)
    assert len(found) == 3
    assert written.endswith(b"".join(found.values()))
    assert [text[:5] for text in found.values()] == [b"line "] * 3
    for name, text in found.items():
        times = module.next_number(os.listdir(tmp_path)) if name == "console.log" else int(name[12:])
        size = len(text) + (tmp_path / f"console.times.{times}").stat().st_size
        assert size <= SIZE and (name == "console.log" or size > SIZE - 100)
    assert len(os.listdir(tmp_path)) == 6


@pytest.mark.parametrize("size", [1, SIZE // 2 + 1, 10 * SIZE])
def test_a_line_longer_than_a_file_is_split_and_nothing_of_it_is_lost(
    folder: int, tmp_path: Path, size: int
) -> None:
    log = Log(folder, SIZE, 100)
    append(log, b"short\n" + b"x" * size)
    append(log, b"x\nend\n")
    log.close()
    assert b"".join(contents(tmp_path).values()) == b"short\n" + b"x" * (size + 1) + b"\nend\n"


def test_with_one_file_a_full_log_begins_again(folder: int, tmp_path: Path) -> None:
    log = Log(folder, SIZE, 1)
    for number in range(10):
        append(log, b"%d\n" % number * (SIZE // 4))
    log.close()
    (text,) = contents(tmp_path).values()
    assert text and set(text.split()) == {b"9"}
    assert len(os.listdir(tmp_path)) == 2


def test_with_fewer_files_the_oldest_are_removed_at_once(folder: int, tmp_path: Path) -> None:
    log = Log(folder, SIZE, 5)
    for number in range(40):
        append(log, b"%d\n" % number * (SIZE // 8))
    full = list(contents(tmp_path))
    assert len(full) == 5 and len(os.listdir(tmp_path)) == 10
    log.limit(SIZE * 2, 2)
    assert list(contents(tmp_path)) == full[-2:] and len(os.listdir(tmp_path)) == 4
    append(log, b"x\n" * (SIZE // 4))
    log.close()
    assert list(contents(tmp_path)) == full[-2:]


def test_another_keeper_goes_on_where_one_was_killed_after_the_file_was_put_aside(
    folder: int, tmp_path: Path
) -> None:
    log = Log(folder, SIZE, 3)
    append(log, b"one\n")
    log.close()
    os.rename(tmp_path / "console.log", tmp_path / "console.log.1")
    log = Log(folder, SIZE, 3)
    with pytest.raises(FileNotFoundError):
        log.open()
    append(log, b"two\n")
    log.close()
    assert contents(tmp_path) == {"console.log.1": b"one\n", "console.log": b"two\n"}
    assert [len(records(tmp_path, number)) for number in (1, 2)] == [1, 1]


def test_what_was_removed_by_hand_leaves_no_times_for_the_next_file(folder: int, tmp_path: Path) -> None:
    log = Log(folder, SIZE, 3)
    append(log, b"one\n")
    log.close()
    (tmp_path / "console.log").unlink()
    (tmp_path / "console.times.1").write_bytes(RECORD.pack(0, 5) + RECORD.pack(3, 6) + b"torn")
    log = Log(folder, SIZE, 3)
    append(log, b"two\n")
    log.close()
    ((offset, stamp),) = records(tmp_path, 1)
    assert offset == 0 and stamp > 6


def test_times_are_recorded_where_lines_begin_and_not_too_often(
    folder: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "time", lambda: now)
    log = Log(folder, 10 << 20, 3)
    for part in (b"a\n", b"b\n", b"c"):
        append(log, part)
    now = 2000.0
    for part in (b"c", b"c\n"):
        append(log, part)
    now = 3000.0
    append(log, b"d\n")
    now = 500.0  # the clock was set back
    append(log, b"e")
    now = 600.0
    append(log, b"e\nf\n")
    log.close()
    assert [(at, stamp / 1_000_000) for at, stamp in records(tmp_path, 1)] == [
        (0, 1000), (8, 3000), (10, 500), (11, 600)
    ]  # fmt: skip


def test_a_torn_record_is_cut_off(folder: int, tmp_path: Path) -> None:
    log = Log(folder, 10 << 20, 3)
    append(log, b"one\n")
    log.close()
    with open(tmp_path / "console.times.1", "ab") as file:
        file.write(b"torn")
    log = Log(folder, 10 << 20, 3)
    log.open()
    append(log, b"two\n")
    log.close()
    assert [offset for offset, _ in records(tmp_path, 1)] == [0, 4]


def test_a_run_begins_once_whoever_keeps_the_server(folder: int, tmp_path: Path) -> None:
    requires("root")
    home = os.open(tmp_path, os.O_RDONLY)
    for run, words in ((b"1 1", b"a\n"), (b"1 1", b"b\n"), (b"2 5", b"c\n")):
        log = Log(folder, 10 << 20, 3)
        try:
            log.open()
        except FileNotFoundError:
            assert run == b"1 1"
        log.begin(home, run)
        append(log, words)
        log.close()
    os.close(home)
    assert [offset & ~RUN for offset, _ in records(tmp_path, 1) if offset & RUN] == [4]


def test_many_empty_runs_do_not_let_the_times_grow_without_limit(folder: int, tmp_path: Path) -> None:
    log = Log(folder, SIZE, 2)
    append(log, b"a\n")
    for number in range(3 * SIZE // RECORD.size):
        log.begin(-1, b"%d" % number)
    log.close()
    names = [name for name in os.listdir(tmp_path) if name.startswith("console.times.")]
    assert len(names) <= 2
    assert all((tmp_path / name).stat().st_size <= SIZE + RECORD.size for name in names)
