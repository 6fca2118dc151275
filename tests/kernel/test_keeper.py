"""Parts of the keeper, in this process."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.features import requires
from tests.instance import Instance
from tests.lab import Lab, image, server
from vsprov.engine.run import keeper
from vsprov.keeper import kept, protocol
from vsprov.keeper.exits import ends
from vsprov.keeper.exits.connector import Exits
from vsprov.keeper.kept import Kept, read_spec
from vsprov.keeper.packets import close
from vsprov.keeper.protocol import encode
from vsprov.keeper.timers import Timers
from vsprov.kernel import inotify, syscall

pytestmark = pytest.mark.kernel


def child(code: int) -> int:
    """A child that ends with a code once it gets SIGCONT; the caller waits for it."""
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(code)
    os.waitpid(pid, os.WUNTRACED)
    return pid


@pytest.fixture
def exits() -> Iterator[Exits]:
    requires("root")
    found = Exits()
    yield found
    found.close()


def test_the_connector_tells_of_watched_processes_alone(exits: Exits) -> None:
    others, watched = child(1), child(3)
    exits.watch((watched,))
    for pid in (others, watched):
        os.kill(pid, signal.SIGCONT)
        os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(exits.take(watched) or 0) == 3
    assert exits.take(others) is None


def test_the_connector_tells_of_signals(exits: Exits) -> None:
    pids = tuple(child(0) for _ in range(300))  # more than one jump of a filter can pass
    exits.watch(pids)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert {os.waitstatus_to_exitcode(exits.take(pid) or 0) for pid in pids} == {-9}


def test_the_connector_tells_of_more_processes_than_a_filter_can_name(exits: Exits) -> None:
    """4096 instructions, BPF_MAXINSNS."""
    others, watched = child(1), child(3)
    absent = range(1 << 23, (1 << 23) + 2100)  # above any pid_max
    exits.watch((*absent, watched))
    for pid in (others, watched):
        os.kill(pid, signal.SIGCONT)
        os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(exits.take(watched) or 0) == 3
    assert exits.take(others) is None


def test_the_status_is_known_before_and_after_the_wait() -> None:
    pid = child(7)
    pidfd = os.pidfd_open(pid)
    start = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    os.kill(pid, signal.SIGCONT)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ends.status(pidfd, pid, start) == 7 << 8
    os.waitpid(pid, 0)
    assert ends.status(pidfd, pid, start) == (7 << 8 if ends.pidfds_keep_status() else None)
    os.close(pidfd)


def test_a_server_with_an_empty_group_is_given_time_to_end(
    vsprov: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pid 1 leaves the group before it ends, and its pidfd tells that only afterwards."""
    requires("overlay")
    lab = Lab(vsprov)
    lab.apply(image(), server("a"))
    empty = lab.group("a").parent / "a/empty"
    empty.mkdir()
    for group, ends_now, ending in (
        (empty, True, True),
        (empty, False, False),
        (lab.group("a"), False, False),
    ):
        pid = child(0)
        request: protocol.Keep = {"cmd": "keep", "name": "a", "pid": pid, "start": 0, "fds": []}
        fds = {"folder": -1, "home": os.open(group, os.O_PATH), "pidfd": os.pidfd_open(pid)}
        monkeypatch.setattr(kept, "ENDING", 60_000 if ends_now else 20)
        if ends_now:
            threading.Timer(0.02, os.kill, (pid, signal.SIGCONT)).start()
        assert Kept(request, fds, {}).is_ending() is ending, group
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        close(fds["home"], fds["pidfd"])
    empty.rmdir()


def test_timers_call_in_the_order_of_their_times_and_once() -> None:
    called: list[str] = []
    timers = Timers()
    assert timers.timeout() == -1
    timers.set("b", 0.002, lambda: called.append("b"))
    timers.set("a", 0.001, lambda: called.append("a"))
    timers.set("c", 0.001, lambda: called.append("never"))
    timers.set("c", 0.003, lambda: called.append("c"))
    timers.set("d", 0.0, lambda: called.append("never"))
    timers.cancel("d")
    while (wait := timers.timeout()) >= 0:
        time.sleep(wait)
        timers.run()
    assert called == ["a", "b", "c"]
    assert timers.seconds("a") is None


def test_what_a_timer_sets_is_called_in_the_next_turn() -> None:
    timers, turns = Timers(), [0]

    def again() -> None:
        turns[0] += 1
        timers.set("again", 0, again)

    again()
    timers.run()
    assert turns == [2]


def test_timers_that_are_set_again_and_again_take_no_memory() -> None:
    timers = Timers()
    for _ in range(1000):
        timers.set("probe", 100, lambda: None)
    assert len(timers._heap) < 100
    seconds = timers.seconds("probe")
    assert seconds is not None and 0 < seconds <= 100


def test_a_spec_arrives_whole_however_long_it_is() -> None:
    spec = {"command": ["x" * 100] * 5000, "restart": {"attempts": None}}
    fd = keeper.sealed(encode(spec))
    assert read_spec(fd) == spec
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    os.close(fd)
    empty = os.memfd_create("spec")
    with pytest.raises(OSError, match="its spec is incomplete"):
        read_spec(empty)
    os.close(empty)


def test_a_file_that_is_created_right_after_it_was_missing_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, add = tmp_path / "file", syscall.inotify_add_watch

    def add_and_create(queue: int, name: str, mask: int) -> int:
        try:
            return add(queue, name, mask)
        finally:
            path.touch()

    monkeypatch.setattr(syscall, "inotify_add_watch", add_and_create)
    queue = inotify.queue()
    try:
        assert inotify.watch_if_present(queue, str(path), inotify.IN_MODIFY) is None
        assert inotify.watch_if_present(queue, str(path), inotify.IN_MODIFY) is not None
    finally:
        os.close(queue)
