"""Snapshots that the keeper makes by the schedule of a server, and those that it keeps."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.layers import disk
from tests.kernel.layers import mounted as mounted_at
from tests.lab import Document, Lab, image, mounted, server, volume, wait_until

HOST = image()
DUE, MADE = "trusted.vsprov.snapshots-due", "trusted.vsprov.snapshots-made"
MIB = 1 << 20
YEARLY = "0 0 1 1 *"


def scheduled(name: str = "web1", schedule: str = "@yearly", keep: Any = 3, **spec: Any) -> Document:
    return server(name, snapshots={"schedule": schedule, "keep": keep}, **spec)


def snapshots(lab: Lab, *, by_schedule: bool = True) -> list[str]:
    items = json.loads(lab.vsprov("snapshot", "ls", "-o", "json").stdout)["items"]
    return [each["name"] for each in items if each["scheduled"] == by_schedule]


def due(lab: Lab, name: str = "web1") -> float:
    return float(os.getxattr(lab.directory(name), DUE).decode().split()[0])


def make_due(lab: Lab, name: str = "web1", *, at: float | None = None) -> None:
    """Let the next snapshot be due at a time; whoever starts or informs the keeper has to follow."""
    schedule = os.getxattr(lab.directory(name), DUE).decode().partition(" ")[2]
    os.setxattr(lab.directory(name), DUE, f"{time.time() - 60 if at is None else at:.3f} {schedule}".encode())


def status(lab: Lab, name: str = "web1") -> Any:
    return json.loads(lab.vsprov("get", "server", name, "-o", "json").stdout)["status"]


def condition(lab: Lab, name: str = "web1") -> tuple[str, str, str]:
    (found,) = (one for one in status(lab, name)["conditions"] if one["type"] == "SnapshotsMade")
    return found["status"], found["reason"], found["message"]


def thawed(lab: Lab) -> bool:
    return "frozen 0" in (lab.group("web1") / "cgroup.events").read_text()


@pytest.mark.vm_subset
def test_a_schedule_begins_changes_and_ends_without_a_restart(lab: Lab) -> None:
    lab.apply(HOST, server("web1"))
    first = lab.init("web1")
    (change,) = lab.plan(HOST, scheduled())["resource_changes"]
    assert change["disruption"] == "live"
    lab.converge(HOST, scheduled())
    assert lab.init("web1") == first
    assert time.localtime(due(lab))[1:6] == (1, 1, 0, 0, 0)
    assert condition(lab) == ("Unknown", "NotDueYet", "")
    coming = status(lab)["snapshots"]["next"]
    assert f"Snapshot:  Server/web1 at {coming}" in lab.vsprov("keeper", "status").stdout
    assert "@yearly; next: " in lab.vsprov("describe", "server", "web1").stdout
    lab.converge(HOST, scheduled(schedule="30 3 * * mon"))
    assert time.localtime(due(lab))[3:7] == (3, 30, 0, 0)
    lab.converge(HOST, server("web1"))
    assert lab.init("web1") == first and status(lab)["snapshots"] is None
    assert "snapshots" not in " ".join(os.listxattr(lab.directory("web1")))
    assert "Snapshot:" not in lab.vsprov("keeper", "status").stdout


@pytest.mark.vm_subset
def test_the_keeper_makes_them_on_time_with_volumes_and_removes_only_those_that_it_has_made(lab: Lab) -> None:
    lab.apply(HOST, volume("data"), scheduled(mounts=[mounted("data")]))
    first = lab.init("web1")
    lab.vsprov("snapshot", "create", "web1", "auto-by-hand")
    for number in range(4):
        lab.shell("web1", f"echo {number} > /data/file")
        make_due(lab, at=time.time() + 0.3)
        keep = {"last": 2, "yearly": 1 + number % 2}  # another one, so that the keeper is informed
        lab.apply(HOST, volume("data"), scheduled(keep=keep, mounts=[mounted("data")]))
        wait_until(lambda: due(lab) > time.time() + 1)
        assert len(_files(lab)) == min(number + 1, 2) and _files(lab)[-1] == f"{number}\n"
    assert _files(lab) == ["2\n", "3\n"]
    assert snapshots(lab, by_schedule=False) == ["auto-by-hand"]
    assert condition(lab) == ("True", "Made", snapshots(lab)[-1])
    assert lab.init("web1") == first and thawed(lab)
    assert lab.is_settled(HOST, volume("data"), scheduled(keep=keep, mounts=[mounted("data")]))


def _files(lab: Lab) -> list[str]:
    """What the file of the volume was in each snapshot by schedule, the oldest first."""
    top = lab.directory("web1") / "snapshots"
    return [(top / name / "volumes/data/file").read_text() for name in snapshots(lab)]


def test_one_that_was_missed_while_the_server_was_stopped_is_shown_and_made_at_its_start(lab: Lab) -> None:
    lab.apply(HOST, scheduled())
    lab.vsprov("stop", "web1")
    make_due(lab)
    state, reason, message = condition(lab)
    assert (state, reason) == ("False", "Stopped") and "the server does not run" in message
    assert status(lab)["snapshots"]["next"] is None
    lab.vsprov("start", "web1")
    wait_until(lambda: due(lab) > time.time())
    assert len(snapshots(lab)) == 1 and condition(lab)[:2] == ("True", "Made")


def test_one_that_was_missed_without_a_keeper_is_made_by_the_next_one(lab: Lab) -> None:
    lab.apply(HOST, scheduled(), server("other"))
    os.kill(lab.keeper(), signal.SIGKILL)
    wait_until(lambda: not list((lab.group(".keeper") / "cgroup.procs").read_text().split()))
    make_due(lab)
    assert condition(lab)[:2] == ("False", "Late")
    assert "not watched by a keeper (logs, snapshots)" in lab.vsprov("get", "servers").stderr
    lab.apply(HOST, scheduled(), server("other"))
    wait_until(lambda: due(lab) > time.time())
    assert len(snapshots(lab)) == 1


def test_a_keeper_that_is_killed_while_a_snapshot_is_made_loses_nothing(lab: Lab) -> None:
    lab.apply(HOST, scheduled())
    lab.shell("web1", "cd /srv; i=0; while [ $i -lt 5000 ]; do i=$((i+1)); echo > f$i; done")
    make_due(lab)
    lab.apply(HOST, scheduled(keep=4))
    wait_until(lambda: not thawed(lab) or due(lab) > time.time())
    os.kill(lab.keeper(), signal.SIGKILL)
    wait_until(lambda: due(lab) > time.time())  # what it has started goes on
    assert len(snapshots(lab)) == 1 and thawed(lab)


@contextmanager
def small(lab: Lab, folder: Path) -> Iterator[None]:
    """A state root with little room."""
    lab.vsprov.root.mkdir()
    with disk("ext4", folder / "disk", 36 * MIB) as point, mounted_at("bind", point, lab.vsprov.root):
        yield
        lab.vsprov("destroy", "--all", "-y")
        (point / "lost+found").rmdir()
    lab.vsprov.root.rmdir()


@pytest.mark.requires("ext4", "loop", "mkfs_ext4")
def test_one_for_which_there_is_no_room_is_shown_until_one_is_made(lab: Lab, tmp_path: Path) -> None:
    with small(lab, tmp_path):
        lab.apply(HOST, scheduled(keep=1))
        make_due(lab)
        lab.apply(HOST, scheduled(keep=2))
        wait_until(lambda: due(lab) > time.time())
        (first,) = snapshots(lab)
        lab.shell("web1", "head -c 20000000 /dev/urandom > /srv/file")
        make_due(lab)
        lab.apply(HOST, scheduled(keep=1))
        wait_until(lambda: due(lab) > time.time())
        state, reason, message = condition(lab)
        assert (state, reason) == ("False", "Failed") and "No space left on device" in message
        assert "snapshot by schedule: " in lab.vsprov("keeper", "status").stdout
        assert thawed(lab) and snapshots(lab) == [first]  # no old one was removed for it
        lab.shell("web1", "rm /srv/file")
        make_due(lab)
        lab.apply(HOST, scheduled(keep=2))
        wait_until(lambda: due(lab) > time.time())
        assert condition(lab)[:2] == ("True", "Made") and len(snapshots(lab)) == 2
        assert "snapshot by schedule: " not in lab.vsprov("keeper", "status").stdout


@pytest.mark.vm_subset
@pytest.mark.requires("own_clock")
def test_a_clock_that_is_put_forward_or_back_changes_when_the_next_one_is_due(lab: Lab) -> None:
    lab.apply(HOST, scheduled(schedule="@daily"))
    coming, before = due(lab), time.clock_gettime(time.CLOCK_REALTIME)
    since = time.monotonic()
    try:
        time.clock_settime(time.CLOCK_REALTIME, coming + 5)
        wait_until(lambda: len(snapshots(lab)) == 1)
        wait_until(lambda: due(lab) > coming)
        time.clock_settime(time.CLOCK_REALTIME, before - 30 * 86_400)
        wait_until(lambda: due(lab) < before)
        assert len(snapshots(lab)) == 1
    finally:
        time.clock_settime(time.CLOCK_REALTIME, before + time.monotonic() - since)


@pytest.mark.parametrize(
    ("snapshots", "message"),
    [
        ({"schedule": "61 * * * *"}, "'61 * * * *': Bad minute"),
        ({"schedule": "* * * *"}, "has 4 fields instead of 5"),
        ({"schedule": "@reboot"}, "'@reboot' is not a schedule"),
        ({"schedule": "0 0 30 2 *"}, "'0 0 30 2 *'"),
        ({"schedule": "@daily", "keep": 0}, "spec.snapshots.keep"),
        ({"schedule": "@daily", "keep": {}}, "spec.snapshots.keep"),
        ({"schedule": "@daily", "keep": {"daily": -1}}, "spec.snapshots.keep.daily"),
        ({"keep": 3}, "schedule"),
    ],
)
def test_what_is_no_schedule_is_refused(shared_lab: Lab, snapshots: Document, message: str) -> None:
    done = shared_lab.apply(HOST, server("web1", snapshots=snapshots), check=False)
    assert done.returncode == 65 and message in done.stderr, done.stderr
