"""The lines of logs: when they were written, which of them are asked for, and how they are printed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsprov.engine.logs import files, span
from vsprov.engine.logs.lines import LONGEST, Line, Splitter, merge, split
from vsprov.engine.logs.span import Asked
from vsprov.engine.logs.times import Times
from vsprov.errors import FailedError
from vsprov.keeper.subjects.log import RECORD, RUN
from vsprov.render.log_lines import JsonPrinter, Printer, rfc3339
from vsprov.render.screen import Screen
from vsprov.store.instance import Instance

SECOND = 1_000_000
Record = tuple[int, int]


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    (tmp_path / "servers/web1").mkdir(parents=True)
    return Instance("vt-logs", str(tmp_path))


def write(instance: Instance, name: str, content: bytes, number: int, records: Iterable[Record]) -> None:
    """Write a file of a log, with records of (offset, seconds)."""
    folder = Path(files.folder_of(instance, "web1"))
    (folder / name).write_bytes(content)
    packed = b"".join(RECORD.pack(offset, seconds * SECOND) for offset, seconds in records)
    (folder / f"console.times.{number}").write_bytes(packed)


def lines(instance: Instance, **asked: int | bool) -> list[bytes]:
    """The lines that are asked for; times in seconds."""
    scaled = {key: given * SECOND if key in ("since", "until") else given for key, given in asked.items()}
    with files.open_log(instance, "web1") as log:
        part = span.find("web1", log, Asked(**scaled))  # type: ignore[arg-type]
        return b"".join(block.data for block in log.read(part.start, part.end)).splitlines()


def timed(instance: Instance) -> list[tuple[int, bytes]]:
    """(seconds, line) of the whole log."""
    with files.open_log(instance, "web1") as log:
        log.read_times()
        found = split(Splitter("web1"), log.read(), flush=True)
        return [(line.time // SECOND, line.text) for line in found]


@pytest.fixture
def two_files(instance: Instance) -> Instance:
    """A log whose second line begins in a full file and ends in the next; the third run wrote `f`."""
    write(instance, "console.log.4", b"a\nb1", 4, [(0, 10), (2, 20)])
    write(instance, "console.log", b"b2\nc\nd\ne\nf\n", 5, [(0, 30), (3, 30), (5 | RUN, 40), (9 | RUN, 50)])
    return instance


def test_lines_have_the_times_at_which_they_were_begun(two_files: Instance) -> None:
    assert timed(two_files) == [
        (10, b"a\n"), (20, b"b1b2\n"), (30, b"c\n"), (40, b"d\n"), (40, b"e\n"), (50, b"f\n")
    ]  # fmt: skip


def test_lines_are_chosen_by_time_number_and_run(two_files: Instance) -> None:
    assert lines(two_files) == [b"a", b"b1b2", b"c", b"d", b"e", b"f"]
    assert lines(two_files, since=20, until=40) == [b"b1b2", b"c", b"d", b"e"]
    assert lines(two_files, since=21, until=39) == [b"c"]
    assert lines(two_files, since=21, lines=2) == [b"e", b"f"]
    assert lines(two_files, until=40, lines=1) == [b"e"]
    assert lines(two_files, since=51) == []
    assert lines(two_files, until=9) == []
    assert lines(two_files, since=40, until=30) == []
    assert lines(two_files, previous=True) == [b"d", b"e"]
    assert lines(two_files, previous=True, lines=1) == [b"e"]


def test_the_first_run_is_found_without_a_record_of_its_beginning(instance: Instance) -> None:
    write(instance, "console.log", b"a\nb\nc\n", 1, [(0, 10), (4 | RUN, 20)])
    assert lines(instance, previous=True) == [b"a", b"b"]
    write(instance, "console.log", b"a\n", 1, [(0, 10)])
    with pytest.raises(FailedError, match="no output of an earlier run"):
        lines(instance, previous=True)


def test_a_log_of_an_earlier_version_has_no_times(instance: Instance) -> None:
    Path(files.path_of(instance, "web1")).write_bytes(b"a\nb\n")
    assert timed(instance) == [(0, b"a\n"), (0, b"b\n")]
    with files.open_log(instance, "web1") as log:
        found = span.find("web1", log, Asked(since=1))
    assert (found.start, found.end, found.unknown) == (4, 4, 4)
    write(instance, "console.log", b"a\nb\nc\n", 1, [(4, 10)])
    assert timed(instance) == [(0, b"a\n"), (0, b"b\n"), (10, b"c\n")]
    assert lines(instance, since=10) == [b"c"]


@given(data=st.binary(max_size=200), offset=st.integers(0, 100))
def test_any_damage_of_the_times_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, offset: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "times"
    path.write_bytes(data)
    times = Times(str(path))
    times.refresh()
    assert times.at(offset) == 0 or rfc3339(times.at(offset))


def test_records_of_what_a_power_failure_took_from_the_log_are_void(tmp_path: Path) -> None:
    path = tmp_path / "times"
    records = [(0, 10), (100, 20), (200 | RUN, 30), (150, 40)]
    path.write_bytes(b"".join(RECORD.pack(at, time) for at, time in records) + bytes(32) + b"torn")
    times = Times(str(path))
    times.refresh()
    assert [times.at(offset) for offset in (0, 100, 149, 150, 300)] == [10, 20, 20, 40, 40]
    assert times.runs == []
    os.truncate(path, 64)
    with open(path, "ab") as file:
        file.write(RECORD.pack(400, 50))
    fresh = Times(str(path))
    fresh.refresh()
    assert fresh.at(400) == 50


def of(server: str, *times: int) -> list[Line]:
    return [Line(server, time, b"x\n", True) for time in times]


def test_logs_are_merged_by_time_and_each_stays_in_its_order() -> None:
    merged = merge(map(iter, (of("a", 10, 30, 20, 50), of("b", 5, 25, 40), of("c"))))
    assert [(line.server, line.time) for line in merged] == [
        ("b", 5), ("a", 10), ("b", 25), ("a", 30), ("a", 20), ("b", 40), ("a", 50)
    ]  # fmt: skip


def test_the_parts_of_a_long_line_stay_together(instance: Instance) -> None:
    write(instance, "console.log", b"y" * (3 * LONGEST) + b"\nend", 1, [(0, 10)])
    with files.open_log(instance, "web1") as log:
        log.read_times()
        long = list(split(Splitter("long"), log.read(), flush=True))
    assert [(len(line.text), line.ends) for line in long] == [
        (LONGEST, False), (LONGEST, False), (LONGEST, False), (1, True), (3, False)
    ]  # fmt: skip
    merged = merge([iter(long), iter([Line("b", 11 * SECOND, b"b\n", True)])])
    assert [line.server for line in merged] == ["long"] * 5 + ["b"]


def test_a_line_that_has_not_ended_is_continued_unless_another_comes_between() -> None:
    printer = Printer(["web1", "database"], Screen(), times=False)
    printed = [
        printer.line("web1", 0, b"login: ", False),
        printer.line("web1", 0, b"root\n", True),
        printer.line("web1", 0, b"password: ", False),
        printer.line("database", 0, b"up\n", True),
        printer.line("web1", 0, b"ok\n", True),
    ]
    assert b"".join(printed) == (
        b"web1     | login: root\nweb1     | password: \ndatabase | up\nweb1     | ok\n"
    )


def test_times_are_printed_in_utc_and_unknown_ones_as_a_dash() -> None:
    printer = Printer(["web1"], Screen(), times=True)
    assert printer.line("web1", 1_769_860_800_123_456, b"a\n", True) == b"2026-01-31T12:00:00.123Z a\n"
    assert printer.line("web1", 0, b"b\n", True) == b"-                        b\n"


def test_a_terminal_gets_colors_and_no_control_characters_of_servers() -> None:
    printer = Printer(["a", "b"], Screen(terminal=True, color=True), times=False)
    assert printer.line("a", 0, b"\x1b[2Jx\xe2\x82", False) == b"\x1b[36ma\x1b[0m | \\e[2Jx"
    assert printer.line("b", 0, b"y\n", True) == b"\n\x1b[33mb\x1b[0m | y\n"
    assert printer.line("a", 0, b"\xac\n", True) == "\x1b[36ma\x1b[0m | €\n".encode()


def test_json_has_one_object_for_each_line() -> None:
    printer = JsonPrinter()
    assert json.loads(printer.line("a", 1_769_860_800_123_456, b"x\xff\r\n", True)) == {
        "server": "a", "time": "2026-01-31T12:00:00.123Z", "text": "x\\xff"
    }  # fmt: skip
    assert json.loads(printer.line("a", 0, b"y", False)) == {
        "server": "a", "time": None, "text": "y", "partial": True
    }  # fmt: skip
