"""What the servers of a pool write together, limited by a project quota."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests import quotas
from tests.features import requires
from tests.lab import Document, Lab, image, pool, server
from vsprov.kernel import paths
from vsprov.kernel.storage import quota
from vsprov.store.space import project

pytestmark = pytest.mark.vm_subset
MI = 1 << 20


@pytest.fixture
def quota_lab(lab: Lab) -> Lab:
    """A lab whose state root has project quotas."""
    requires("project_quota")
    return lab


def team(name: str = "team", **disk: Any) -> Document:
    return pool(name, disk={"space": "64Mi", **disk})


def member(name: str, quota: str | None = "team", **disk: Any) -> Document:
    resources = {"resources": {"disk": disk}} if disk else {}
    return server(name, init={"stopSignal": "KILL"}, **({"quota": quota} if quota else {}), **resources)


def limits(lab: Lab) -> list[tuple[int, int]]:
    """The limits of all projects of pools that the kernel knows."""
    found = quotas.projects(lab.vsprov.folder)
    return sorted(
        (space, inodes) for number, (space, inodes, _) in found.items() if project.is_of_pool(number)
    )


def fill(lab: Lab, name: str, megabytes: int) -> bool:
    """Whether a server could write so much."""
    done = lab.run(name, "dd", "if=/dev/zero", "of=/big", "bs=64k", f"count={megabytes * 16}", check=False)
    full = ("Disk quota exceeded", "No space left on device")  # ext4, xfs
    assert done.returncode == 0 or any(told in done.stderr for told in full)
    return done.returncode == 0


def test_a_pool_limits_its_servers_together_and_servers_join_leave_and_move(quota_lab: Lab) -> None:
    """One test, because the emulated machine is slow."""
    lab, free = quota_lab, member("free", None)
    lab.converge(image(), team(), member("a"), member("b"), free)
    lab.shell("free", "echo kept >/written; ln /written /linked; rm -r /srv")
    assert lab.shell("b", "df -m / | tail -1").split()[1] == "64"
    assert fill(lab, "a", 50) and not fill(lab, "b", 50) and fill(lab, "free", 70)
    lab.shell("free", "rm /big")
    documents = (member("a"), member("b"), free)
    said = lab.refused(image(), team(space="32Mi"), *documents)
    assert "Quota/team: spec.disk.space: 32Mi is less than what its servers use, 6" in said
    found = json.loads(lab.vsprov("get", "quota", "team", "-o", "json").stdout)["status"]["disk"]
    assert (found["backend"], found["spaceBytes"]) == ("project", 64 * MI) and found["usedInodes"] > 4
    own = "Server/a: spec.resources.disk.space: pool team limits its disk by a project quota"
    assert own in lab.refused(image(), team(), member("a", space="32Mi"), *documents[1:])

    assert lab.differences(image(), team(space="128Mi", inodes=500), *documents) == {
        "Quota/team /spec/disk/space": (64 * MI, 128 * MI, "live"),
        "Quota/team /spec/disk/inodes": (None, 500, "live"),
    }
    init = lab.init("team/a")
    lab.shell("a", "rm /big")
    lab.shell("b", "rm /big")
    lab.converge(image(), team(space="16Mi", inodes=500), *documents)
    assert limits(lab) == [(16 * MI, 500)] and lab.init("team/a") == init and not fill(lab, "a", 20)
    lab.vsprov("restart", "a", "b")
    lab.shell("a", "rm /big; echo x >/small")

    # Its files are moved into the project of its pool, from one pool to another, and out.
    lab.shell("free", "mkdir /many; cd /many; for i in $(seq 60); do echo >$i; done")
    said = lab.refused(image(), team(inodes=60), member("a"), member("free"))
    assert re.search(
        r"status.disk.pool: the server uses \d+ inodes, but the limit of pool team leaves \d+", said
    )
    lab.shell("free", "rm -r /many")
    look = "cat /written; stat -c %h /linked; test ! -e /srv"
    lab.converge(image(), team(), member("a"), member("free"))
    assert lab.shell("free", look) == "kept\n2\n" and not fill(lab, "free", 70)
    lab.shell("free", "rm /big")
    lab.vsprov("snapshot", "create", "free", "one")
    lab.vsprov("snapshot", "restore", "-y", "free", "one")
    assert not fill(lab, "free", 70)
    lab.shell("free", "rm /big")
    lab.converge(image(), team(), team("other", space="32Mi"), member("a"), member("free", "other"))
    assert not fill(lab, "free", 40) and fill(lab, "a", 50)
    lab.shell("free", "rm /big")
    lab.converge(image(), team(), member("a"), free)
    assert lab.shell("free", look) == "kept\n2\n" and fill(lab, "free", 70)
    lab.apply(image(), free, flags=("--prune",))
    assert limits(lab) == []
    lab.vsprov("destroy", "--all", "-y")
    assert not {number for number in quotas.projects(lab.vsprov.folder) if number > 1}


def test_what_was_changed_by_hand_is_repaired(quota_lab: Lab) -> None:
    lab, documents = quota_lab, (image(), team(), member("a"))
    lab.converge(*documents)
    lab.shell("a", "echo kept >/written")
    upper = lab.directory("a") / "upper"
    number = number_of(upper)
    with paths.opened(upper) as fd:
        quota.set_limits(fd, number, 999 * MI, 7000)
        assert lab.differences(*documents) == {
            "Quota/team /spec/disk/space": (999 * MI, 64 * MI, "live"),
            "Quota/team /spec/disk/inodes": (7000, None, "live"),
        }
        lab.converge(*documents)
        assert limits(lab) == [(64 * MI, 0)]
        quota.set_project(fd, 4242)
        assert lab.differences(*documents)["Server/a /status/disk/pool"] == (
            "team in part",
            "team",
            "restart",
        )
        lab.converge(*documents)
    assert number_of(upper) == number and lab.shell("a", "cat /written") == "kept\n"


def number_of(path: Path) -> int:
    with paths.opened(path) as fd:
        return quota.project_of(fd)
