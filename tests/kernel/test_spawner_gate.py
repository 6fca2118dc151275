"""Guests wait at a gate: who may pass, who never does, and what the spawner tells of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.instance import CHECKOUT
from tests.kernel.guests import (
    SECONDS,
    Workshop,
    ended,
    members,
)
from vsprov.engine.run import spawn
from vsprov.engine.run.spawn import Spawner
from vsprov.errors import FailedError
from vsprov.guest import syscall_list
from vsprov.guest.sys_calls import raw_syscall
from vsprov.kernel import process, syscall

KCMP = {"x86_64": 312, "aarch64": 272}[os.uname().machine]


@pytest.mark.vm_subset
def test_a_guest_never_runs_when_the_client_closes_at_the_gate(workshop: Workshop) -> None:
    with Spawner() as workshop.spawner:
        guest = workshop.ready(workshop.request("sh", "-c", "echo I ran"))
        assert process.start_time(guest.pid) == guest.start and not process.has_executed(guest.pid)
    assert ended(guest.pid)
    assert workshop.output() == ""
    assert members(workshop.group(1) / "payload") == []


@pytest.mark.vm_subset
def test_guests_never_run_when_the_spawner_is_killed_at_the_gate(workshop: Workshop) -> None:
    spawner = Spawner()
    workshop.spawner, kept = spawner, workshop.spawner
    guests = [workshop.ready(workshop.request("sh", "-c", "echo I ran")) for _ in range(3)]
    os.kill(spawner._pid, signal.SIGKILL)
    assert all(ended(guest.pid) for guest in guests)
    with pytest.raises(FailedError, match="spawner: died"):
        while True:
            workshop.spawner.events()
    spawner.close()
    workshop.spawner = kept
    assert [workshop.output(number) for number in (1, 2, 3)] == ["", "", ""]


def test_a_spawner_that_is_stopped_is_killed_when_it_is_no_longer_needed(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawn, "SECONDS_TO_LEAVE", 0.2)
    spawner = Spawner()
    workshop.spawner, kept = spawner, workshop.spawner
    guest = workshop.ready(workshop.request("sh", "-c", "echo I ran"))
    os.kill(spawner.pid, signal.SIGSTOP)
    spawner.close()
    workshop.spawner = kept
    assert ended(guest.pid)
    assert process.start_time(spawner.pid) is None
    assert workshop.output() == ""


START = """
import resource, select, sys
from vsprov.engine.run.spawn import Spawner
from vsprov.errors import FailedError
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
try:
    with Spawner() as spawner:
        select.select([spawner], [], [])
        spawner.events()
except FailedError as error:
    print(error, error.hint, sep="; ")
