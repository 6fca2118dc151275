"""The kernel or the disk says no half way: a clear error, nothing half made, and the next apply mends it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fault.faults import fill
from tests.lab import FILES, Lab, busybox_image, image, pool, server, to_yaml, version, wait_until

BUSY = server("a", resources={"memory": {"max": "64Mi"}, "pids": {"max": 20}, "cpu": {"limit": "500m"}})


@pytest.mark.parametrize("free", [0, 16 << 10, 64 << 10, 128 << 10, 192 << 10, 256 << 10, 512 << 10])
def test_a_full_disk_is_named_and_what_was_begun_is_taken_back(
    small_lab: Lab, small_disk: Path, tmp_path: Path, free: int
) -> None:
    (tmp_path / "source/etc").mkdir(parents=True)
    (tmp_path / "source/etc/blob").write_bytes(os.urandom(150_000))
    documents = (image(), image("blob", directory=str(tmp_path / "source")), server("a"))
    ballast = fill(small_disk, free)
    done = small_lab.apply(*documents, check=False)
    if done.returncode:
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert not small_lab.group("a").exists() or small_lab.processes("a")
    ballast.unlink()
    small_lab.converge(*documents)
    small_lab.vsprov("destroy", "--all", "-y")


def test_a_full_disk_does_not_harm_a_record_that_is_there(small_lab: Lab, small_disk: Path) -> None:
    before = server("a", labels={"a": "b"})
    long = server("a", labels={f"l{number}": "x" * 60 for number in range(60)})
    small_lab.converge(image(), before)
    init = small_lab.init("a")
    ballast = fill(small_disk, 0)
    said = small_lab.refused(image(), long)
    assert "No space left on device" in said and "Server/a" in said
    assert f"\n  hint: free some space on {small_disk} (ext4)\n" in said
    ballast.unlink()
    assert small_lab.init("a") == init
    small_lab.converge(image(), before)
    assert small_lab.init("a") == init


def test_a_full_disk_does_not_keep_a_limit_from_being_changed_live(small_lab: Lab, small_disk: Path) -> None:
    before, after = (server("a", resources={"pids": {"max": number}}) for number in (20, 30))
    small_lab.converge(image(), before)
    init = small_lab.init("a")
    ballast = fill(small_disk, 0)
    said = small_lab.refused(image(), after)
    assert "No space left on device: its record on disk is not up to date" in said
    assert "status.mark: outdated → restored (live)" in said
    assert small_lab.limit("a", "pids.max") == "30" and small_lab.init("a") == init
    ballast.unlink()
    assert small_lab.differences(image(), after) == {
        "Server/a /status/mark": ("outdated", "restored", "live"),
    }
    small_lab.converge(image(), after)
    assert small_lab.init("a") == init


def test_a_full_disk_is_found_before_a_server_is_stopped_for_a_change(
    small_lab: Lab, small_disk: Path
) -> None:
    small_lab.converge(image(), server("a"))
    init = small_lab.init("a")
    ballast = fill(small_disk, 0)
    said = small_lab.refused(image(), server("a", "sleep", "1000000"))
    assert "No space left on device" in said and "stopped" not in said
    assert small_lab.init("a") == init
    ballast.unlink()
    small_lab.converge(image(), server("a", "sleep", "1000000"))
    assert small_lab.init("a") != init


def test_where_a_changed_server_cannot_be_started_it_is_started_as_it_was(lab: Lab) -> None:
    limited = {"resources": {"pids": {"max": 9}}}
    lab.converge(image(), server("a", **limited), server("b"))
    first, other = lab.init("a"), lab.init("b")
    lab.shell("a", "echo kept > /root/note")
    said = lab.refused(image(), server("a", "/no/such/program", resources={"pids": {"max": 8}}), server("b"))
    assert "exec /no/such/program: No such file or directory" in said
    assert "the server was started again as it was before" in said
    assert lab.init("a") != first and lab.init("b") == other
    assert lab.limit("a", "pids.max") == "9" and lab.shell("a", "cat /root/note") == "kept\n"
    assert lab.is_settled(image(), server("a", **limited), server("b"))
    lab.vsprov("restart", "a")
    assert lab.is_settled(image(), server("a", **limited), server("b"))


def test_a_server_whose_new_image_cannot_run_it_gets_the_old_one_back(lab: Lab, tmp_path: Path) -> None:
    root = busybox_image(tmp_path / "root")
    box, a = image("box", directory=str(root)), server("a", "sleep", "1000000", image="box")
    lab.converge(box, a)
    (root / "bin/sleep").unlink()
    said = lab.refused(box, a)
    assert "the server was started again as it was before" in said
    assert lab.shell("a", "ls /bin/sleep") == "/bin/sleep\n"
    assert list(lab.differences(box, a)) == ["Server/a /spec/image"]


def test_a_server_that_cannot_be_started_again_as_it_was_is_said_to_be_stopped(
    lab: Lab, tmp_path: Path
) -> None:
    source = tmp_path / "data"
    source.mkdir()
    mounts = [{"type": "bind", "source": str(source), "target": "/data"}]
    old = server("a", mounts=mounts)
    lab.converge(image(), old)
    source.rmdir()
    said = lab.refused(image(), server("a", "/no/such/program"))
    assert "the server is now stopped; to start it again as before the change failed: " in said
    assert str(source) in said and lab.processes("a") == []
    source.mkdir()
    lab.vsprov("start", "a")
    assert lab.is_settled(image(), old)


def test_a_failed_restart_leaves_the_server_stopped_where_nothing_else_was_wanted(
    lab: Lab, tmp_path: Path
) -> None:
    root = busybox_image(tmp_path / "root")
    box, a = image("box", directory=str(root)), server("a", "/root/sleep", image="box")
    (root / "root/sleep").symlink_to("/bin/sleep")
    a["spec"]["init"]["command"] = ["/root/sleep", "1000000"]
    lab.converge(box, a)
    lab.shell("a", "rm /root/sleep")
    said = lab.vsprov("restart", "a", check=False)
    assert (
        said.returncode == 1
        and "/root/sleep: No such file or directory; the server is now stopped" in said.stderr
    )


@pytest.mark.parametrize("lacking", [{"mounts": [{"type": "bind", "source": "/no/such", "target": "/srv"}]}])
def test_what_the_host_lacks_for_a_start_is_said_before_anything_is_stopped(
    lab: Lab, lacking: dict[str, object]
) -> None:
    lab.converge(image(), server("a"))
    before = lab.init("a")
    said = lab.refused(image(), server("a", **lacking))
    assert "Server/a: spec.mounts[0].source: /no/such: No such file or directory" in said
    assert lab.init("a") == before
    assert lab.is_settled(image(), server("a"))


def test_a_leftover_that_cannot_be_removed_is_named_and_stops_nothing_else(
    small_lab: Lab, small_disk: Path
) -> None:
    small_lab.converge(image(), server("a"))
    kept = small_lab.directory("a") / "upper/kept"
    kept.write_text("x")
    subprocess.run(["chattr", "+i", str(kept)], check=True)
    try:
        said = small_lab.vsprov("destroy", "-y", "--all", check=False)
        assert said.returncode == 1 and "chattr -i" in said.stderr
        again = small_lab.apply(image(), server("b"))
        assert ".removing-a-0: remove kept: Operation not permitted; not removed" in again.stderr
        assert small_lab.init("b")
    finally:
        left = small_lab.vsprov.root / "servers/.removing-a-0/upper/kept"
        subprocess.run(["chattr", "-i", str(left if left.exists() else kept)], check=True)
    small_lab.vsprov("destroy", "-y", "--all")


def test_a_read_only_state_root_can_be_planned_on_but_not_applied_to(
    small_lab: Lab, small_disk: Path
) -> None:
    asleep = server("a", state="Stopped")
    small_lab.converge(image(), asleep, server("runs"))
    init = small_lab.init("runs")
    changed = (image(), server("a", labels={"new": "label"}), server("b"), server("runs"))
    subprocess.run(["mount", "-o", "remount,bind,ro", str(small_disk)], check=True)
    try:
        assert small_lab.plan(*changed)["summary"]["add"] == 1
        said = small_lab.refused(*changed)
        assert "Read-only file system" in said
        assert small_lab.processes("a") == []
        assert not small_lab.group("b").exists()
        restarted = small_lab.vsprov("restart", "runs", check=False)
        assert restarted.returncode == 1 and "restart: Read-only file system" in restarted.stderr
        assert small_lab.init("runs") == init
    finally:
        subprocess.run(["mount", "-o", "remount,bind,rw", str(small_disk)], check=True)
    small_lab.converge(*changed)


@pytest.mark.parametrize("files", [10, 16, 24])
def test_with_few_open_files_it_fails_cleanly_or_not_at_all(lab: Lab, files: int) -> None:
    documents = (image(), *(server(name) for name in "abcdefgh"))
    command = lab.vsprov.command("apply", "-y", "-")
    done = subprocess.run(
        ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *command],
        input=to_yaml(*documents),
        capture_output=True,
        text=True,
        env=lab.vsprov.environment,
    )
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert "Too many open files" in done.stderr or "not enough" in done.stderr
    lab.converge(*documents)


def test_a_low_soft_limit_of_open_files_is_raised_for_what_runs_at_once(lab: Lab) -> None:
    documents = (image(), *(server(f"s{number}") for number in range(40)))
    command = lab.vsprov.command("apply", "-y", "--parallelism", "1024", "-")
    subprocess.run(
        ["sh", "-c", 'ulimit -Sn 48; exec "$@"', "sh", *command],
        input=to_yaml(*documents),
        capture_output=True,
        text=True,
        env=lab.vsprov.environment,
        check=True,
    )
    assert lab.is_settled(*documents)


# -- commands that cannot be run


@pytest.fixture
def broken(tmp_path: Path) -> dict[str, object]:
    """An image with programs that cannot be executed."""
    top = busybox_image(tmp_path / "image")
    (top / "srv/plain").write_text("#!/bin/sh\n")
    (top / "srv/script").write_text("#!/bin/missing\n")
    (top / "srv/garbage").write_bytes(b"\x7fELF and no more")
    for name in ("script", "garbage"):
        (top / "srv" / name).chmod(0o755)
    return image("broken", directory=str(top))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no-such-program", "No such file or directory"),
        ("/srv/missing", "No such file or directory"),
        ("/srv/plain", "Permission denied"),
        ("/srv", "Permission denied"),
        ("/srv/script", "No such file or directory"),
        ("/srv/garbage", "Exec format error"),
    ],
)
def test_a_command_that_cannot_be_executed_is_named_and_nothing_is_left_of_the_server(
    lab: Lab, broken: dict[str, object], command: str, said: str
) -> None:
    documents = (broken, server("good", image="broken"), server("bad", command, image="broken"))
    told = lab.refused(*documents)
    assert "Server/bad" in told and command in told and said in told
    assert "Server/good: created" in told
    assert not lab.group("bad").exists()
    assert not lab.directory("bad").exists()
    good = lab.init("good")
    lab.converge(broken, server("good", image="broken"), server("bad", image="broken"))
    assert lab.init("good") == good


def test_a_working_directory_that_cannot_be_made_is_named(lab: Lab) -> None:
    told = lab.refused(image(), server("a", init={"workingDir": "/etc/passwd/place"}))
    assert "working directory /etc/passwd/place" in told and "Not a directory" in told
    assert not lab.group("a").exists()


def test_a_user_that_the_image_does_not_know_is_named(lab: Lab) -> None:
    told = lab.refused(image(), server("a", init={"user": "nobodyknows"}))
    assert "nobodyknows" in told
    assert not lab.group("a").exists()


def test_a_bind_of_nothing_is_named(lab: Lab) -> None:
    mount = {"type": "bind", "source": "/no/such/source", "target": "/srv/x"}
    told = lab.refused(image(), server("a", mounts=[mount]))
    assert "/no/such/source" in told and "No such file or directory" in told
    assert not lab.group("a").exists()


def test_what_depends_on_a_server_that_fails_is_not_tried(lab: Lab) -> None:
    told = lab.refused(
        image(),
        server("bad", "no-such-program"),
        server("needs", dependsOn=[{"name": "bad"}]),
        server("free"),
    )
    assert "Server/needs: skipped, because Server/bad failed" in told
    assert not lab.group("needs").exists()
    assert lab.init("free")


def test_a_changed_command_that_cannot_be_executed_is_named(lab: Lab) -> None:
    lab.converge(image(), server("a", resources={"pids": {"max": 9}}))
    told = lab.refused(image(), server("a", "no-such-program", resources={"pids": {"max": 9}}))
    assert "Server/a" in told and "no-such-program" in told
    assert lab.init("a")
    lab.converge(image(), server("a", resources={"pids": {"max": 9}}))
    assert lab.init("a")


def test_a_failed_dying_server_does_not_keep_its_pool_from_being_removed(lab: Lab) -> None:
    team = pool("team", memory={"max": "64Mi"})
    lab.refused(image(), team, server("bad", "no-such-program", quota="team"))
    lab.vsprov("destroy", "-y", "-", input=to_yaml(image(), team))
    assert not lab.group("team").exists()


# -- limits the kernel refuses


def sealed(lab: Lab, knob: str, *documents: dict[str, object]) -> subprocess.CompletedProcess[str]:
    """An apply in a mount namespace where the first file of a limit of server a cannot be written to."""
    controller, old, new = FILES[knob]
    file = lab.group("a", controller) / (old if version(controller) == 1 else new)[0]
    script = 'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; shift; exec "$@"'
    command = lab.vsprov.command("apply", "-y", "-")
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh", str(file), *command],
        input=to_yaml(*documents),
        capture_output=True,
        text=True,
        env=lab.vsprov.environment,
    )


@pytest.mark.parametrize("knob", ["memory.max", "pids.max", "cpu.limit"])
def test_when_one_limit_is_refused_the_others_are_taken_back(lab: Lab, knob: str) -> None:
    lab.converge(image(), BUSY)
    init = lab.init("a")
    limits = {"memory": {"max": "96Mi"}, "pids": {"max": 30}, "cpu": {"limit": "700m"}}
    done = sealed(lab, knob, image(), server("a", resources=limits))
    assert done.returncode == 1, done.stderr
    assert "Server/a" in done.stderr and "Read-only file system" in done.stderr
    assert lab.limit("a", "memory.max") == str(64 << 20)
    assert lab.limit("a", "pids.max") == "20"
    assert lab.limit("a", "cpu.limit") == "50000 100000"
    assert lab.init("a") == init
    assert lab.is_settled(image(), BUSY)
    lab.converge(image(), server("a", resources=limits))
    assert lab.init("a") == init


def test_standard_output_that_nobody_reads_is_no_fault(lab: Lab) -> None:
    command = lab.vsprov.command("apply", "-y", "-")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command,
            input=to_yaml(image(), server("a")).encode(),
            stdout=writer,
            stderr=subprocess.PIPE,
            env=lab.vsprov.environment,
        )
    finally:
        os.close(writer)
    assert b"Traceback" not in done.stderr and b"Broken pipe" not in done.stderr, done.stderr
    lab.converge(image(), server("a"))


def test_an_empty_path_of_programs_does_not_matter(lab: Lab) -> None:
    done = lab.apply(image(), server("a"), env={"PATH": "/nonexistent"})
    assert done.returncode == 0
    assert sys.executable
    wait_until(lambda: len(lab.processes("a")) == 1)
