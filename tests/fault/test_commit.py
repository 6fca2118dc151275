"""Images made of servers, interrupted, or without room for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.builds import is_whole, top
from tests.effort import worth_trying
from tests.fault.faults import KILLED
from tests.fault.killing import interrupted
from tests.fault.test_snapshots import MIB, calls, run, thawed
from tests.kernel.layers import disk, mounted
from tests.lab import Lab, image, server, wait_until
from vsprov.engine.apply.report import Silent
from vsprov.engine.images import commit as committing
from vsprov.engine.images.commit import Options
from vsprov.engine.work import WorkOptions
from vsprov.store import images
from vsprov.store.instance import Instance

HOST = image()


def store(lab: Lab) -> Instance:
    return Instance(lab.vsprov.name, str(lab.vsprov.root))


def commit(instance: Instance) -> object:
    options = Options(replace=True)
    return committing.commit(instance, "web1", "saved", options, Silent(), WorkOptions())


def saved(lab: Lab) -> str:
    """The digest of the image, which is whole; "" if there is none."""
    record = images.observe(store(lab)).get("saved")
    assert record is None or not record.problem
    return record.digest if record else ""


def test_a_commit_that_is_killed_leaves_the_old_image_or_the_new_one(written: Lab) -> None:
    first = written.init("web1")
    written.vsprov("commit", "web1", "saved")
    written.shell("web1", "echo more > /srv/file")
    steps = calls(written, commit)
    assert {"Popen", "write", "mknod", "link", "unlink", "syncfs", "renameat2"} <= set(steps)
    old, killed, seen = saved(written), 0, set()
    for number in sorted({*worth_trying(steps), len(steps) - 1, len(steps)}):
        written.shell("web1", f"echo {number} > /srv/file")
        killed += run(written, commit, number) == KILLED
        wait_until(lambda: thawed(written))
        assert written.init("web1") == first
        seen.add(saved(written) == old)
        written.apply(HOST, server("web1"))  # which removes what is not used
        is_whole(written)
        written.vsprov("commit", "web1", "saved", "--replace")
        assert (top(written, "saved") / "srv/twin").read_text() == f"{number}\n"
        old = saved(written)
    assert killed >= 6 and seen == {True, False}


def test_an_interrupted_commit_thaws_the_server_and_leaves_nothing(written: Lab) -> None:
    code, said = interrupted(written, "commit", "web1", "saved")
    assert thawed(written)
    assert (code, bool(saved(written))) in ((130, False), (0, True)), said
    is_whole(written)


@pytest.mark.requires("ext4", "loop", "mkfs_ext4")
def test_without_room_for_an_image_the_server_runs_on_and_nothing_is_left(lab: Lab, tmp_path: Path) -> None:
    lab.vsprov.root.mkdir()
    with (
        disk("ext4", tmp_path / "disk", 36 * MIB) as point,
        mounted("bind", point, lab.vsprov.root),
    ):
        lab.apply(HOST, server("web1"))
        lab.vsprov("commit", "web1", "saved")
        first, before = lab.init("web1"), saved(lab)
        lab.shell("web1", "head -c 20000000 /dev/urandom > /srv/file")
        free = os.statvfs(point).f_bavail
        for _ in range(2):
            done = lab.vsprov("commit", "web1", "saved", "--replace", check=False)
            assert done.returncode == 1 and "copy srv/file: No space left on device" in done.stderr
            assert thawed(lab) and lab.init("web1") == first and saved(lab) == before
            is_whole(lab)
            wait_until(lambda: os.statvfs(point).f_bavail >= free - 64)
        lab.shell("web1", "rm /srv/file; echo x > /srv/small")
        lab.vsprov("commit", "web1", "saved", "--replace")
        assert (top(lab, "saved") / "srv/small").read_text() == "x\n"
        lab.vsprov("destroy", "--all", "-y")
        (point / "lost+found").rmdir()
    lab.vsprov.root.rmdir()