"""


@pytest.mark.parametrize(
    ("files", "step"), [(4, ""), (5, ""), (6, "(inherited: /proc/self/cgroup|probe overlay|start): ")]
)
def test_a_spawner_that_cannot_start_says_what_is_in_the_way(files: int, step: str) -> None:
    command = [sys.executable, "-c", START, str(files)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=SECONDS)
    assert done.stderr == ""
    assert re.fullmatch(f"spawner: start: {step}Too many open files; .*ulimit -n\n", done.stdout), done.stdout


def test_a_released_guest_outlives_the_spawner(workshop: Workshop) -> None:
    with Spawner() as workshop.spawner:
        guest = workshop.run(workshop.request("sleep", "1000"))
    assert process.start_time(guest.pid) == guest.start and process.has_executed(guest.pid)
    assert Path(f"/proc/{guest.pid}/exe").readlink() == Path("/bin/busybox")


def test_the_interpreter_cannot_be_written_through_a_waiting_guest(workshop: Workshop) -> None:
    guest = workshop.ready(workshop.request("true"))
    program = os.open(f"/proc/{guest.pid}/exe", os.O_PATH)
    try:
        assert os.fstat(program).st_ino == os.stat(os.path.realpath(sys.executable)).st_ino
        assert os.fstatvfs(program).f_flag & os.ST_RDONLY
    finally:
        os.close(program)


@pytest.mark.parametrize("dumpable", ["0", "1", "2"])
def test_a_waiting_guest_shares_memory_only_where_changing_users_keeps_it_closed(
    workshop: Workshop, dumpable: str
) -> None:
    """fs.suid_dumpable, proc_sys_fs(5): only the spawner is shown another value."""
    file = workshop.folder / "suid_dumpable"
    file.write_text(f"{dumpable}\n")
    spawners: list[Spawner] = []

    def start_elsewhere() -> None:
        syscall.unshare(syscall.CLONE_NEWNS)
        syscall.mount("", "/", None, syscall.MS_REC | syscall.MS_PRIVATE)
        subprocess.run(["mount", "--bind", file, "/proc/sys/fs/suid_dumpable"], check=True)
        spawners.append(Spawner())
        workshop.spawner = spawners[0]
        workshop.failure({})  # by now it has looked; and over a /proc with mounts in it there can be no other
        subprocess.run(["umount", "/proc/sys/fs/suid_dumpable"], check=True)

    kept = workshop.spawner
    thread = threading.Thread(target=start_elsewhere)
    thread.start()
    thread.join()
    with spawners[0] as spawner:
        guest = workshop.ready(workshop.request("true"))
        shared = raw_syscall(KCMP, spawner.pid, guest.pid, 1, 0, 0, 0) == 0
        assert os.stat(f"/proc/{guest.pid}/mem").st_uid == 0  # root's, as of all that must not be traced
        workshop.spawner = kept
    in_python = os.environ.get("VSPROV_MACHINE_CODE") == "0" or os.uname().machine not in syscall_list.CODE
    assert shared == (dumpable != "1" and not in_python)


def test_a_guest_that_is_released_at_once_never_runs(workshop: Workshop) -> None:
    requests = [workshop.request("sh", "-c", "echo I ran") for _ in range(5)]
    os.kill(workshop.spawner.pid, signal.SIGSTOP)  # until it can read the releases as well
    numbers = [workshop.spawner.request(request) for request in requests]
    for number in numbers:
        workshop.spawner.release(number)
    os.kill(workshop.spawner.pid, signal.SIGCONT)
    for n, number in enumerate(numbers, 1):
        event = workshop.wait(number, "failed")
        assert (event["step"], event["message"]) == ("gate", "released before it was ready")
        assert members(workshop.group(n) / "payload") == []
        assert workshop.output(n) == ""


def test_a_release_that_comes_early_answers_no_other_question_of_the_guest(workshop: Workshop) -> None:
    request = workshop.request("sh", "-c", "id -u", user="app")
    os.kill(workshop.spawner.pid, signal.SIGSTOP)
    number = workshop.spawner.request(request)
    workshop.spawner.release(number)
    os.kill(workshop.spawner.pid, signal.SIGCONT)
    event = workshop.wait(number, "failed")
    assert event["message"] == "released before it was ready"
    assert members(workshop.group(1) / "payload") == []


def test_a_guest_killed_at_the_gate_is_reported(workshop: Workshop) -> None:
    guest = workshop.ready(workshop.request("true"))
    os.kill(guest.pid, signal.SIGKILL)
    event = workshop.wait(guest.number, "failed")
    assert (event["step"], event["message"]) == ("gate", "killed by signal 9")


@pytest.mark.parametrize(
    ("script", "ending"),
    [("exit 0", {"code": 0}), ("exit 7", {"code": 7}), ("kill -9 $PPID; echo $$", {"code": 0})],
)
def test_the_exit_code_of_a_guest_is_reported(
    workshop: Workshop, script: str, ending: dict[str, int]
) -> None:
    guest = workshop.run(workshop.request("sh", "-c", script))
    event = workshop.wait(guest.number, "exited")
    assert event == {"id": guest.number, "event": "exited", **ending}


def test_the_signal_that_ends_a_guest_is_reported(workshop: Workshop) -> None:
    guest = workshop.run(workshop.request("sleep", "1000"))
    os.kill(guest.pid, signal.SIGKILL)
    assert workshop.wait(guest.number, "exited") == {"id": guest.number, "event": "exited", "signal": 9}


def test_many_guests_at_once_each_get_their_own(workshop: Workshop) -> None:
    requests = [
        workshop.request("sh", "-c", "hostname; echo $N", env={"PATH": "/bin", "N": str(n)})
        for n in range(1, 31)
    ]
    numbers = [workshop.spawner.request(request) for request in requests]
    for number in numbers:
        workshop.wait(number, "ready")
        workshop.spawner.release(number)
    for number in numbers:
        workshop.wait(number, "running")
        assert workshop.wait(number, "exited")["code"] == 0
    for n in range(1, 31):
        assert workshop.output(n) == f"guest{n}\n{n}\n"


def test_a_request_may_be_large(workshop: Workshop) -> None:
    env = {"PATH": "/bin"} | {f"BIG{n}": "x" * 100_000 for n in range(10)}
    assert workshop.shell("echo ${#BIG0} ${#BIG9}", env=env) == "100000 100000\n"
