"""The keeper is killed or stopped, or cannot write: no server notices, and the next command puts it right."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.test_probes import REPORTS
from tests.fault.faults import fill
from tests.lab import Lab, busybox_image, image, members, server, to_yaml, wait_for, wait_until
from vsprov.engine.run import keeper
from vsprov.store.instance import Instance

READS = "mkfifo /tmp/go; echo up; read line < /tmp/go"
DOCUMENTS = (image(), server("a"), server("b"))


def end(pid: int, number: int) -> None:
    pidfd = os.pidfd_open(pid)
    os.kill(pid, number)
    wait_for(pidfd)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_next_command_starts_another_which_takes_over_all_servers(lab: Lab, number: int) -> None:
    lab.apply(*DOCUMENTS)
    lab.run("a", "sh", "-c", "echo one > /proc/1/fd/1")
    before, keeper = lab.inits("a", "b"), lab.keeper()
    wait_until(lambda: lab.console("a") == "one\n")
    end(keeper, number)
    for name in before:
        lab.run(name, "sh", "-c", "seq 10000 > /proc/1/fd/1")  # fits in the pipe
    said = lab.vsprov("logs", "a")
    assert said.stdout == "one\n"
    assert said.stderr.startswith("vsprov: Server/a: the end of the log may be missing: no keeper answers")
    assert "none that copies the output of a b" in lab.vsprov("doctor", env={"COLUMNS": "300"}).stdout
    lab.apply(*DOCUMENTS)  # with nothing to do
    assert lab.keeper() != keeper
    assert "none that copies" not in lab.vsprov("doctor", env={"COLUMNS": "300"}).stdout
    lines = [*map(str, range(1, 10001))]
    assert lab.vsprov("logs", "b").stdout.split() == lines
    assert lab.vsprov("logs", "a").stdout.split() == ["one", *lines]
    assert lab.inits("a", "b") == before
    end(lab.init("a").pid, signal.SIGKILL)
    wait_until(lambda: "Exited (SIGKILL)" in lab.vsprov("get", "servers").stdout)


def test_a_server_without_a_fifo_is_taken_over_too(lab: Lab) -> None:
    """As one of a version that let servers write to their logs themselves."""
    lab.apply(*DOCUMENTS)
    end(lab.keeper(), signal.SIGKILL)
    (lab.directory("a") / "console").unlink()
    lab.apply(*DOCUMENTS)
    end(lab.init("a").pid, signal.SIGKILL)
    wait_until(lambda: "Exited (SIGKILL)" in lab.vsprov("get", "servers").stdout)
    lab.apply(*DOCUMENTS)
    lab.run("a", "sh", "-c", "echo here > /proc/1/fd/1")
    assert lab.vsprov("logs", "a").stdout == "here\n"


def test_one_that_does_not_answer_is_replaced(lab: Lab) -> None:
    lab.apply(*DOCUMENTS)
    keeper = lab.keeper()
    os.kill(keeper, signal.SIGSTOP)
    lab.apply(*DOCUMENTS)
    assert lab.keeper() != keeper and not Path(f"/proc/{keeper}/exe").exists()
    lab.run("a", "sh", "-c", "echo here > /proc/1/fd/1")
    assert lab.vsprov("logs", "a").stdout == "here\n"


def test_one_that_dies_during_an_apply_is_replaced_by_that(lab: Lab) -> None:
    lab.apply(image(), server("a"))
    keeper = lab.keeper()
    command = lab.vsprov.command("apply", "-y", "--settle", "1h", "-")
    manifest = to_yaml(image(), server("a"), server("b", "sh", "-c", READS, init={"oneshot": True}))
    applying = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=lab.vsprov.environment
    )
    assert applying.stdin
    applying.stdin.write(manifest)
    applying.stdin.close()
    wait_until(lambda: lab.console("b") == "up\n")
    end(keeper, signal.SIGKILL)
    (lab.root("b") / "tmp/go").write_text("go\n")
    assert applying.wait(60) == 0, applying.stderr.read() if applying.stderr else ""
    assert applying.stderr
    applying.stderr.close()
    assert lab.keeper() != keeper
    lab.run("a", "sh", "-c", "echo here > /proc/1/fd/1")
    assert lab.vsprov("logs", "a").stdout == "here\n"


def test_it_has_neither_the_limits_nor_the_descriptors_of_its_caller(lab: Lab) -> None:
    ours, theirs = os.pipe()  # if the keeper had it open, whoever reads it would wait for the end
    command = ["prlimit", "--fsize=1000000:", "nice", "-n", "5", *lab.vsprov.command("apply", "-y", "-")]
    manifest = to_yaml(image(), server("a", "sh", "-c", "seq 200000; exec sleep 1000"))
    subprocess.run(
        command, input=manifest, text=True, check=True, env=lab.vsprov.environment, pass_fds=(theirs,)
    )
    os.close(theirs)
    assert os.read(ours, 1) == b""
    os.close(ours)
    wait_until(lambda: lab.vsprov("logs", "-n", "1", "a").stdout == "200000\n")
    assert os.getpriority(os.PRIO_PROCESS, lab.keeper()) == 0


def test_without_descriptors_for_more_servers_it_still_answers(lab: Lab) -> None:
    names = [f"s{number}" for number in range(9)]
    command = ["prlimit", "--nofile=46:46", *lab.vsprov.command("apply", "-y", "--parallelism", "1", "-")]
    manifest = to_yaml(image(), *map(server, names))
    done = subprocess.run(
        command, input=manifest, text=True, check=True, env=lab.vsprov.environment, capture_output=True
    )
    assert "Server/s8: keep it: Too many open files" in done.stderr
    before = lab.keeper()
    clients = [keeper.connect(Instance(lab.vsprov.name, str(lab.vsprov.root))) for _ in range(8)]
    assert all(clients) and lab.keeper() == before
    for client in clients:
        assert client and "s0" in client.settle("")["kept"]
        client.close()


def test_a_full_disk_stops_no_server_and_the_log_says_what_is_missing(
    small_lab: Lab, small_disk: Path, tmp_path: Path
) -> None:
    top = busybox_image(tmp_path / "busybox")
    # Open for writing too: its reader would meet the end of the file when a writer closes it late.
    script = "mkfifo /go; exec 3<>/go; echo one; "
    script += "while read line <&3; do seq $line; echo said > /dev/shm/told; done"
    documents = image("busybox", directory=str(top)), server("a", "sh", "-c", script, image="busybox")
    small_lab.apply(*documents)
    ballast = fill(small_disk, 0)

    def go(count: int) -> None:
        root = small_lab.root("a")
        wait_until((root / "go").exists)
        (root / "go").write_text(f"{count}\n")
        wait_until((root / "dev/shm/told").exists)
        (root / "dev/shm/told").unlink()

    go(200_000)  # more than the pipe holds
    done = small_lab.apply(*documents, server("b", image="busybox", state="Stopped"), check=False)
    assert "No space left on device" in done.stderr
    ballast.unlink()
    go(3)
    lines = small_lab.vsprov("logs", "a").stdout.splitlines()
    assert lines[0] == "one" and lines[-3:] == ["1", "2", "3"]
    told = [line for line in lines if line.startswith("[vsprov: ")]
    assert len(told) == 1 and told[0].endswith(" are missing here: No space left on device]")
    small_lab.vsprov("destroy", "--all", "-y")


def test_a_server_that_writes_all_the_time_does_not_keep_others_waiting(lab: Lab) -> None:
    lab.apply(image(), server("loud", "cat", "/dev/zero"), server("quiet"))
    lab.run("quiet", "sh", "-c", "echo here > /proc/1/fd/1")
    assert lab.vsprov("logs", "quiet").stdout == "here\n"
    lab.vsprov("stop", "loud")


def test_so_many_commands_may_wait_for_one_that_does_not_answer_that_no_more_can(lab: Lab) -> None:
    lab.apply(*DOCUMENTS)
    before = lab.keeper()
    os.kill(before, signal.SIGSTOP)
    waiting: list[socket.socket] = []
    try:
        with pytest.raises(BlockingIOError):
            while True:
                waiting.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                waiting[-1].setblocking(False)
                waiting[-1].connect(keeper.address(Instance(lab.vsprov.name, str(lab.vsprov.root))))
        lab.apply(*DOCUMENTS)
    finally:
        for each in waiting:
            each.close()
    assert lab.keeper() != before


def test_a_server_without_its_image_does_not_prevent_that_others_are_taken_over(lab: Lab) -> None:
    lab.apply(image(), server("a", readiness={"exec": ["true"]}), server("b"))
    for manifest in (lab.vsprov.root / "manifests").glob("*.json"):
        manifest.unlink()
    end(lab.keeper(), signal.SIGKILL)
    done = lab.vsprov("stop", "b")
    assert "Server/a: nothing watches it: image " in done.stderr


@pytest.mark.parametrize("when", ["without a keeper", "with the next keeper"])
def test_a_server_that_reports_after_the_keeper_was_killed_is_ready(lab: Lab, when: str) -> None:
    ready = {"notify": True}
    lab.apply(image(), server("a", "/usr/bin/python3", "-c", REPORTS, readiness=ready), server("b"))
    go_on = lab.root("a") / "tmp/go"
    end(lab.keeper(), signal.SIGKILL)
    if when == "without a keeper":
        go_on.touch()
        wait_until(lambda: os.getxattr(lab.group("a"), "trusted.vsprov.reports").endswith(b" ready"))
        assert lab.vsprov("get", "server", "a").stdout.count("Starting") == 1
        lab.vsprov("restart", "b")
    else:
        lab.vsprov("restart", "b")
        go_on.touch()
    wait_until(lambda: "Ready" in lab.vsprov("get", "server", "a").stdout)
    wait_until(lambda: members(lab.group(".keeper/act")) == [])


def reader(lab: Lab) -> int:
    """The process that reads the reports of the server `a`, 0 before it has written its mark."""
    try:
        return int(os.getxattr(lab.group("a"), "trusted.vsprov.reports").split()[2])
    except OSError as error:
        assert error.errno == errno.ENODATA
        return 0


@pytest.mark.parametrize("keeper_too", [False, True])
def test_no_report_is_lost_if_who_reads_them_is_killed(lab: Lab, keeper_too: bool) -> None:
    ready = {"notify": True}
    lab.apply(image(), server("a", "/usr/bin/python3", "-c", REPORTS, readiness=ready), server("b"))
    go_on = lab.root("a") / "tmp/go"
    for _ in range(2):
        wait_until(lambda: reader(lab) != 0)
        victim = reader(lab)
        wait_until(lambda victim=victim: bool(children(victim)))  # type: ignore[misc]
        if keeper_too:
            with suppress(ValueError):  # the first time it is killed; no command starts another
                end(lab.keeper(), signal.SIGKILL)
        end(victim, signal.SIGKILL)
        wait_until(lambda victim=victim: reader(lab) not in (victim, 0) and bool(children(reader(lab))))  # type: ignore[misc]
    go_on.touch()
    wait_until(lambda: os.getxattr(lab.group("a"), "trusted.vsprov.reports").endswith(b" ready"))
    if keeper_too:
        lab.vsprov("restart", "b")
    wait_until(lambda: "Ready" in lab.vsprov("get", "server", "a").stdout)
    wait_until(lambda: members(lab.group(".keeper/act")) == [])


def test_a_spare_that_is_killed_is_replaced_and_none_outlives_its_server(lab: Lab) -> None:
    ready = {"notify": True}
    lab.apply(image(), server("a", "/usr/bin/python3", "-c", REPORTS, readiness=ready), server("b"))
    first = reader(lab)
    (spare,) = children(first)
    end(spare, signal.SIGKILL)
    wait_until(lambda: children(first) not in ([], [spare]))
    lab.vsprov("stop", "a", "--timeout", "0")
    wait_until(lambda: members(lab.group(".keeper/act")) == [])


def children(pid: int) -> list[int]:
    with suppress(FileNotFoundError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
