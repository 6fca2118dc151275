"""Commands that join a running guest: what they are there, and what they hand back."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.instance import CHECKOUT
from tests.kernel.guests import KEPT, MASK, SECONDS, ended, members, open_workshop
from tests.kernel.houses import House, join
from vsprov.engine.run.spawn import start
from vsprov.guest import wire

NAMESPACES = ("ipc", "mnt", "net", "pid", "user", "uts")


@pytest.mark.vm_subset
def test_a_command_is_in_every_namespace_of_the_guest(house: House) -> None:
    listing = " ".join(f"/proc/self/ns/{name}" for name in NAMESPACES)
    said = house.said(f"for n in {listing}; do readlink $n; done; hostname; pwd")
    theirs = [os.readlink(f"/proc/{house.guest.pid}/ns/{name}") for name in NAMESPACES]
    assert said == [*theirs, "guest1", "/"]


@pytest.mark.vm_subset
def test_a_command_is_at_the_root_of_a_cgroup_namespace_of_its_own(house: House) -> None:
    """Runtimes join this path with /sys/fs/cgroup; the host's groups are not seen."""
    own, *groups = house.said("readlink /proc/self/ns/cgroup; cat /proc/self/cgroup")
    assert own != os.readlink("/proc/self/ns/cgroup")
    attached = ("cpu", "memory", "pids", "devices", "freezer", "")
    paths = {line.split(":")[1]: line.split(":")[2] for line in groups}
    assert {name: path for name, path in paths.items() if name in attached and path != "/"} == {}


@pytest.mark.vm_subset
def test_a_command_has_the_guests_capabilities_and_no_inheritable_ones(house: House) -> None:
    said = house.said("grep -E '^(Cap|NoNew)' /proc/self/status")
    zero, mask = f"{0:016x}", f"{MASK:016x}"
    assert said == [
        f"CapInh:\t{zero}",
        f"CapPrm:\t{mask}",
        f"CapEff:\t{mask}",
        f"CapBnd:\t{mask}",
        f"CapAmb:\t{zero}",
        "NoNewPrivs:\t1",
    ]
    init = Path(f"/proc/{house.guest.pid}/status").read_text().splitlines()
    assert [line for line in init if line.startswith(("Cap", "NoNew"))] == said


@pytest.mark.vm_subset
def test_a_command_is_in_the_groups_of_the_guest_and_its_own_of_cgroup2(house: House) -> None:
    with subprocess.Popen(join(house.request("sleep", "1000"), "pipes"), cwd=CHECKOUT) as client:
        group = house.workshop.group(1) / "exec"
        pid = arrived(group, "sleep")
        for attached in house.spawned["cgroup"]["attach"]:
            assert sorted(members(Path(attached))) == sorted([pid, house.guest.pid])
        assert members(group) == [pid]
        client.terminate()
        assert client.wait(SECONDS) == 128 + signal.SIGTERM
    assert members(group) == []


