"""What a guest that boots a system finds: a terminal as its console, and what its services need."""

from __future__ import annotations

import os
import select
from typing import Any

import pytest

from tests.effort import emulated
from tests.features import hierarchies
from tests.kernel.guests import KEPT, SECONDS, Workshop
from vsprov.engine.guests import payload
from vsprov.engine.guests.request import MASKED, READ_ONLY
from vsprov.kernel import cgroup, syscall

SYS_ADMIN = 21
SYSTEM = {
    "system": True,
    "systemd": True,
    "capabilities": [*KEPT, SYS_ADMIN],
    "masks": list(MASKED),
    "read_only_paths": list(READ_ONLY),
}


def booting(workshop: Workshop, *command: str) -> dict[str, Any]:
    """A request for a guest that boots a system by this command."""
    request = workshop.request(*command, **SYSTEM)
    base = request["id_map"]["base"]
    for name in payload.DELEGATED:
        os.chown(request["cgroup"]["payload"] + name, base, base)
    return request


def said(workshop: Workshop, script: str) -> list[str]:
    """What a script says on the console of a guest that boots a system, whose init it is."""
    return said_by(workshop, booting(workshop, "sh", "-uc", script))


def said_by(workshop: Workshop, request: dict[str, Any]) -> list[str]:
    number = workshop.spawner.request(request)  # type: ignore[arg-type]
    ready = workshop.wait(number, "ready")
    pidfd = os.pidfd_open(ready["pid"])
    master = syscall.pidfd_getfd(pidfd, ready["terminal"])
    os.close(pidfd)
    try:
        workshop.spawner.release(number)
        workshop.wait(number, "running")
        text = b""
        while True:
            assert select.select([master], [], [], SECONDS)[0]
            try:
                text += os.read(master, 1 << 16)
            except OSError:  # EIO: no process has it open any more
                break
        assert workshop.wait(number, "exited")["code"] == 0, text
        return text.decode().replace("\r\n", "\n").splitlines()
    finally:
        os.close(master)


@pytest.mark.vm_subset
def test_its_console_is_a_terminal_that_nobody_but_the_client_has_the_other_end_of(
    workshop: Workshop,
) -> None:
    script = "readlink /proc/1/fd/0; readlink /proc/1/fd/2; echo through > /dev/console; ls /proc/1/fd; :"
    assert said(workshop, script) == ["/dev/pts/0", "/dev/pts/0", "through", "0  1  2"]


@pytest.mark.vm_subset
def test_cgroup2_is_all_of_sys_fs_cgroup_and_groups_can_be_made_there(workshop: Workshop) -> None:
    script = """
    mkdir /sys/fs/cgroup/a; echo 1 > /sys/fs/cgroup/a/cgroup.procs; cat /proc/self/cgroup
    echo 1 > /sys/fs/cgroup/cgroup.procs
    """
    *_, group = said(workshop, script)
    assert group == "0::/a"
    os.rmdir(workshop.group(1) / "payload/a")


def with_hierarchies(workshop: Workshop, content: str) -> dict[str, Any]:
    """A request for a guest whose init is this program, with the v1 hierarchies of this host."""
    program = workshop.image / "bin/systemd"
    program.write_text(content)
    program.chmod(0o755)
    request = booting(workshop, "/bin/systemd")
    request["hierarchies"] = [
        {"controllers": list(names), "own": not {"cpu", "memory", "pids"}.isdisjoint(names)}
        for names in cgroup.find().read
    ]
    return request


WHERE = "ls -1 /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs 2> /dev/null"
OF_SYSTEMD = {"232": True, "257.13-1": True, "258": False, "": False, "257000": False}


@pytest.mark.parametrize("name", emulated(OF_SYSTEMD, {"257.13-1"}))
def test_a_systemd_sees_hierarchies_of_cgroup_v1_unless_its_version_refuses_them(
    workshop: Workshop, name: str
) -> None:
    script = (
        f"#!/bin/sh\n# libsystemd-shared-{name}.so\n{WHERE}; cat /sys/fs/cgroup/memory/memory.limit*; :\n"
    )
    one = "memory" in hierarchies()
    request = with_hierarchies(workshop, script)
    if one:
        (workshop.group(workshop.made, "memory") / "memory.limit_in_bytes").write_text(str(64 << 20))
    *places, limit = said_by(workshop, request)
    groups = {line.split("/")[-2] for line in places}
    if one and OF_SYSTEMD[name]:
        assert groups == {"unified", "systemd", "memory", "cpu", "pids"}
    else:
        assert groups == ({"cgroup", "memory"} if one else {"cgroup"})
    assert limit == str(64 << 20) if one else "No such file" in limit


@pytest.mark.parametrize("odd", ["fifo", "directory", "link to /proc/kmsg", "absent"])
def test_an_init_that_is_no_program_holds_nobody_up(workshop: Workshop, odd: str) -> None:
    request = with_hierarchies(workshop, "")
    program = workshop.image / "bin/systemd"
    program.unlink()
    if odd == "fifo":
        os.mkfifo(program, 0o755)
    elif odd == "directory":
        program.mkdir()
    elif odd != "absent":
        program.symlink_to("/proc/kmsg")
    number = workshop.spawner.request(request)  # type: ignore[arg-type]
    workshop.wait(number, "ready")
    workshop.spawner.release(number)
    assert workshop.wait(number, "failed")["step"] == "exec /bin/systemd"


@pytest.mark.vm_subset
def test_a_new_proc_and_a_new_sys_may_be_mounted_although_some_of_theirs_is_masked(
    workshop: Workshop,
) -> None:
    script = """
    mkdir /p /s; cat /proc/keys | wc -c
    mount -t proc none /p && mount -t sysfs -o ro none /s && test -e /p/keys -a -d /s/kernel && echo mounted
    """
    assert said(workshop, script) == ["0", "mounted"]


@pytest.mark.vm_subset
def test_its_mounts_are_shared_among_themselves_and_not_with_the_host(workshop: Workshop) -> None:
    lines = said(workshop, "sed 's/ - .*//' /proc/self/mountinfo")
    assert all("shared:" in line for line in lines)
    with open("/proc/self/mountinfo") as file:
        host = {part for line in file for part in line.split() if part.startswith("shared:")}
    assert not host & {part for line in lines for part in line.split() if part.startswith("shared:")}
