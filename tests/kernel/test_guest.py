"""What a guest is, from its first instruction."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import struct
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests import leaks
from tests.features import hierarchies
from tests.kernel.guests import (
    MASK,
    STANDARD_MOUNTS,
    Workshop,
    bind,
    ended,
    members,
    mounts_in,
)
from vsprov.engine.run.spawn import Spawner

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


@pytest.mark.vm_subset
def test_a_guest_is_the_first_process_in_namespaces_of_its_own(workshop: Workshop) -> None:
    listing = " ".join(f"/proc/self/ns/{name}" for name in NAMESPACES)
    lines = workshop.shell(
        f'echo $$; hostname; for n in {listing}; do readlink $n; done; seen=$(ps); echo "$seen" | wc -l'
    ).splitlines()
    assert lines[:2] == ["1", "guest1"]
    host = [os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES]
    assert [line.split(":")[0] for line in lines[2:9]] == list(NAMESPACES)
    assert not set(lines[2:9]) & set(host)
    assert lines[9] == "3"  # the heading, the shell, ps: nobody else is to be seen


@pytest.mark.vm_subset
def test_a_guest_has_the_eleven_capabilities_and_gains_none(workshop: Workshop) -> None:
    status = workshop.shell("cat /proc/self/status")
    caps = {
        line.split(":")[0]: line.split()[1]
        for line in status.splitlines()
        if line.startswith(("Cap", "NoNew"))
    }
    mask = f"{MASK:016x}"
    assert caps == {
        "CapInh": "0" * 16,
        "CapPrm": mask,
        "CapEff": mask,
        "CapBnd": mask,
        "CapAmb": "0" * 16,
        "NoNewPrivs": "1",
    }


def test_a_user_other_than_root_has_no_effective_capability(workshop: Workshop) -> None:
    status = workshop.shell("cat /proc/self/status", user="1000")
    assert f"CapEff:\t{0:016x}" in status
    assert f"CapPrm:\t{0:016x}" in status
    assert f"CapBnd:\t{MASK:016x}" in status


@pytest.mark.vm_subset
def test_a_guest_sees_exactly_the_expected_mounts(workshop: Workshop) -> None:
    text = workshop.shell("cat /proc/self/mountinfo")
    assert mounts_in(text) == STANDARD_MOUNTS
    assert str(workshop.folder) not in text


@pytest.mark.vm_subset
def test_each_run_has_a_boot_id_of_its_own_which_it_can_read_and_not_change(workshop: Workshop) -> None:
    file = "/proc/sys/kernel/random/boot_id"
    script = f"cat {file}; (echo x > {file}) 2>/dev/null || cat {file}"
    runs = [workshop.shell(script, read_only_paths=["/proc/sys"]).splitlines() for _ in range(2)]
    ids = {Path(file).read_text().strip()}
    for said, again in runs:
        assert uuid.UUID(said).version == 4 and str(uuid.UUID(said)) == said == again
        ids.add(said)
    assert len(ids) == 3


def test_nothing_changes_in_the_mounts_of_the_host(workshop: Workshop) -> None:
    before = leaks.mounts_of_host()
    workshop.run(workshop.request("sleep", "1000"))
    assert leaks.mounts_of_host() == before


def test_the_standard_devices_work_and_no_other_can_be_made(workshop: Workshop) -> None:
    said = workshop.shell(
        "cd /dev; stat -c '%n %t:%T %a' null zero full random urandom tty;"
        "echo gone > null; head -c 3 zero | wc -c;"
        "for link in ptmx fd stdin stdout stderr; do readlink $link; done;"
        "for place in / /dev /tmp /dev/shm; do if mknod $place/b b 8 0 2>/dev/null; then echo made; fi; done;"
        "ls -A /dev | wc -l"
    )
    assert said.splitlines() == [
        *("null 1:3 666", "zero 1:5 666", "full 1:7 666", "random 1:8 666", "urandom 1:9 666", "tty 5:0 666"),
        "3",
        *("pts/ptmx", "/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2"),
        "15",
    ]


def test_a_device_node_in_the_image_cannot_be_opened(workshop: Workshop) -> None:
    os.mknod(workshop.image / "zero", 0o020666, os.makedev(1, 5))
    (workshop.image / "dev/null").write_text("a file of the image\n")
    said = workshop.shell("head -c 1 /zero 2>&1 || stat -c %F /dev/null")
    assert said.splitlines() == ["head: /zero: Permission denied", "character special file"]


@pytest.mark.vm_subset
def test_no_descriptor_of_the_host_is_left_open(workshop: Workshop) -> None:
    spare = os.open("/etc", os.O_RDONLY)
    os.set_inheritable(spare, True)
    try:
        with Spawner() as workshop.spawner:
            # As pid 1 the shell shows what execve left; its own pipes close again.
            said = workshop.shell("for f in /proc/1/fd/*; do echo ${f##*/} $(readlink $f); done")
    finally:
        os.close(spare)
    console = workshop.folder / "1/console"
    assert [line for line in said.splitlines() if "pipe:" not in line] == [
        "0 /dev/null",
        f"1 {console}",
        f"2 {console}",
    ]


@pytest.mark.vm_subset
def test_a_guest_is_in_its_groups_before_its_first_instruction(workshop: Workshop) -> None:
    request = workshop.request("cat", "/proc/self/cgroup")
    guest = workshop.ready(request)
    for group in (request["cgroup"]["payload"], *request["cgroup"]["attach"]):
        assert members(Path(group)) == [guest.pid]
    workshop.spawner.release(guest.number)
    assert workshop.wait(guest.number, "running", "exited")
    workshop.wait(guest.number, "exited")
    seen = {line.split(":")[1]: line.split(":")[2] for line in workshop.output().splitlines()}
    attached = [name for name in hierarchies() if workshop.group(1, name).is_dir()]
    assert {name: seen[name] for name in attached} == dict.fromkeys(attached, "/")


def test_a_guest_has_a_session_and_default_signals_whatever_its_maker_ignores(workshop: Workshop) -> None:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        with Spawner() as workshop.spawner:
            session = workshop.shell("cut -d' ' -f1,5,6 /proc/1/stat")
            # Not by a shell: as pid 1 it ignores a signal of its own choice.
            workshop.end(workshop.request("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)
    assert session == "1 1 1\n"
    assert workshop.output().splitlines() == [f"SigBlk:\t{0:016x}", f"SigIgn:\t{0:016x}"]


def test_only_the_loopback_device_exists_and_it_is_up(workshop: Workshop) -> None:
    said = workshop.shell(
        "ls /sys/class/net; cat /sys/class/net/lo/flags; ls /proc/sys/net/ipv4/conf | wc -l"
    )
    assert said.splitlines() == ["lo", "0x9", "3"]


def test_environment_directory_umask_and_limits_are_those_of_the_request(workshop: Workshop) -> None:
    said = workshop.shell(
        "env -u SHLVL -u PWD -u OLDPWD env | sort; pwd; umask; ulimit -n; ulimit -Hn",
        env={"PATH": "/bin", "A": "b c", "UMLAUT": "ä"},
        cwd="/srv",
        umask=0o027,
        rlimits=[(resource.RLIMIT_NOFILE, 100, 200)],
    )
    assert said.splitlines() == ["A=b c", "PATH=/bin", "UMLAUT=ä", "/srv", "0027", "100", "200"]


def test_limits_not_asked_for_are_those_of_the_client(workshop: Workshop) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert workshop.shell("ulimit -n; ulimit -Hn").split() == [str(soft), str(hard)]


def test_a_seccomp_filter_is_in_force_whether_or_not_privileges_may_be_gained(workshop: Workshop) -> None:
    number = {"x86_64": 83, "aarch64": 34}[os.uname().machine]  # mkdir, mkdirat
    program = b"".join(
        struct.pack("HBBI", *line)
        for line in (
            (0x20, 0, 0, 0),
            (0x15, 0, 1, number),
            (0x06, 0, 0, 0x50000 | errno.EXDEV),
            (0x06, 0, 0, 0x7FFF0000),
        )
    )
    for no_new_privs in (True, False):
        said = workshop.shell(
            "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status; mkdir /x 2>&1 || true",
            seccomp=program,
            no_new_privs=no_new_privs,
        )
        assert said.splitlines() == [
            f"NoNewPrivs:\t{int(no_new_privs)}",
            "Seccomp:\t2",
            "mkdir: can't create directory '/x': Invalid cross-device link",
        ]


def test_without_an_id_map_the_guest_has_the_hosts_ids(workshop: Workshop) -> None:
    said = workshop.shell(
        "readlink /proc/self/ns/user; cat /proc/self/uid_map; stat -c %u /etc /bin", id_map=None
    )
    assert said.splitlines() == [
        os.readlink("/proc/self/ns/user"),
        f"{0:10} {0:10} {4294967295:10}",
        "0",
        "0",
    ]


def test_a_guest_whose_calls_are_made_in_python_is_the_same(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = workshop.folder / "source"
    source.mkdir()
    (source / "file").touch()
    script = (
        "hostname; grep -E '^(Cap|NoNew|Sig|Uid|Gid|Groups|Seccomp)' /proc/self/status;"
        "cut -d' ' -f5- /proc/self/mountinfo; cut -d: -f2- /proc/self/cgroup; pwd; umask; ulimit -n; env;"
        "ls -ln /dev /mapped/new; wc -c < /proc/version"
    )
    changes: dict[str, Any] = {
        "hostname": "same",
        "user": "app",
        "cwd": "/srv",
        "masks": ["/proc/version", "/proc/bus", "/none"],
        "read_only_paths": ["/proc/sys", "/none"],
        "rlimits": [(resource.RLIMIT_NOFILE, 100, 200)],
        "mounts": [
            bind(source, "/mapped/new", idmap=True),
            {"type": "tmpfs", "target": "/cache", "size": 65536},
        ],
        "env": {"PATH": "/nowhere:/bin", "A": "b"},
    }
    said = []
    for switch in ("1", "0"):
        monkeypatch.setenv("VSPROV_MACHINE_CODE", switch)
        with Spawner() as workshop.spawner:
            said.append(
                re.sub(
                    r"upperdir=\S*|\d+:\d+|[A-Z][a-z]{2} [ \d:]+|[ug]id=\d+",
                    "",
                    workshop.shell(script, **changes),
                )
            )
            failures = [
                workshop.failure(workshop.request("none", env={"PATH": "/nowhere:/bin"})),
                workshop.failure(workshop.request("/etc/probe")),
                workshop.failure(workshop.request("true", cwd="/proc/self/fd/3")),
                workshop.failure(workshop.request("true", user="nobody-here")),
            ]
            assert [(each["step"], each["errno"]) for each in failures] == [
                ("exec none", errno.ENOENT),
                ("exec /etc/probe", errno.EACCES),
                ("working directory /proc/self/fd/3", errno.ELOOP),
                ("user nobody-here", errno.ENOENT),
            ]
            guest = workshop.ready(workshop.request("sh", "-c", "echo I ran"))
        assert ended(guest.pid)
        assert workshop.output() == ""
    assert said[0] == said[1]
    assert said[0].startswith("same\n")