def arrived(group: Path, name: str) -> int:
    """The one process of a group, once it has executed the program of that name."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for pid in members(group):
            with suppress(FileNotFoundError, ProcessLookupError):  # one that an earlier command has left
                if name in Path(f"/proc/{pid}/comm").read_text():
                    return pid
        time.sleep(0.01)
    raise AssertionError(f"no {name} in {group}")


def test_a_command_has_a_session_and_default_signals_of_its_own(house: House) -> None:
    done = house.run("cat", "/proc/self/stat", "/proc/self/status")
    stat, *status = done.stdout.splitlines()
    fields = stat.split()
    assert fields[0] == fields[4] == fields[5]  # pid, process group, session
    assert [line for line in status if line.startswith(("SigBlk", "SigIgn"))] == [
        f"SigBlk:\t{0:016x}",
        f"SigIgn:\t{0:016x}",
    ]


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
@pytest.mark.vm_subset
def test_the_exit_code_is_passed_on(house: House, script: str, code: int) -> None:
    assert house.run("sh", "-c", script).returncode == code


def test_standard_input_and_output_are_the_callers(house: House) -> None:
    done = house.run("sh", "-c", "cat; echo error >&2", input="x" * 300_000)
    assert (done.returncode, done.stdout, done.stderr) == (0, "x" * 300_000, "error\n")


def test_no_descriptor_but_the_standard_three_is_open(house: House) -> None:
    spare = os.open("/etc", os.O_RDONLY)
    try:
        done = subprocess.run(
            join(house.request("sh", "-c", "ls /proc/self/fd"), "pipes"),
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            pass_fds=[spare],
            text=True,
            check=True,
        )
    finally:
        os.close(spare)
    assert done.stdout.split() == ["0", "1", "2", "3"]  # 3 is the directory ls reads


def test_environment_user_directory_and_limits_are_those_of_the_request(house: House) -> None:
    said = house.said(
        "echo $A; pwd; umask; ulimit -n; grep -E '^(Uid|Gid|Groups|CapEff)' /proc/self/status",
        env={"PATH": "/bin", "A": "ä b"},
        user="app",
        cwd="/srv",
        umask=0o077,
        rlimits=[(7, 64, 64)],
    )
    ids = ["Uid:" + "\t1000" * 4, "Gid:" + "\t1001" * 4, "Groups:\t29 44 ", f"CapEff:\t{0:016x}"]
    assert said == ["ä b", "/srv", "0077", "64", *ids]


@pytest.mark.parametrize(("user", "home"), [("0", "/root"), ("app", "/srv"), ("1000:5", "/srv"), ("77", "/")])
def test_the_home_of_who_joins_is_the_images(house: House, user: str, home: str) -> None:
    assert house.said('echo "$HOME"', user=user, home=True) == [home]
    assert house.said('echo "$HOME"', user=user, home=True, env={"PATH": "/bin", "HOME": "/own"}) == ["/own"]


@pytest.mark.parametrize("user", ["0x1", "01", "+1", "1 ", "-1", "4294967295", "4294967296", "1_0"])
def test_a_user_that_is_neither_name_nor_number_is_refused(house: House, user: str) -> None:
    done = house.run("id", "-u", user=user)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"refused 1: user {user}: neither a name nor a number from 0 to 65535\n"


def test_a_number_is_that_user_even_when_another_is_called_so(house: House) -> None:
    assert house.said("echo '1000:x:0:0::/:/bin/sh' >> /etc/passwd") == []
    assert house.said("id -u", user="1000") == ["1000"]
    assert house.said("id -u", user="1") == ["1"]


@pytest.mark.parametrize("number", range(3, 16))
def test_a_working_directory_through_a_descriptor_is_refused(house: House, number: int) -> None:
    done = house.run("pwd", cwd=f"/proc/self/fd/{number}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"refused 1: working directory /proc/self/fd/{number}: ")


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("none", 127, "refused 127: exec none: No such file or directory\n"),
        ("/etc/probe", 126, "refused 126: exec /etc/probe: Permission denied\n"),
        ("/etc", 126, "refused 126: exec /etc: Permission denied\n"),
    ],
)
def test_a_command_that_cannot_be_executed_is_named(house: House, command: str, code: int, said: str) -> None:
    done = house.run(command)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)


@pytest.mark.vm_subset
def test_a_pid_that_is_another_process_now_is_not_joined(house: House) -> None:
    done = house.run("true", start=house.guest.start + 1)
    assert (done.returncode, done.stderr) == (
        1,
        f"refused 1: join: {house.guest.pid}: the server's first process has ended\n",
    )


def test_a_group_that_is_gone_is_named_and_nothing_runs(house: House) -> None:
    missing = str(house.workshop.group(1) / "missing")
    done = house.run("touch", "/ran", cgroup={"payload": missing, "attach": []})
    assert done.stderr == f"refused 1: cgroup: {missing}: No such file or directory\n"
    assert not (house.workshop.folder / "1/upper/ran").exists()


@pytest.mark.parametrize("gone", ["process", "zombie", "group"])
def test_a_server_that_ends_while_it_is_joined_is_said_to_have_ended(house: House, gone: str) -> None:
    missing = str(house.workshop.group(1) / "missing")
    if gone == "process":
        os.kill(house.guest.pid, signal.SIGKILL)
        house.workshop.wait(house.guest.number, "exited")
    elif gone == "zombie":
        os.kill(house.workshop.spawner.pid, signal.SIGSTOP)  # so that nobody reaps it
        os.kill(house.guest.pid, signal.SIGKILL)
        assert ended(house.guest.pid)
    groups = {"cgroup": {"payload": missing, "attach": []}} if gone == "group" else {}
    try:
        done = house.run("true", server="web1", **groups)
    finally:
        os.kill(house.workshop.spawner.pid, signal.SIGCONT)
    assert (done.returncode, done.stderr) == (1, "refused 1: Server/web1: has exited\n")


def test_the_guest_cannot_look_into_a_command_that_is_joining(house: House) -> None:
    spy = (
        "while :; do for p in /proc/[0-9]*; do"
        " case $p in /proc/1|/proc/$$) continue; esac;"
        ' readlink $p/exe $p/cwd $p/fd/* 2>/dev/null | grep -v "^pipe:";'
        " done; done"
    )
    client = subprocess.Popen(
        join(house.request("sh", "-c", spy), "pipes"), cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )
    for _ in range(10):
        assert house.run("true").returncode == 0
    client.terminate()
    seen = client.communicate(timeout=SECONDS)[0].split("\n")
    assert not [
        line for line in seen if "python" in line or str(CHECKOUT) in line or line.startswith("socket:")
    ]


def test_a_command_ends_when_its_client_is_killed(house: House) -> None:
    with subprocess.Popen(join(house.request("sleep", "1000"), "pipes"), cwd=CHECKOUT) as client:
        pid = arrived(house.workshop.group(1) / "exec", "sleep")
        client.kill()
    assert ended(pid)


def test_a_command_ends_when_its_client_is_killed_before_it_has_read_that_it_runs(house: House) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        program, tree = start("enter", theirs.fileno(), session=True, stdio=(None, None, 2))
    os.close(tree)
    null = os.open(os.devnull, os.O_RDWR)
    socket.send_fds(ours, [wire.encode(house.request("sleep", "1000", tty=False))], [null, null, null])
    os.close(null)
    assert select.select([ours], [], [], SECONDS)[0]  # the event, which stays unread
    pid = arrived(house.workshop.group(1) / "exec", "sleep")
    ours.close()
    assert ended(pid)
    os.waitpid(program, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_client_reach_the_command(house: House, number: signal.Signals) -> None:
    script = f"trap 'echo caught; exit 5' {number:d}; echo waiting; while :; do sleep 0.05; done"
    with subprocess.Popen(
        join(house.request("sh", "-c", script), "pipes"), cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout
        assert client.stdout.readline() == "waiting\n"
        client.send_signal(number)
        assert client.stdout.read() == "caught\n"
        assert client.wait(SECONDS) == 5


@pytest.mark.parametrize("numbers", [(signal.SIGTERM,), (signal.SIGHUP,), (signal.SIGINT, signal.SIGINT)])
def test_a_stopped_command_is_ended_by_who_insists(house: House, numbers: tuple[int, ...]) -> None:
    script = f"trap '' {' '.join(str(int(number)) for number in set(numbers))}; kill -STOP $$"
    group = house.workshop.group(1) / "exec"
    with subprocess.Popen(join(house.request("sh", "-c", script), "pipes"), cwd=CHECKOUT) as client:
        pid = arrived(group, "sh")
        while "State:\tT" not in Path(f"/proc/{pid}/status").read_text():
            time.sleep(0.01)
        for number in numbers:
            client.send_signal(number)
            time.sleep(0.2)  # two signals of one kind at once are one
        assert client.wait(SECONDS) == 128 + signal.SIGKILL
    assert members(group) == []


def test_one_interrupt_is_the_commands_own_business(house: House) -> None:
    script = "trap 'echo caught' INT; echo waiting; n=0; while [ $n -lt 60 ]; do sleep 0.05; n=$((n+1)); done"
    with subprocess.Popen(
        join(house.request("sh", "-c", script), "pipes"), cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout and client.stdout.readline() == "waiting\n"
        client.send_signal(signal.SIGINT)
        assert client.stdout.read() == "caught\n"
        assert client.wait(SECONDS) == 0


def test_a_guest_without_a_user_namespace_is_joined_too() -> None:
    with open_workshop() as workshop:
        spawned = workshop.request("sleep", "1000", id_map=None)
        house = House(workshop, workshop.run(spawned), spawned)
        assert house.said("readlink /proc/self/ns/user; grep ^CapEff /proc/self/status") == [
            os.readlink("/proc/self/ns/user"),
            f"CapEff:\t{MASK:016x}",
        ]


def test_a_command_has_the_capabilities_it_is_given(house: House) -> None:
    kept = [number for number in KEPT if number != 5]
    assert house.said("grep ^CapBnd /proc/self/status", capabilities=kept) == [f"CapBnd:\t{MASK & ~32:016x}"]
