"""What the spawner refuses to make, and what it says then."""

from __future__ import annotations

import errno
import os
import resource
import select
import stat
import subprocess
from pathlib import Path

import pytest

from tests.features import requires
from tests.kernel.guests import (
    Workshop,
    bind,
    members,
)
from vsprov.engine.run import spawn
from vsprov.errors import FailedError
from vsprov.kernel import process


@pytest.mark.parametrize(
    ("argv", "number"),
    [
        (["/none"], errno.ENOENT),
        (["none"], errno.ENOENT),
        (["/etc"], errno.EACCES),
        (["/etc/passwd"], errno.EACCES),
        (["/garbage"], errno.ENOEXEC),
        (["/script"], errno.ENOENT),
    ],
)
@pytest.mark.vm_subset
def test_a_command_that_cannot_be_executed_is_named(workshop: Workshop, argv: list[str], number: int) -> None:
    (workshop.image / "garbage").write_bytes(b"\0garbage")
    (workshop.image / "script").write_text("#!/no/such/interpreter\n")
    for name in ("garbage", "script"):
        (workshop.image / name).chmod(0o755)
    event = workshop.failure(workshop.request(*argv))
    assert (event["step"], event["errno"]) == (f"exec {argv[0]}", number)
    assert members(workshop.group(1) / "payload") == []


def test_what_the_host_lacks_is_named_and_other_guests_go_on(workshop: Workshop) -> None:
    missing = str(workshop.folder / "missing")
    requests = [
        (workshop.request("true", root={"lower": [missing]}), "mount root", missing),
        (workshop.request("true", root={"upper": missing}), "mount root", missing),
        (workshop.request("true", mounts=[bind(Path(missing), "/srv")]), "mount /srv", missing),
        (workshop.request("true", cgroup={"payload": missing}), "cgroup", missing),
        (
            workshop.request("true", cgroup={"attach": [missing]}),
            f"cgroup {missing}",
            f"{missing}/cgroup.procs",
        ),
        (workshop.request("true", console=f"{missing}/log"), "console", f"{missing}/log"),
        (workshop.request("true", reaper=missing), "reaper", missing),
    ]
    survivor = workshop.run(workshop.request("sleep", "1000"))
    for request, step, path in requests:
        event = workshop.failure(request)
        assert (event["step"], event["errno"], event["path"]) == (step, errno.ENOENT, path)
    assert process.start_time(survivor.pid) == survivor.start
    assert len(os.listdir(f"/proc/{workshop.spawner._pid}/task")) == 1


def test_a_malformed_request_fails_alone(workshop: Workshop) -> None:
    request = workshop.request("true")
    del request["root"]
    event = workshop.failure(request)
    assert event["message"] == "KeyError('root')"
    assert workshop.shell("echo still here") == "still here\n"


def test_a_guest_with_more_to_hide_than_is_kept_is_made_too(workshop: Workshop) -> None:
    masks = [f"/etc/none-{n}" for n in range(300)]
    assert workshop.shell("wc -c < /etc/probe", masks=[*masks, "/etc/probe"], read_only_paths=masks) == "0\n"


def test_many_mounts_are_made_in_their_order(workshop: Workshop) -> None:
    source = workshop.folder / "source"
    mounts = []
    for n in range(210):
        (source / str(n)).mkdir(parents=True)
        (source / str(n) / f"file{n}").touch()
        mounts.append(bind(source / str(n), f"/srv/{n % 200}/deep/er"))
    said = workshop.shell("ls /srv/3/deep/er /srv/199/deep/er; ls /srv | wc -l", mounts=mounts)
    assert said.split() == ["/srv/199/deep/er:", "file199", "/srv/3/deep/er:", "file203", "200"]


def test_a_console_that_is_a_link_is_refused(workshop: Workshop) -> None:
    request = workshop.request("true")
    target = workshop.folder / "target"
    console = Path(request["console"])
    console.unlink()
    console.symlink_to(target)
    event = workshop.failure(request)
    assert (event["step"], event["errno"]) == ("console", errno.ELOOP)
    assert not target.exists()


