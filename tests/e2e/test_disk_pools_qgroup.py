"""What the servers of a pool write together, limited by a quota group of btrfs."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from tests import quotas
from tests.lab import Document, Lab, image, pool, server
from vsprov.kernel.storage import btrfs

MI = 1 << 20


def team(name: str = "team", **disk: Any) -> Document:
    return pool(name, disk={"space": "64Mi", **disk})


def member(name: str, quota: str | None = "team", **disk: Any) -> Document:
    resources = {"resources": {"disk": disk}} if disk else {}
    quotas = {"quota": quota} if quota else {}
    return server(name, init={"stopSignal": "KILL"}, **quotas, **resources)


def groups(lab: Lab) -> dict[str, list[str]]:
    return quotas.groups(lab.vsprov.folder)


def limits(lab: Lab) -> list[list[str]]:
    return sorted(groups(lab).values())


def fill(lab: Lab, name: str, megabytes: int = 100) -> bool:
    """Whether a server could write so much; what it wrote is counted then."""
    words = ["dd", "if=/dev/zero", "of=/big", "bs=64k", f"count={megabytes * 16}"]
    done = lab.run(name, *words, check=False)
    assert done.returncode == 0 or "Disk quota exceeded" in done.stderr
    lab.shell(name, "sync")
    return done.returncode == 0


def test_a_pool_limits_its_servers_together_and_changes_while_they_run(quota_lab: Lab) -> None:
    lab, members = quota_lab, (member("a"), member("b", space="32Mi"), member("alone", None))
    lab.converge(image(), team(), *members)
    assert limits(lab) == [["a", "b", str(64 * MI)]]
    inits = lab.inits("team/a", "team/b", "alone")
    assert not fill(lab, "b") and fill(lab, "a", 20) and not fill(lab, "a")
    assert fill(lab, "alone", 70)

    said = lab.refused(image(), team(space="48Mi"), *members)
    assert "Quota/team: spec.disk.space: 48Mi is less than what its servers use, 6" in said
    found = json.loads(lab.vsprov("get", "quota", "team", "-o", "json").stdout)
    disk = found["status"]["disk"]
    assert (disk["backend"], disk["spaceBytes"], disk["inodes"]) == ("qgroup", 64 * MI, None)
    assert 60 * MI < disk["usedBytes"] <= 64 * MI and found["spec"]["disk"] == {"space": 64 * MI}
    assert "Mi/64Mi" in lab.vsprov("get", "quotas", "-o", "wide").stdout
    of_a = json.loads(lab.vsprov("get", "server", "a", "-o", "json").stdout)["status"]["disk"]
    assert of_a["pool"] == "team" and of_a["spaceBytes"] is None and 25 * MI < of_a["usedBytes"] < 40 * MI

    assert lab.differences(image(), team(space="128Mi"), *members) == {
        "Quota/team /spec/disk/space": (64 * MI, 128 * MI, "live")
    }
    lab.converge(image(), team(space="128Mi"), *members)
    assert fill(lab, "a", 70)
    lab.shell("a", "rm /big; sync")
    lab.converge(image(), team(space="48Mi"), *members)
    assert limits(lab) == [["a", "b", str(48 * MI)]]
    lab.converge(image(), pool("team"), *members)
    assert limits(lab) == [["a", "b", "none"]] and fill(lab, "a", 70)
    lab.shell("a", "rm /big; sync")
    lab.converge(image(), team(), *members)
    assert not fill(lab, "a") and lab.inits("team/a", "team/b", "alone") == inits
    # A server of a pool that is full starts, another one too, and what is full can be emptied.
    lab.vsprov("restart", "a", "b")
    lab.converge(image(), team(), *members, member("c"))
    assert lab.shell("a", "rm /big; sync; echo x >/small; cat /small") == "x\n"
    assert limits(lab) == [["a", "b", "c", str(64 * MI)]]


def test_what_was_changed_by_hand_is_repaired(quota_lab: Lab) -> None:
    lab, documents = quota_lab, (image(), team(), member("a"))
    lab.converge(*documents)
    lab.shell("a", "echo x >/written; sync")
    lab.vsprov("snapshot", "create", "a", "one")  # which shares its blocks, so that btrfs has to count
    inits, (group,) = lab.inits("team/a"), groups(lab)
    top, disk = lab.vsprov.folder, lab.directory("a") / "disk"
    for given, shown in (("100M", 100 * MI), ("none", None)):
        subprocess.run(["btrfs", "qgroup", "limit", given, group, top], check=True)
        assert lab.differences(*documents) == {"Quota/team /spec/disk/space": (shown, 64 * MI, "live")}
        lab.converge(*documents)
    fd = os.open(disk, os.O_RDONLY)
    own = f"0/{btrfs.subvolume(fd)}"
    os.close(fd)
    subprocess.run(["btrfs", "qgroup", "remove", own, group, top], check=True, capture_output=True)
    assert lab.differences(*documents) == {"Server/a /status/disk/pool": (None, "team", "live")}
    lab.converge(*documents)
    subprocess.run(["btrfs", "qgroup", "remove", own, group, top], check=True, capture_output=True)
    subprocess.run(["btrfs", "qgroup", "destroy", group, top], check=True)
    lab.converge(*documents)
    subprocess.run(["btrfs", "quota", "disable", top], check=True)
    assert "has no quotas enabled" in lab.refused(*documents, code=69)
    subprocess.run(["btrfs", "quota", "enable", top], check=True)
    lab.converge(*documents)
    assert groups(lab) == {group: ["a", str(64 * MI)]} and lab.inits("team/a") == inits
    assert not fill(lab, "a")


@pytest.mark.parametrize("damage", [b"", b"{}", None])
def test_a_pool_whose_record_is_damaged_keeps_its_quota_group(quota_lab: Lab, damage: bytes | None) -> None:
    lab, documents = quota_lab, (image(), team(), member("a"))
    lab.converge(*documents)
    before, init = groups(lab), lab.init("team/a")
    record = lab.vsprov.root / "pools/team.disk"
    record.write_bytes(record.read_bytes()[:-9] if damage is None else damage)
    assert lab.is_settled(*documents)
    lab.converge(image(), team(space="48Mi"), member("a"))
    assert groups(lab) == {group: ["a", str(48 * MI)] for group in before} and lab.init("team/a") == init
    lab.vsprov("destroy", "--all", "-y")
    lab.wait_until(lambda: limits(lab) == [])


def test_servers_that_join_leave_or_move(quota_lab: Lab) -> None:
    lab = quota_lab
    lab.converge(image(), pool("team"), pool("other"), member("free"), member("own", space="32Mi"))
    lab.shell("free", "echo kept >/written")
    lab.shell("own", "echo kept >/written")
    free, own = member("free"), member("own", space="32Mi")
    lab.shell("free", "dd if=/dev/zero of=/big bs=1M count=70 2>/dev/null; sync")
    told = "Server/free: status.disk.pool: the server uses 70.0Mi, but the limit of pool team leaves 64.0Mi"
    assert told in lab.refused(image(), team(), pool("other"), free, own)
    lab.shell("free", "rm /big")
    assert lab.differences(image(), team(), pool("other"), free, own) == {
        "Quota/team /spec/disk/space": (None, 64 * MI, "live"),
        "Server/free /status/disk/pool": (None, "team", "restart"),
        "Server/own /status/disk/pool": (None, "team", "live"),
    }
    lab.converge(image(), team(), pool("other"), free, own)
    assert limits(lab) == [["free", "own", str(64 * MI)]]
    others = (team("other", space="32Mi"), member("free", "other"), member("own", None))
    lab.converge(image(), team(), *others)
    assert limits(lab) == [["-", str(64 * MI)], ["free", str(32 * MI)]]
    assert lab.shell("free", "cat /written") == lab.shell("own", "cat /written") == "kept\n"
    # It keeps its place in all that makes its disk anew.
    lab.vsprov("snapshot", "create", "free", "one")
    lab.vsprov("snapshot", "restore", "-y", "free", "one")
    lab.vsprov("rename", "-y", "free", "named")
    lab.vsprov("clone", "named", "copy")
    lab.wait_until(lambda: ["copy", "named", str(32 * MI)] in limits(lab))
    lab.vsprov("destroy", "--all", "-y")
    lab.wait_until(lambda: limits(lab) == [])


def test_what_a_server_has_in_an_image_counts_when_it_joins_a_pool(quota_lab: Lab) -> None:
    lab, small = quota_lab, team(space="32Mi")
    lab.converge(image(), small, member("own", None, space="96Mi", backend="image"))
    lab.shell("own", "echo kept >/written; dd if=/dev/zero of=/big bs=1M count=40 2>/dev/null; sync")
    said = lab.refused(image(), small, member("own"))
    assert "Server/own: status.disk.pool: the server uses 4" in said and "of pool team leaves 32.0Mi" in said
    assert lab.init("own")
    lab.shell("own", "rm /big; sync")
    lab.converge(image(), small, member("own"))
    assert lab.shell("own", "cat /written") == "kept\n"
    assert limits(lab) == [["own", str(32 * MI)]]


@pytest.mark.parametrize(
    ("documents", "told"),
    [
        (
            (team(backend="image"), member("a")),
            "Quota/team: spec.disk.backend: an image belongs to one server, so the servers of a pool cannot",
        ),
        ((team(inodes=500), member("a")), "qgroup: cannot limit inodes"),
        ((team(backend="qgroup", inodes=500), member("a")), "btrfs does not count them"),
        (
            (team(), member("a", space="32Mi", backend="image")),
            "Server/a: spec.resources.disk.backend: pool team limits its disk by the backend qgroup",
        ),
        ((team(), member("a", space="32Mi", inodes=500)), "cannot limit the number of inodes"),
    ],
)
def test_what_cannot_be_is_refused(quota_lab: Lab, documents: tuple[Document, ...], told: str) -> None:
    code = 65 if "image belongs" in told else 69 if "cannot limit inodes" in told else 1
    assert told in quota_lab.refused(image(), *documents, code=code)
