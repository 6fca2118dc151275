"""The lock of an instance: taken from any thread, in time or not at all, and never kept by who gave up."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.instance import Instance as Own
from vsprov.engine.run import lock
from vsprov.errors import LockedError
from vsprov.store.instance import Instance

HOLD = "import sys; from vsprov.engine.run.lock import locked; from vsprov.store.instance import Instance\n"
HOLD += "with locked(Instance(sys.argv[1]), float(sys.argv[2])): print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def mine(instance: Own) -> Instance:
    return Instance(instance.name, str(instance.root))


def hold(instance: Instance, timeout: float = 0.0) -> subprocess.Popen[str]:
    """A process that takes the lock, says so, and holds it until its standard input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, instance.name, str(timeout)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def is_held(process: subprocess.Popen[str]) -> bool:
    assert process.stdout
    return process.stdout.readline() == "held\n"


def release(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=60)
    assert process.returncode == 0


def in_thread(function: Callable[[], None]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(function).result(60)


def waiters(instance: Instance) -> int:
    """How many requests wait for the lock, as /proc/locks has it: by the number of the file's inode."""
    inode = os.stat(instance.lock).st_ino
    lines = Path("/proc/locks").read_text().splitlines()
    return sum("->" in line and f":{inode} " in line for line in lines)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_thread_takes_a_free_lock(mine: Instance) -> None:
    def take() -> None:
        with lock.locked(mine, 10):
            with pytest.raises(LockedError, match=rf"pid {os.getpid()}: vsprov"), lock.locked(mine):
                pass

    in_thread(take)
    with lock.locked(mine):
        pass


def test_a_thread_gets_the_lock_when_its_holder_ends(mine: Instance) -> None:
    def take() -> None:
        with lock.locked(mine, 60):
            other = hold(mine)
            assert other.wait(60) == 1 and other.stderr and "LockedError" in other.stderr.read()
            other.communicate()

    holder = hold(mine)
    assert is_held(holder)
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(take)
        wait_for(lambda: waiters(mine) == 1)
        assert not taken.done()
        holder.kill()
        taken.result(60)
    holder.communicate()


def test_a_thread_waits_no_longer_than_it_may(mine: Instance) -> None:
    def take() -> None:
        begun = time.monotonic()
        with pytest.raises(LockedError, match=f"pid {holder.pid}: "), lock.locked(mine, 0.2):
            pass
        assert time.monotonic() - begun >= 0.2

    holder = hold(mine)
    assert is_held(holder)
    in_thread(take)
    release(holder)


def test_a_wait_that_was_given_up_never_keeps_the_lock(mine: Instance) -> None:
    holder = hold(mine)
    assert is_held(holder)
    for _ in range(3):
        with pytest.raises(LockedError), lock.locked(mine, 0.05):
            pass
    before = waiters(mine)
    release(holder)
    wait_for(lambda: waiters(mine) == 0)
    assert before == 3  # they had not gone: each has now taken the lock, and let it go
    with open(mine.lock) as file:
        wait_for(lambda: _takes(file.fileno()))
    with lock.locked(mine):
        pass


def _takes(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_wait_is_interrupted_at_once(mine: Instance, number: signal.Signals) -> None:
    with lock.locked(mine):
        waiting = hold(mine, 600)
        wait_for(lambda: waiters(mine) == 1)
        waiting.send_signal(number)
        _, err = waiting.communicate(timeout=60)
        assert waiting.returncode == -number
        assert ("KeyboardInterrupt" in err) == (number == signal.SIGINT)
        assert waiters(mine) == 0
        assert f"pid {os.getpid()}: " in Path(mine.lock).read_text()


def test_ctrl_c_ends_a_command_that_waits_for_the_lock(instance: Own, mine: Instance) -> None:
    with lock.locked(mine):
        waiting = subprocess.Popen(
            instance.command("stop", "--all", "--lock-timeout", "10m"),
            env=instance.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: waiters(mine) == 1)
        waiting.send_signal(signal.SIGINT)
        assert waiting.communicate(timeout=60) == ("", "vsprov: interrupted\n")
        assert waiting.returncode == 130


def holder_of(instance: Instance) -> int | None:
    """The pid of the command that holds the lock."""
    pidfd = lock.open_holder(instance)
    if pidfd < 0:
        return None
    try:
        return int(Path(f"/proc/self/fdinfo/{pidfd}").read_text().partition("Pid:")[2].split()[0])
    finally:
        os.close(pidfd)


def test_the_holder_is_the_process_that_has_locked_the_file(mine: Instance) -> None:
    assert holder_of(mine) is None
    holder = hold(mine)
    assert is_held(holder) and holder_of(mine) == holder.pid
    release(holder)
    assert holder_of(mine) is None
    with lock.locked(mine):
        assert holder_of(mine) == os.getpid()


def test_a_pid_that_a_killed_command_has_left_in_the_file_names_nobody(mine: Instance) -> None:
    """Another process may have the pid by now: here this one, and one that waits for the lock."""
    holder = hold(mine)
    assert is_held(holder)
    holder.kill()
    holder.communicate()
    assert f"pid {holder.pid}: " in Path(mine.lock).read_text()
    assert holder_of(mine) is None
    Path(mine.lock).write_text(f"pid {os.getpid()}: vsprov apply since 2026-01-31 08:15:00\n")
    assert holder_of(mine) is None
    silent = ["flock", "-x", mine.lock, "sh", "-c", "echo held; read line"]  # does not write its name
    other = subprocess.Popen(silent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert is_held(other) and holder_of(mine) is None
    with pytest.raises(LockedError, match="an unknown process"), lock.locked(mine):
        pass
    other.communicate("\n")


def test_what_a_killed_restart_has_left_in_the_file_is_not_waited_for(mine: Instance) -> None:
    """A command that was not started by the keeper holds the lock: others fail at once."""
    holder = hold(mine)
    assert is_held(holder)
    Path(mine.lock).write_text(f"pid {os.getpid()}: vsprov keeper act since 2026-01-31 08:15:00\n")
    begun = time.monotonic()
    with pytest.raises(LockedError), lock.locked(mine):
        pass
    assert time.monotonic() - begun < lock.SECONDS_OF_KEEPER
    release(holder)
