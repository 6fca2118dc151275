"""Volumes of a limited size: what servers see of it, how it changes, and that no file is lost meanwhile."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests import archives, leaks
from tests.btrfs import groups
from tests.e2e.reboot import lose_power
from tests.e2e.test_volumes import mount
from tests.e2e.verbs import HOST
from tests.features import lacking, requires
from tests.lab import Document, Lab, mounted, server, volume, wait_until

pytestmark = pytest.mark.requires("overlay", "loop", "ext4", "mkfs_ext4")
MI = 1 << 20
AS_USER = ("setpriv", "--reuid", "1000", "--regid", "1001", "--clear-groups")


def limited(size: str = "64Mi", name: str = "data", **more: Any) -> Document:
    return volume(name, size=size, **{"backend": "image", **more})


def user(name: str = "a", volume: str = "data", **more: Any) -> Document:
    return server(name, init={"stopSignal": "KILL"}, **mount(mounted(volume)), **more)


def place(lab: Lab, name: str = "data") -> Path:
    return lab.vsprov.root / "volumes" / name


def shown(lab: Lab, name: str = "data") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab.vsprov("get", "volume", name, "-o", "json").stdout)
    return found


def mib(lab: Lab, server: str = "a") -> int:
    """The size of the volume that a server sees, in MiB."""
    return int(lab.shell(server, "df -m /data | tail -1").split()[1])


def fill(lab: Lab, count: int, server: str = "a") -> str:
    """Write so many MiB to the volume; their checksum."""
    lab.shell(server, f"head -c {count * MI} /dev/urandom > /data/file; sync; chown 1000:1001 /data/file")
    return lab.shell(server, "md5sum /data/file; stat -c %u:%g /data/file")


def check(lab: Lab, server: str = "a") -> str:
    return lab.shell(server, "md5sum /data/file; stat -c %u:%g /data/file")


def test_servers_that_share_a_limited_volume_see_its_size_and_each_others_files(lab: Lab) -> None:
    shared = (HOST, limited(mode="1777"), user("a"), user("b"), server("neighbor"))
    lab.converge(*shared)
    assert 50 <= mib(lab) <= 64 and mib(lab, "b") == mib(lab)
    assert lab.shell("a", "ls -A /data; stat -c %u:%g:%a /data") == "0:0:1777\n"
    lab.run("a", *AS_USER, "sh", "-c", "echo of a > /data/a")
    assert lab.shell("b", "cat /data/a; stat -c %u:%g /data/a") == "of a\n1000:1001\n"
    full = lab.run("b", "dd", "if=/dev/zero", "of=/data/big", "bs=64k", check=False)
    assert full.returncode == 1 and "No space left on device" in full.stderr
    lab.shell("neighbor", "head -c 1048576 /dev/zero > /big")
    lab.shell("b", "rm /data/big; echo still > /data/b")
    table = Path(f"/proc/{lab.init('a').pid}/mountinfo").read_text()
    line = next(line for line in table.splitlines() if " /data " in line)
    assert {"nosuid", "nodev"} <= {*line.split()[5].split(",")} and "/proc/" not in line
    assert len(leaks.loops(lab.vsprov.folder)) == 1
    lab.vsprov("stop", "a", "b")
    wait_until(lambda: not leaks.loops(lab.vsprov.folder))


def test_a_limited_volume_is_mounted_live_and_unmounted_again(lab: Lab) -> None:
    lab.apply(HOST, limited(), server("a"), user("b"))
    inits = lab.inits("a", "b")
    lab.converge(HOST, limited(), user("a"), user("b"))
    lab.shell("a", "echo live > /data/file")
    lab.converge(HOST, limited(), server("a"), user("b"))
    assert lab.inits("a", "b") == inits and lab.shell("b", "cat /data/file") == "live\n"
    lab.converge(HOST, limited(), server("a"), server("b"))
    wait_until(lambda: not leaks.loops(lab.vsprov.folder))


def test_inodes_of_a_volume_are_limited(lab: Lab) -> None:
    lab.converge(HOST, limited(inodes=2000), user())
    made = lab.shell("a", "cd /data; seq 3000 | xargs touch 2>/dev/null || ls | wc -l")
    assert 1900 <= int(made) <= 2200
    disk = shown(lab)["status"]["disk"]
    assert disk["usedInodes"] == disk["inodes"]


def test_use_and_limit_are_shown(lab: Lab) -> None:
    lab.converge(HOST, limited(), volume("free"), user())
    fill(lab, 10)
    found = shown(lab)
    disk = found["status"]["disk"]
    assert (disk["backend"], disk["spaceBytes"], disk["problem"]) == ("image", 64 * MI, "")
    assert 10 * MI <= disk["usedBytes"] <= 11 * MI and found["spec"]["size"] == 64 * MI
    assert shown(lab, "free")["status"]["disk"] is None
    title, row, other = lab.vsprov("get", "volumes", "-o", "wide").stdout.splitlines()
    columns = dict(zip(title.split(), row.split(), strict=True))
    assert columns["SIZE"].endswith("/64Mi") and columns["BACKEND"] == "image"
    assert columns["INODES"].startswith("11/") and other.split()[4:6] == ["-", "-"]
    told = lab.vsprov("describe", "volume", "data").stdout
    assert "Mi of 64Mi\n" in told and "Limited by:     image\n" in told
    assert "size: 64Mi" in lab.vsprov("get", "volume", "data", "-o", "yaml").stdout
    lab.vsprov("stop", "a")
    wait_until(lambda: not leaks.loops(lab.vsprov.folder))
    assert 10 * MI <= shown(lab)["status"]["disk"]["usedBytes"] <= 11 * MI


def test_files_survive_every_change_of_the_limit_and_a_reboot(lab: Lab) -> None:
    lab.converge(HOST, volume("data"), user())
    before = fill(lab, 10)
    created = shown(lab)["status"]["createdAt"]
    for now in (
        limited("100Mi"), limited("200Mi"), limited("32Mi"), limited("32Mi", inodes=900), volume("data"),
        limited("64Mi"),
    ):  # fmt: skip
        lab.vsprov("stop", "a")
        lab.converge(HOST, now, user())
        assert check(lab) == before and lab.shell("a", "ls -A /data") == "file\n"
        assert (place(lab) / "data").exists() != (place(lab) / "disk.img").exists()
    assert 50 <= mib(lab) <= 64 and shown(lab)["status"]["createdAt"] == created
    lose_power(lab)
    lab.vsprov("boot")
    assert check(lab) == before and lab.is_settled(HOST, limited("64Mi"), user())


def test_what_takes_a_copy_is_refused_while_servers_use_the_volume(lab: Lab) -> None:
    lab.converge(HOST, volume("data"), user("a"), user("b"))
    inits = lab.inits("a", "b")
    said = lab.refused(HOST, limited(), user("a"), user("b"))
    assert "its files have to be copied, which is not possible while servers use it" in said
    assert "mounted by Server/a, Server/b" in said and "vsprov stop a b" in said
    assert lab.inits("a", "b") == inits


@pytest.mark.vm_subset
def test_a_volume_grows_while_servers_use_it_if_vsprov_may(lab: Lab) -> None:
    lab.converge(HOST, limited(), user())
    before, init = fill(lab, 40), lab.init("a")
    if lacking("cap_sys_resource"):
        assert "requires CAP_SYS_RESOURCE" in lab.refused(HOST, limited("128Mi"), user())
    else:
        lab.converge(HOST, limited("128Mi"), user())
        assert mib(lab) > 110
    said = lab.refused(HOST, limited("48Mi"), user())
    assert "64Mi → 48Mi: the file system of an image shrinks only while it is not mounted" in said or not (
        lacking("cap_sys_resource")
    )
    assert "mounted by Server/a; it contains 40" in said
    assert lab.init("a") == init and check(lab) == before


def test_a_limit_below_what_the_volume_contains_is_refused_with_the_figure(lab: Lab) -> None:
    lab.converge(HOST, limited(), user())
    before = fill(lab, 40)
    lab.vsprov("stop", "a")
    assert "32Mi is less than what the volume contains, 40" in lab.refused(HOST, limited("32Mi"), user())
    assert "resize2fs" in lab.refused(HOST, limited("41Mi"), user())
    lab.converge(HOST, limited(), user())
    assert check(lab) == before


def test_files_that_do_not_fit_stay_where_they_are(lab: Lab) -> None:
    lab.converge(HOST, volume("data"), user())
    before = fill(lab, 30)
    lab.vsprov("stop", "a")
    assert "16Mi is less than what the volume contains, 30.0Mi" in lab.refused(HOST, limited("16Mi"), user())
    said = lab.refused(HOST, limited("32Mi"), user())
    assert "copy file: No space left on device" in said and "do not fit into 32Mi (image)" in said
    assert os.listdir(place(lab).parent) == ["data"]
    wait_until(lambda: not leaks.loops(lab.vsprov.folder))
    lab.converge(HOST, volume("data"), user())
    assert check(lab) == before


def test_an_image_that_was_made_longer_by_hand_is_drift_and_is_repaired(lab: Lab) -> None:
    lab.converge(HOST, limited(), user())
    before = fill(lab, 10)
    lab.vsprov("stop", "a")
    wait_until(lambda: not leaks.loops(lab.vsprov.folder))
    os.truncate(place(lab) / "disk.img", 256 * MI)
    found = lab.differences(HOST, limited(), user())
    assert found["Volume/data /spec/size"] == (256 * MI, 64 * MI, "live")
    lab.converge(HOST, limited(), user())
    assert check(lab) == before and (place(lab) / "disk.img").stat().st_size == 64 * MI


def test_a_torn_image_is_reported_and_never_replaced(lab: Lab) -> None:
    lab.converge(HOST, limited(), user())
    fill(lab, 10)
    lab.vsprov("stop", "a")
    wait_until(lambda: not leaks.loops(lab.vsprov.folder))
    path = place(lab) / "disk.img"
    os.truncate(path, 20 * MI)
    said = lab.refused(HOST, limited(), user())
    assert "Volume/data:" in said and "is truncated: it has 20971520 bytes" in said
    assert "is truncated" in lab.vsprov("start", "a", check=False).stderr
    assert "is truncated" in lab.vsprov("describe", "volume", "data").stdout
    refused = lab.vsprov("destroy", "-y", "--all", "--volumes", check=False)
    assert refused.returncode == 1 and "it has data, and was not named for that" in refused.stderr
    assert path.stat().st_size == 20 * MI
    lab.vsprov("destroy", "-y", "--all", "--delete-data", "data")
    assert lab.vsprov.left() == []


@pytest.mark.parametrize("where", ["image", "archive"])
def test_a_limited_volume_gets_the_contents_of_its_source(lab: Lab, tmp_path: Path, where: str) -> None:
    packed = tmp_path / "files.tar"
    packed.write_bytes(
        archives.packed(archives.folder("sub", uid=7, gid=8), archives.member("sub/file", b"packed", uid=9))
    )
    source = {"tar": {"path": str(packed)}}
    if where == "image":
        source = {"image": {"name": "host", "path": "/usr/share/perl5"}}
    lab.converge(HOST, limited(source=source, owner=5, mode="0750"), user())
    assert lab.shell("a", "stat -c %u:%g:%a /data") == "5:5:750\n"
    if where == "archive":
        assert lab.shell("a", "cat /data/sub/file; stat -c %u:%g /data/sub") == "packed7:8\n"
    else:
        names = {path.name for path in Path("/usr/share/perl5").iterdir()}
        assert {*lab.shell("a", "ls -A /data").split()} == names
    assert sorted(os.listdir(place(lab))) == ["disk.img", "volume.json"]


def test_a_source_that_does_not_fit_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    packed = tmp_path / "files.tar"
    packed.write_bytes(archives.packed(archives.member("file", os.urandom(20 * MI))))
    said = lab.refused(HOST, limited("16Mi", source={"tar": {"path": str(packed)}}))
    assert "do not fit into 16Mi (image)" in said and os.listdir(place(lab).parent) == []


def test_an_empty_limited_volume_is_removed_with_volumes_and_one_with_data_by_its_name(lab: Lab) -> None:
    lab.converge(HOST, limited(), limited(name="empty"), user(), user("b", "empty"))
    fill(lab, 1)
    refused = lab.vsprov("destroy", "-y", "--all", "--volumes", check=False)
    assert "Volume/data: cannot be removed: it has data" in refused.stderr
    assert "Volume/empty" not in refused.stderr
    lab.vsprov("stop", "a", "b")
    wait_until(lambda: not leaks.loops(lab.vsprov.folder))
    refused = lab.vsprov("destroy", "-y", "--all", "--volumes", check=False)
    assert "Volume/data: cannot be removed" in refused.stderr and "Volume/empty" not in refused.stderr
    lab.vsprov("destroy", "-y", "--all", "--volumes", "--delete-data", "data")
    wait_until(lambda: lab.vsprov.left() == [])


def test_owner_and_mode_of_a_limited_volume_change(lab: Lab) -> None:
    lab.converge(HOST, limited(owner=10), user())
    lab.converge(HOST, limited(owner="11:12", mode="0700"), user())
    assert lab.shell("a", "stat -c %u:%g:%a /data") == "11:12:700\n"
    lab.vsprov("stop", "a")
    lab.converge(HOST, limited(owner="13:14", mode="0700"), user())
    assert lab.shell("a", "stat -c %u:%g:%a /data") == "13:14:700\n"


def test_a_renamed_volume_keeps_its_image_and_its_mounts(lab: Lab) -> None:
    lab.converge(HOST, limited(), user())
    before, init = fill(lab, 2), lab.init("a")
    files = limited(name="files")
    files["metadata"]["renamedFrom"] = "data"
    lab.converge(HOST, files, user(volume="files"))
    assert lab.init("a") == init and check(lab) == before
    lab.vsprov("restart", "a")
    assert check(lab) == before


def test_a_snapshot_and_a_clone_hold_the_files_of_a_limited_volume(lab: Lab) -> None:
    lab.converge(HOST, limited(), user())
    before = fill(lab, 5)
    lab.vsprov("snapshot", "create", "a", "one")
    lab.shell("a", "echo later > /data/file")
    lab.vsprov("snapshot", "restore", "-y", "a", "one", "--volumes")
    assert check(lab) == before and 50 <= mib(lab) <= 64
    assert lab.is_settled(HOST, limited(), user())
    lab.vsprov("clone", "a", "b")
    lab.vsprov("start", "b")
    assert check(lab, "b") == before and 50 <= mib(lab, "b") <= 64
    assert shown(lab, "data-b")["status"]["disk"]["backend"] == "image"


@pytest.mark.vm_subset
def test_a_project_quota_limits_a_volume_and_changes_while_servers_use_it(lab: Lab) -> None:
    """One test, because the emulated machine is slow."""
    requires("project_quota")
    wanted = (HOST, limited(backend="auto"), user("a"), user("b"))
    lab.converge(*wanted)
    inits = lab.inits("a", "b")
    assert mib(lab) == 64 and shown(lab)["status"]["disk"]["backend"] == "project"
    full = lab.run("b", "dd", "if=/dev/zero", "of=/data/big", "bs=64k", check=False)
    assert full.returncode == 1 and "Disk quota exceeded" in full.stderr
    assert "32Mi is less than what the volume contains, 6" in lab.refused(
        HOST, limited("32Mi", backend="auto"), *wanted[2:]
    )
    lab.converge(HOST, limited("128Mi", backend="auto", inodes=500), *wanted[2:])
    assert mib(lab) == 128 and lab.shell("a", "rm /data/big") == ""
    before = fill(lab, 10)
    lab.converge(HOST, limited("32Mi", backend="auto"), *wanted[2:])
    lab.converge(HOST, volume("data"), *wanted[2:])
    assert mib(lab) > 500 and lab.inits("a", "b") == inits
    lab.vsprov("stop", "a", "b")
    for now in (limited("32Mi", backend="auto"), limited("32Mi"), limited("32Mi", backend="project")):
        lab.vsprov("stop", "a", "b")
        lab.converge(HOST, now, *wanted[2:])
        assert check(lab) == before and mib(lab) <= 32
    lab.vsprov("destroy", "-y", "--all", "--delete-data", "data")


def test_a_quota_group_limits_a_volume_and_changes_while_servers_use_it(quota_lab: Lab) -> None:
    lab, users = quota_lab, (user("a"), user("b"))
    lab.converge(HOST, limited(backend="auto"), *users)
    inits = lab.inits("a", "b")
    assert shown(lab)["status"]["disk"]["backend"] == "qgroup"
    full = lab.run("b", "dd", "if=/dev/urandom", "of=/data/big", "bs=64k", check=False)
    assert full.returncode == 1 and "Disk quota exceeded" in full.stderr
    lab.shell("a", "sync")
    said = lab.refused(HOST, limited("32Mi", backend="auto"), *users)
    assert "32Mi is less than what the volume contains, 6" in said
    said = lab.refused(HOST, limited(backend="qgroup", inodes=5), *users)
    assert "the backend qgroup cannot limit the number of inodes" in said
    lab.converge(HOST, limited("128Mi", backend="auto"), *users)
    lab.shell("a", "rm /data/big; sync")
    before = fill(lab, 10)
    lab.converge(HOST, limited("32Mi", backend="auto"), *users)
    lab.converge(HOST, volume("data"), *users)
    lab.shell("a", "head -c 70000000 /dev/urandom > /data/big; rm /data/big; sync")
    assert lab.inits("a", "b") == inits and check(lab) == before
    for now in (limited("32Mi", backend="qgroup"), limited("32Mi"), limited("48Mi", backend="auto")):
        lab.vsprov("stop", "a", "b")
        lab.converge(HOST, now, *users)
        assert check(lab) == before
    lab.vsprov("stop", "a", "b")
    lab.converge(HOST, limited("48Mi", backend="qgroup"), *users)
    assert shown(lab)["status"]["disk"]["backend"] == "qgroup"
    lab.vsprov("snapshot", "create", "a", "one")
    lab.shell("a", "echo later > /data/file")
    lab.vsprov("stop", "b")
    lab.vsprov("snapshot", "restore", "-y", "a", "one", "--volume", "data")
    assert check(lab) == before and shown(lab)["status"]["disk"]["spaceBytes"] == 48 * MI
    lab.vsprov("destroy", "-y", "--all", "--delete-data", "data")
    lab.wait_until(lambda: {*groups(lab.vsprov.folder)} == {"<toplevel>"})
