"""Files that are moved to another disk when vsprov dies in the middle: they are there, once, afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import quotas
from tests.e2e.reboot import lose_power
from tests.fault.crashes import Base, every_step, with_bystander
from tests.fault.faults import Apply
from tests.instance import own_instance
from tests.kernel.layers import disk
from tests.lab import Document, Lab, image, pool, server
from vsprov.store.disk import durable

pytestmark = pytest.mark.requires("overlay", "loop", "ext4", "mkfs_ext4")
ONLY = ("MakeDirectory", "MakeDisk", "MoveDisk", "ForgetDisk", "ResizeDisk", "Stop", "MarkInit")
ONLY += ("LimitPool", "ShareDisk", "ReleasePool")
MIB = 1 << 20


def limited(name: str, backend: str, space: str = "64Mi") -> Document:
    disk = {"disk": {"space": space, "backend": backend}} if backend else {}
    return server(name, resources=disk, init={"stopSignal": "KILL"})


@pytest.fixture(scope="module")
def base() -> Iterator[Base]:
    with with_bystander() as base:
        yield base


@pytest.mark.slow
def test_first_limits_and_last_ones_are_finished_by_the_next_apply(base: Base) -> None:
    before = (image(), limited("live", ""), limited("restarted", "image"))
    dies_at_each_step(base, before, (image(), limited("live", "image"), limited("restarted", "")))


@pytest.mark.slow
@pytest.mark.requires("btrfs", "mkfs_btrfs")
def test_quota_groups_are_made_changed_and_moved_to_by_the_next_apply(tmp_path: Path) -> None:
    with on_btrfs(tmp_path) as folder, with_bystander(parent=folder) as base:
        before = (image(), limited("live", "qgroup"), limited("restarted", "image"))
        after = (
            limited("live", "qgroup", "96Mi"),
            limited("restarted", "qgroup"),
            limited("added", "qgroup"),
        )
        dies_at_each_step(base, before, (image(), *after))


@pytest.mark.slow
@pytest.mark.requires("btrfs", "mkfs_btrfs")
def test_servers_join_the_quota_group_of_a_pool_and_leave_it_by_the_next_apply(tmp_path: Path) -> None:
    with on_btrfs(tmp_path) as folder, with_bystander(parent=folder) as base:
        before, after = pools_before_and_after()
        dies_at_each_step(base, before, after)
        removal_dies_at_each_step(base, after)
        assert quotas.groups(folder) == {}


@pytest.mark.slow  # minutes in the emulated machine: tests/vm/run python -m pytest -m vm_subset FILE
@pytest.mark.vm_subset
@pytest.mark.requires("project_quota")
def test_servers_join_the_project_of_a_pool_and_leave_it_by_the_next_apply() -> None:
    with with_bystander() as base:
        before, after = pools_before_and_after()
        dies_at_each_step(base, before, after, ("MoveDisk", "LimitPool"))
        removal_dies_at_each_step(base, after, ("ReleasePool",))
        assert [number for number in quotas.projects(base.lab.vsprov.folder) if number > 1] == []


def pools_before_and_after() -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """A server that leaves a limited pool, one whose pool gets a limit, and a new one in that."""
    limit = {"space": "64Mi"}
    before = (pool("team", disk=limit), pool("free"), in_pool("live", "team"), in_pool("restarted", "free"))
    after = (pool("team"), pool("free", disk=limit), in_pool("live", ""), in_pool("restarted", "free"))
    return (image(), *before), (image(), *after, in_pool("added", "free"))


def in_pool(name: str, pool: str) -> Document:
    return server(name, init={"stopSignal": "KILL"}, **({"quota": pool} if pool else {}))


def dies_at_each_step(
    base: Base, before: tuple[Document, ...], after: tuple[Document, ...], only: Container[str] = ONLY
) -> None:
    def prepare() -> None:
        base.make(before)
        for name in ("live", "restarted"):
            base.lab.shell(name, "echo kept >/written")

    prepare()
    changed = base.make(after)
    base.remove(after)

    def mend(step: int) -> None:
        assert Apply(base.lab, after).run() == 0, f"after step {step}"
        base.holds(changed, step)
        for name in ("live", "restarted"):
            assert base.lab.shell(name, "cat /written") == "kept\n"
        base.remove(after)

    assert every_step(base, Apply(base.lab, after), prepare, mend, only) > 10


def removal_dies_at_each_step(
    base: Base,
    documents: tuple[Document, ...],
    only: Container[str] = ("RemoveDirectory", "ReleasePool", "RemoveRecord"),
) -> None:
    def prepare() -> None:
        base.make(documents)

    def mend(step: int) -> None:
        base.remove(documents)

    removal = Apply(base.lab, documents, remove=True)
    every_step(base, removal, prepare, mend, only)


@contextmanager
def on_btrfs(parent: Path) -> Iterator[Path]:
    """A folder on a btrfs with quotas."""
    with disk("btrfs", parent / "btrfs", 1024 * MIB) as folder:
        subprocess.run(["btrfs", "quota", "enable", folder], check=True)
        yield folder


# Between these calls, what a server has is in two places.
RENAMES = ("exchange", "rename_new")


@pytest.mark.requires("btrfs", "mkfs_btrfs")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", "image"),
        ("image", ""),
        ("", "qgroup"),
        ("image", "qgroup"),
        ("qgroup", "image"),
        ("image", "more"),
    ],
)
def test_whatever_rename_is_the_last_the_files_are_there_once(tmp_path: Path, old: str, new: str) -> None:
    """Also if the host loses its power: the record says already what the server is to have."""
    with on_btrfs(tmp_path) as folder:
        with own_instance(folder) as instance:
            lab = Lab(instance)
            before, after = (image(), limited("a", old)), (image(), limited("a", new))
            if new == "more":
                after = (image(), limited("a", old, "32Mi"))
                after[1]["spec"]["resources"]["disk"]["inodes"] = 4000
            for number in range(1, 8):
                assert Apply(lab, before).run() == 0
                lab.shell("a", "rm -rf /written /srv; echo kept >/written")
                killed = Apply(lab, after).run(dies_at_rename(number))
                if number % 2:
                    lose_power(lab)
                    lab.vsprov("boot", check=False)
                assert Apply(lab, after).run() == 0
                assert lab.shell("a", "cat /written; test ! -e /srv") == "kept\n"
                assert os.listdir(lab.vsprov.root / "servers") == ["a"]
                stale = lab.directory("a") / "upper"
                assert not {"disk", "disk.img"} & set(os.listdir(lab.directory("a"))) or not os.listdir(stale)
                assert Apply(lab, after, remove=True).run() == 0
                if killed == 0:
                    break
            assert killed == 0 and number > 1, "each rename was the last once"


def dies_at_rename(number: int) -> Any:
    """Have the process kill itself after so many renames of the disk of a server."""

    def prepare() -> None:
        left = [number]

        def counted(rename: Any) -> Any:
            def dies_then(one: str, other: str) -> None:
                rename(one, other)
                if os.path.basename(one) in ("upper", "work", "disk", "disk.img"):
                    left[0] -= 1
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            return dies_then

        for name in RENAMES:
            setattr(durable, name, counted(getattr(durable, name)))

    return prepare
