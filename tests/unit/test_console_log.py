"""A server's console log on disk: its last lines, and following it."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsprov.engine.guests import console_log
from vsprov.errors import FailedError
from vsprov.store.instance import Instance


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    (tmp_path / "servers/web1").mkdir(parents=True)
    return Instance("vt-console", str(tmp_path))


def log_of(instance: Instance) -> Path:
    return Path(console_log.path_of(instance, "web1"))


def last(content: bytes, lines: int) -> bytes:
    """The last lines of a text, the plain way."""
    kept = content.split(b"\n")
    closed = kept[-1:] == [b""]
    return b"\n".join(kept[-lines - closed :]) if lines else b""


@given(
    content=st.lists(st.sampled_from([b"", b"a", b"bc", b"x" * 70000])).map(b"\n".join),
    lines=st.integers(0, 6),
)
def test_the_last_lines_are_found_from_the_end(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, lines: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "log"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert b"".join(console_log.read(fd, console_log.tail(fd, lines))) == last(content, lines)
        assert console_log.tail(fd, None) == 0
    finally:
        os.close(fd)


@pytest.mark.parametrize("after", [b"", b"after\n", b"x" * 200_000 + b"\nlast\n"])
def test_holes_in_a_log_are_passed_over(instance: Instance, after: bytes) -> None:
    """A server may make its log larger than any disk: ftruncate(2)."""
    log = log_of(instance)
    log.write_bytes(b"one\ntwo\n" + bytes(8184))
    os.truncate(log, 8 << 40)
    with log.open("ab") as file:
        file.write(after)
    fd = os.open(log, os.O_RDONLY)
    try:
        assert sum(map(len, console_log.read(fd, 0))) < 500_000
        shown = b"".join(console_log.read(fd, console_log.tail(fd, 1)))
    finally:
        os.close(fd)
    lines = [line.strip("\0") for line in console_log.last_lines(instance, "web1", 5)]
    if after:
        assert shown == after.splitlines(keepends=True)[-1]
        assert lines[-1] == after.splitlines()[-1].decode()
    else:
        assert lines[:2] == ["one", "two"]


def test_an_excerpt_of_a_log_is_not_long(instance: Instance) -> None:
    log_of(instance).write_bytes(b"x" * 1_000_000 + b"\nend\n")
    lines = console_log.last_lines(instance, "web1", 5)
    assert lines[-1] == "end"
    assert sum(map(len, lines)) < console_log.LARGEST_EXCERPT


def test_a_log_under_a_lease_is_named(instance: Instance) -> None:
    log_of(instance).write_bytes(b"one\n")
    leased = os.open(log_of(instance), os.O_RDWR)
    handler = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        with pytest.raises(FailedError, match="the server holds a lease on it"):
            console_log.open_log(instance, "web1")
    finally:
        os.close(leased)
        signal.signal(signal.SIGIO, handler)


def test_a_server_without_a_log_has_no_lines(instance: Instance) -> None:
    assert console_log.open_log(instance, "web1") is None
    assert console_log.last_lines(instance, "web1", 5) == []


def test_what_is_no_regular_file_is_refused(instance: Instance) -> None:
    log_of(instance).symlink_to("/etc/passwd")
    with pytest.raises(FailedError, match="symbolic link"):
        console_log.open_log(instance, "web1")
    log_of(instance).unlink()
    os.mkfifo(log_of(instance))
    with pytest.raises(FailedError, match="not a regular file"):
        console_log.open_log(instance, "web1")


@pytest.fixture
def followed(instance: Instance) -> Iterator[tuple[Instance, Iterator[bytes]]]:
    log_of(instance).write_bytes(b"first\n")
    following = console_log.follow(instance, "web1", 0, console_log.open_log(instance, "web1"))
    yield instance, following
    following.close()  # type: ignore[attr-defined]


def test_following_shows_what_is_appended(followed: tuple[Instance, Iterator[bytes]]) -> None:
    instance, following = followed
    assert next(following) == b"first\n"
    for line in (b"second\n", b"third\n"):
        with open(log_of(instance), "ab") as log:
            log.write(line)
        assert next(following) == line


def test_following_goes_on_in_a_log_that_was_cut_or_replaced(
    followed: tuple[Instance, Iterator[bytes]],
) -> None:
    instance, following = followed
    assert next(following) == b"first\n"
    os.truncate(log_of(instance), 0)
    with open(log_of(instance), "ab") as log:
        log.write(b"cut\n")
    assert next(following) == b"cut\n"
    (log_of(instance).parent / "new").write_bytes(b"replaced\n")
    os.rename(log_of(instance).parent / "new", log_of(instance))
    assert next(following) == b"replaced\n"


def test_following_a_server_that_has_no_log_yet_waits_for_it(instance: Instance) -> None:
    following = console_log.follow(instance, "web1", 0, None)
    child = os.fork()
    if child == 0:
        log_of(instance).write_bytes(b"first\n")
        os._exit(0)
    assert next(following) == b"first\n"
    os.waitpid(child, 0)
    following.close()  # type: ignore[attr-defined]


def test_following_ends_when_the_server_is_removed(followed: tuple[Instance, Iterator[bytes]]) -> None:
    instance, following = followed
    assert next(following) == b"first\n"
    log_of(instance).unlink()
    log_of(instance).parent.rmdir()
    assert list(following) == []


def test_following_leaves_no_file_open(instance: Instance) -> None:
    before = os.listdir("/proc/self/fd")
    log_of(instance).write_bytes(b"first\n")
    following = console_log.follow(instance, "web1", 0, console_log.open_log(instance, "web1"))
    next(following)
    following.close()  # type: ignore[attr-defined]
    assert os.listdir("/proc/self/fd") == before
