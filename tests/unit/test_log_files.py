"""A server's console log on disk: its files read as one, its last lines, and following it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsprov.engine.logs import files
from vsprov.engine.logs.follow import follow
from vsprov.errors import FailedError
from vsprov.keeper.subjects.log import RECORD, RUN
from vsprov.store.instance import Instance


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    (tmp_path / "servers/web1").mkdir(parents=True)
    return Instance("vt-console", str(tmp_path))


def log_of(instance: Instance) -> Path:
    return Path(files.path_of(instance, "web1"))


def last(content: bytes, lines: int) -> bytes:
    """The last lines of a text, the plain way."""
    kept = content.split(b"\n")
    closed = kept[-1:] == [b""]
    return b"\n".join(kept[-lines - closed :]) if lines else b""


def content(instance: Instance, start: int = 0) -> bytes:
    with files.open_log(instance, "web1") as log:
        return b"".join(block.data for block in log.read(start))


@given(
    parts=st.lists(st.lists(st.sampled_from([b"", b"a", b"bc", b"x" * 70000])).map(b"\n".join), max_size=3),
    lines=st.integers(0, 6),
    before=st.integers(0, 3),
)
def test_the_last_lines_are_found_from_the_end_whichever_files_they_are_in(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], lines: int, before: int
) -> None:
    instance = Instance("vt-console", str(tmp_path_factory.getbasetemp()))
    folder = Path(files.folder_of(instance, "web1"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, part in enumerate(parts, 9):
        name = "console.log" if part is parts[-1] and number == 8 + len(parts) else f"console.log.{number}"
        (folder / name).write_bytes(part)
    whole = b"".join(parts)
    end = max(0, len(whole) - before)
    with files.open_log(instance, "web1") as log:
        assert log.size == len(whole)
        start = log.tail(lines, end)
        assert b"".join(block.data for block in log.read(start, end)) == last(whole[:end], lines)


@pytest.mark.parametrize("after", [b"", b"after\n", b"x" * 200_000 + b"\nlast\n"])
def test_holes_in_a_log_are_passed_over(instance: Instance, after: bytes) -> None:
    """A server may make its log larger than any disk: ftruncate(2)."""
    path = log_of(instance)
    path.write_bytes(b"one\ntwo\n" + bytes(8184))
    os.truncate(path, 8 << 40)
    with path.open("ab") as file:
        file.write(after)
    with files.open_log(instance, "web1") as log:
        assert sum(len(block.data) for block in log.read()) < 500_000
        shown = b"".join(block.data for block in log.read(log.tail(1)))
    lines = [line.strip("\0") for line in files.last_lines(instance, "web1", 5)]
    if after:
        assert shown == after.splitlines(keepends=True)[-1]
        assert lines[-1] == after.splitlines()[-1].decode()
    else:
        assert lines[:2] == ["one", "two"]


def test_an_excerpt_of_a_log_is_not_long(instance: Instance) -> None:
    log_of(instance).write_bytes(b"x" * 1_000_000 + b"\nend\n")
    lines = files.last_lines(instance, "web1", 5)
    assert lines[-1] == "end"
    assert sum(map(len, lines)) < files.LARGEST_EXCERPT


def test_an_excerpt_has_nothing_of_earlier_runs(instance: Instance) -> None:
    log_of(instance).write_bytes(b"old\nnew\n")
    log_of(instance).with_name("console.times.1").write_bytes(RECORD.pack(0, 1) + RECORD.pack(4 | RUN, 2))
    assert files.last_lines(instance, "web1", 5) == ["new"]
    with open(log_of(instance).with_name("console.times.1"), "ab") as times:
        times.write(RECORD.pack(8 | RUN, 3))
    assert files.last_lines(instance, "web1", 5) == []


def test_a_log_under_a_lease_is_named(instance: Instance) -> None:
    log_of(instance).write_bytes(b"one\n")
    leased = os.open(log_of(instance), os.O_RDWR)
    handler = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        with pytest.raises(FailedError, match="the server holds a lease on it"):
            files.open_log(instance, "web1")
    finally:
        os.close(leased)
        signal.signal(signal.SIGIO, handler)


def test_a_server_without_a_log_has_no_lines(instance: Instance) -> None:
    assert content(instance) == b""
    assert files.last_lines(instance, "web1", 5) == []


def test_what_is_no_regular_file_is_refused(instance: Instance) -> None:
    log_of(instance).symlink_to("/etc/passwd")
    with pytest.raises(FailedError, match="symbolic link"):
        files.open_log(instance, "web1")
    log_of(instance).unlink()
    os.mkfifo(log_of(instance))
    with pytest.raises(FailedError, match="not a regular file"):
        files.open_log(instance, "web1")


def append(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


@pytest.fixture
def lost() -> list[str]:
    """The servers of which following has lost output."""
    return []


@pytest.fixture
def followed(instance: Instance, lost: list[str]) -> Iterator[Iterator[bytes]]:
    """What is added to the log of a server, which has one line."""
    append(log_of(instance), b"first\n")
    with files.open_log(instance, "web1") as log:
        batches = follow(instance, {"web1": log}, lost.append)
    yield (block.data for batch in batches for _name, block in batch)
    batches.close()  # type: ignore[attr-defined]


def test_following_shows_what_is_appended(instance: Instance, followed: Iterator[bytes]) -> None:
    for line in (b"second\n", b"third\n"):
        append(log_of(instance), line)
        assert next(followed) == line


def test_following_goes_on_in_a_log_that_was_cut_or_replaced(
    instance: Instance, followed: Iterator[bytes]
) -> None:
    log = log_of(instance)
    append(log, b"second\n")
    assert next(followed) == b"second\n"
    os.truncate(log, 0)
    append(log, b"cut\n")
    assert next(followed) == b"cut\n"
    append(log.with_name("new"), b"replaced\n")
    os.rename(log.with_name("new"), log)
    assert next(followed) == b"replaced\n"


def test_following_reads_every_file_that_becomes_full_meanwhile(
    instance: Instance, followed: Iterator[bytes], lost: list[str]
) -> None:
    log = log_of(instance)
    append(log, b"second\n")
    assert next(followed) == b"second\n"
    for number in (1, 2, 3):
        append(log, b"last of %d\n" % number)
        os.rename(log, log.with_name(f"console.log.{number}"))
        append(log, b"first of %d\n" % (number + 1))
    expected = [b"last of 1\n", b"first of 2\nlast of 2\n", b"first of 3\nlast of 3\n", b"first of 4\n"]
    assert [next(followed) for _ in expected] == expected
    log.with_name("console.log.1").unlink()
    append(log, b"more\n")
    assert next(followed) == b"more\n"
    assert lost == []


def test_following_tells_of_a_file_that_was_removed_before_it_was_read(
    instance: Instance, followed: Iterator[bytes], lost: list[str]
) -> None:
    log = log_of(instance)
    append(log, b"second\n")
    assert next(followed) == b"second\n"
    for number in (1, 2):
        os.rename(log, log.with_name(f"console.log.{number}"))
        append(log, b"first of %d\n" % (number + 1))
    log.with_name("console.log.1").unlink()
    log.with_name("console.log.2").unlink()
    append(log.with_name("console.times.3"), b"")
    assert next(followed) == b"first of 3\n"
    assert lost == ["web1"]


def test_following_goes_on_where_the_only_file_was_removed_because_it_was_full(
    instance: Instance, followed: Iterator[bytes]
) -> None:
    log = log_of(instance)
    append(log, b"second\n")
    assert next(followed) == b"second\n"
    append(log, b"third\n")
    log.unlink()
    append(log, b"fourth\n")
    assert [next(followed), next(followed)] == [b"third\n", b"fourth\n"]


def test_a_log_that_grows_all_the_time_does_not_keep_others_waiting(instance: Instance) -> None:
    (Path(instance.root) / "servers/web2").mkdir()
    logs = {name: files.open_log(instance, name) for name in ("web1", "web2")}
    batches = follow(instance, logs, [].append)
    for name, size in (("web1", 1 << 20), ("web2", 10)):
        append(Path(files.path_of(instance, name)), bytes(size))
    seen: dict[str, int] = {}
    while "web2" not in seen:
        for name, block in next(batches):
            seen[name] = seen.get(name, 0) + len(block.data)
    assert seen == {"web1": 1 << 18, "web2": 10}
    batches.close()  # type: ignore[attr-defined]


def test_following_a_server_that_has_no_log_yet_waits_for_it(instance: Instance, lost: list[str]) -> None:
    with files.open_log(instance, "web1") as log:
        following = follow(instance, {"web1": log}, lost.append)
    child = os.fork()
    if child == 0:
        append(log_of(instance), b"first\n")
        os._exit(0)
    ((_name, block),) = next(following)
    assert block.data == b"first\n"
    os.waitpid(child, 0)
    following.close()  # type: ignore[attr-defined]


def test_following_ends_when_the_server_is_removed(instance: Instance, followed: Iterator[bytes]) -> None:
    append(log_of(instance), b"last\n")
    assert next(followed) == b"last\n"
    log_of(instance).unlink()
    log_of(instance).parent.rmdir()
    assert list(followed) == []


def test_following_leaves_no_file_open(instance: Instance, lost: list[str]) -> None:
    before = os.listdir("/proc/self/fd")
    with files.open_log(instance, "web1") as log:
        following = follow(instance, {"web1": log}, lost.append)
    append(log_of(instance), b"first\n")
    next(following)
    following.close()  # type: ignore[attr-defined]
    assert os.listdir("/proc/self/fd") == before


def test_a_log_is_opened_as_a_whole_although_a_file_becomes_full_meanwhile(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_of(instance)
    append(log, b"one\n")
    listed = os.listdir

    def list_late(path: str) -> list[str]:
        monkeypatch.undo()
        os.rename(log, log.with_name("console.log.1"))
        append(log, b"two\n")
        return listed(path)

    monkeypatch.setattr(os, "listdir", list_late)
    with files.open_log(instance, "web1") as opened:
        assert [(file.number, file.size) for file in opened.files] == [(1, 4), (2, 4)]
