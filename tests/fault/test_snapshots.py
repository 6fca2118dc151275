"""Snapshots that are interrupted, or for which there is no room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.effort import worth_trying
from tests.fault.faults import KILLED
from tests.fault.killing import calls, interrupted, leftovers, listed, run, thawed
from tests.kernel.layers import disk, mounted
from tests.lab import Lab, image, server, wait_until
from vsprov.engine.apply.report import Silent
from vsprov.engine.servers.files import clone as cloning
from vsprov.engine.servers.files import restore as restoring
from vsprov.engine.servers.files import snapshots
from vsprov.engine.work import WorkOptions
from vsprov.store import servers
from vsprov.store.instance import Instance

HOST = image()
MIB = 1 << 20


def create(instance: Instance) -> object:
    return snapshots.create(instance, "web1", "new", Silent(), WorkOptions())


def restore(instance: Instance) -> object:
    return restoring.restore(instance, "web1", "old", Silent(), WorkOptions())


def test_a_snapshot_that_is_killed_leaves_the_server_running_and_nothing_half_made(written: Lab) -> None:
    first = written.init("web1")
    steps = calls(written, create)
    assert {"Popen", "write", "mknod", "link", "syncfs", "renameat2"} <= set(steps)
    written.vsprov("snapshot", "rm", "web1", "new", "-y")
    for number in worth_trying(steps):
        assert run(written, create, number) == KILLED, number
        wait_until(lambda: thawed(written))
        assert written.init("web1") == first
        complete = listed(written)
        assert complete in ([], ["new"])
        done = written.vsprov("snapshot", "create", "web1", "new", check=False)
        assert done.returncode == (1 if complete else 0), (number, steps[number - 1], done.stderr)
        assert listed(written) == ["new"] and leftovers(written) == []
        written.vsprov("snapshot", "rm", "web1", "new", "-y")


def test_a_restore_that_is_killed_leaves_the_old_or_the_new_files_and_the_next_apply_runs_them(
    written: Lab,
) -> None:
    written.vsprov("snapshot", "create", "web1", "old")
    written.shell("web1", "cd /srv; echo new > file; echo new > added")
    written.vsprov("snapshot", "create", "web1", "new")
    old, new = "file\nlink\npipe\ntwin\n", "added\nfile\nlink\npipe\ntwin\n"
    steps = calls(written, restore)
    assert written.shell("web1", "ls /srv") == old
    seen, killed = set(), 0
    for number in worth_trying(steps):
        written.vsprov("snapshot", "restore", "web1", "new", "-y")
        killed += run(written, restore, number) == KILLED  # the number of calls differs a little
        written.apply(HOST, server("web1"))
        assert written.is_settled(HOST, server("web1"))
        files = written.shell("web1", "ls /srv; cat /srv/twin")
        assert files in (f"{old}old\n", f"{new}new\n"), (number, steps[number - 1], files)
        assert leftovers(written) == [], (number, steps[number - 1])
        seen.add(files)
    assert len(seen) == 2 and killed >= 6


@pytest.mark.requires("ext4", "loop", "mkfs_ext4")
def test_without_room_for_a_snapshot_the_server_runs_on_and_nothing_is_left(lab: Lab, tmp_path: Path) -> None:
    lab.vsprov.root.mkdir()
    with (
        disk("ext4", tmp_path / "disk", 36 * MIB) as point,
        mounted("bind", point, lab.vsprov.root),
    ):
        lab.apply(HOST, server("web1"))
        first = lab.init("web1")
        lab.shell("web1", "head -c 20000000 /dev/urandom > /srv/file")
        free = os.statvfs(point).f_bavail
        for words in (("create", "web1", "first"), ("create", "web1", "first")):
            done = lab.vsprov("snapshot", *words, check=False)
            assert done.returncode == 1 and "copy srv/file: No space left on device" in done.stderr
            assert thawed(lab) and lab.init("web1") == first
            assert listed(lab) == [] and leftovers(lab) == []
            wait_until(lambda: os.statvfs(point).f_bavail >= free - 64)
        lab.shell("web1", "rm /srv/file; echo x > /srv/small")
        lab.vsprov("snapshot", "create", "web1", "small")
        lab.shell("web1", "head -c 20000000 /dev/urandom > /srv/file")
        lab.vsprov("destroy", "--all", "-y")
        (point / "lost+found").rmdir()
    lab.vsprov.root.rmdir()


def test_an_interrupted_snapshot_thaws_the_server(written: Lab) -> None:
    code, said = interrupted(written, "snapshot", "create", "web1", "new")
    assert thawed(written)
    assert (code, listed(written)) in ((130, []), (0, ["new"])), said
    assert leftovers(written) == []


def test_what_a_crash_has_left_is_removed_by_the_next_command(written: Lab) -> None:
    making = written.directory("web1") / "snapshots/.making-new/upper"
    making.mkdir(parents=True)
    instance = Instance(written.vsprov.name, str(written.vsprov.root))
    servers.prepare_disk(instance, "web1", 0, lambda path: os.mkdir(f"{path}/upper"))
    assert len(leftovers(written)) == 2
    assert listed(written) == []
    written.vsprov("snapshot", "create", "web1", "other")
    assert leftovers(written) == [] and listed(written) == ["other"]


def clone(instance: Instance) -> object:
    return cloning.clone(instance, "web1", "web2", "", Silent(), WorkOptions())


def test_a_clone_that_is_killed_has_all_files_or_does_not_exist(written: Lab) -> None:
    first = written.init("web1")
    steps = calls(written, clone)
    written.vsprov("delete", "server", "web2", "-y")
    expected = written.shell("web1", "ls /srv; cat /srv/twin")
    killed = 0
    for number in worth_trying(steps):
        killed += run(written, clone, number) == KILLED
        wait_until(lambda: thawed(written))
        assert written.init("web1") == first
        if not written.directory("web2").exists():
            written.vsprov("clone", "web1", "web2")
        written.vsprov("start", "web2")
        assert written.shell("web2", "ls /srv; cat /srv/twin") == expected, (number, steps[number - 1])
        assert leftovers(written) == []
        written.vsprov("delete", "server", "web2", "-y")
    assert killed >= 6