def test_a_console_that_is_a_regular_file_is_refused(workshop: Workshop) -> None:
    request = workshop.request("true")
    console = Path(request["console"])
    console.unlink()
    console.write_text("kept")
    event = workshop.failure(request)
    assert (event["step"], event["errno"], event["message"]) == ("console", errno.EINVAL, "not a FIFO")
    assert console.read_text() == "kept"


@pytest.mark.parametrize("user", ["0:0", "1000:1001"])
def test_every_user_of_a_guest_may_open_its_console_again(workshop: Workshop, user: str) -> None:
    """Opening /dev/stdout cannot truncate it; fifo(7)."""
    script = "echo one; echo two > /dev/stdout; echo three >> /dev/stderr; echo four > /proc/1/fd/1"
    request = workshop.request("sh", "-c", script, user=user)
    workshop.end(request)
    assert workshop.output() == "one\ntwo\nthree\nfour\n"


def test_the_console_is_created_for_the_guest(workshop: Workshop) -> None:
    request = workshop.request("sh", "-c", "sleep 1000")
    console = Path(request["console"])
    console.unlink()
    workshop.run(request)
    found = console.stat()
    assert (found.st_uid, found.st_gid) == (request["id_map"]["base"],) * 2
    assert found.st_mode == stat.S_IFIFO | 0o622


def test_a_guest_outlives_the_reader_of_its_console(workshop: Workshop) -> None:
    """No SIGPIPE, and none that opens it waits for a reader."""
    script = "read go < /go; echo one && echo two > /dev/stdout && exit 7"
    os.mkfifo(workshop.image / "go")
    guest = workshop.run(workshop.request("sh", "-c", script))
    os.close(workshop.consoles.pop(workshop.made))
    with open(f"/proc/{guest.pid}/root/go", "w") as go:
        go.write("go\n")
    assert workshop.wait(guest.number, "exited")["code"] == 7


@pytest.mark.parametrize(
    "cwd", [*(f"/proc/self/fd/{n}" for n in range(3, 12)), "/link", "/none/../no", "/etc/probe"]
)
def test_a_working_directory_outside_or_absent_is_refused(workshop: Workshop, cwd: str) -> None:
    (workshop.image / "link").symlink_to("/proc/self/cwd")
    event = workshop.failure(workshop.request("pwd", cwd=cwd))
    assert event["step"] == f"working directory {cwd}"
    assert event["errno"] in (errno.ELOOP, errno.ENOENT, errno.ENOTDIR)


# -- the reaper


@pytest.mark.parametrize("program", ["catatonit", "tini-static"])
def test_the_reaper_is_the_first_process_though_the_image_holds_none(
    workshop: Workshop, program: str
) -> None:
    requires(program.partition("-")[0])
    path = subprocess.run(["which", program], check=True, capture_output=True, text=True).stdout.strip()
    script = (
        "readlink /proc/1/exe; tr '\\0' ' ' < /proc/1/cmdline; echo; echo $PPID;"
        "if sh -c ': > /proc/1/exe' 2>/dev/null; then echo overwritten; fi; exit 9"
    )
    guest = workshop.run(workshop.request("sh", "-c", script, reaper=path))
    assert workshop.wait(guest.number, "exited") == {"id": guest.number, "event": "exited", "code": 9}
    lines = workshop.output().splitlines()
    assert [lines[0], *lines[2:]] == [f"/memfd:{program} (deleted)", "1"]
    assert lines[1].startswith(f"{path} -- /bin/sh -c ")


def test_a_command_missing_below_the_reaper_is_named_too(workshop: Workshop) -> None:
    requires("catatonit")
    event = workshop.failure(workshop.request("none", reaper="/usr/bin/catatonit"))
    assert (event["step"], event["errno"], event["path"]) == ("exec none", errno.ENOENT, "none")


def test_one_that_was_started_ahead_ends_unused_and_what_needs_one_says_why_there_is_none() -> None:
    with spawn.ahead() as spawner:
        assert spawner is not None
        pidfd = os.pidfd_open(spawner.pid)
    assert select.select([pidfd], [], [], 0)[0]
    os.close(pidfd)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with spawn.ahead() as spawner:
            assert spawner is None
        with pytest.raises(FailedError, match="spawner: start: Too many open files"):
            spawn.Spawner()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
