"""Disk limits: what a server sees of its own, that nobody else notices a full one, and how they change."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import leaks
from tests.e2e.reboot import lose_power
from tests.features import lacking, requires
from tests.lab import Document, Lab, image, quota, server, wait_until

pytestmark = pytest.mark.requires("overlay", "loop", "ext4", "mkfs_ext4")
MI = 1 << 20


def limited(name: str = "a", space: str = "64Mi", **more: Any) -> Document:
    """A server whose disk is limited."""
    disk = {"space": space, "backend": "image", **more.pop("disk", {})}
    return server(name, resources={"disk": disk}, init={"stopSignal": "KILL"}, **more)


def disk_image(lab: Lab, name: str = "a") -> Path:
    return lab.directory(name) / "disk.img"


def shown(lab: Lab, name: str = "a") -> dict[str, Any]:
    """The disk of a server in `get -o json`."""
    found: dict[str, Any] = json.loads(lab.vsprov("get", "server", name, "-o", "json").stdout)["status"][
        "disk"
    ]
    return found


def size(lab: Lab, name: str = "a") -> int:
    """The size of its root file system that a server sees, in MiB."""
    return int(lab.shell(name, "df -m / | tail -1").split()[1])


def loops(lab: Lab) -> list[str]:
    return leaks.loops(lab.vsprov.folder)


@pytest.mark.vm_subset
def test_a_full_disk_is_the_problem_of_its_server_alone(lab: Lab) -> None:
    documents = (image(), limited(), server("neighbor"))
    lab.converge(*documents)
    assert 50 <= size(lab) <= 64
    said = lab.run("a", "dd", "if=/dev/zero", "of=/big", "bs=64k", check=False)
    assert said.returncode == 1 and "No space left on device" in said.stderr
    assert lab.shell("a", "stat -c %s /big").strip().isdecimal()
    assert lab.shell("neighbor", "dd if=/dev/zero of=/big bs=1M count=70 2>&1; stat -c %s /big").endswith(
        f"{70 * MI}\n"
    )
    # Its output and the state root are the host's.
    lab.shell("a", "echo still logged >/proc/1/fd/1")
    wait_until(lambda: "still logged" in lab.vsprov("logs", "a").stdout)
    lab.vsprov("restart", "a")
    assert lab.shell("a", "rm /big && echo gone") == "gone\n"
    assert lab.is_settled(*documents)


def test_inodes_are_limited(lab: Lab) -> None:
    lab.converge(image(), limited(disk={"inodes": 2000}))
    made = lab.shell("a", "mkdir /d; cd /d; seq 3000 | xargs touch 2>/dev/null || ls /d | wc -l")
    assert 1900 <= int(made) <= 2200  # a few more: a whole block of them
    assert shown(lab)["usedInodes"] == shown(lab)["inodes"]


def test_use_and_limit_are_shown(lab: Lab) -> None:
    lab.converge(image(), limited(), server("free"))
    lab.shell("a", "dd if=/dev/urandom of=/data bs=1M count=10 2>/dev/null; sync")
    found = shown(lab)
    assert found["backend"] == "image" and found["spaceBytes"] == 64 * MI and found["problem"] == ""
    assert 10 * MI <= found["usedBytes"] <= 11 * MI
    rows = lab.vsprov("get", "servers", "--columns", "NAME,DISK").stdout
    assert rows.splitlines()[1].endswith("/64Mi")
    told = lab.vsprov("describe", "a").stdout
    assert "64Mi" in next(line for line in told.splitlines() if line.split()[:1] == ["disk"])
    assert json.loads(lab.vsprov("get", "server", "free", "-o", "json").stdout)["status"]["disk"] is None
    lab.vsprov("stop", "a")
    wait_until(lambda: not loops(lab))
    assert 10 * MI <= shown(lab)["usedBytes"] <= 11 * MI


def test_data_survives_a_restart_a_growth_a_shrink_and_a_reboot(lab: Lab) -> None:
    lab.converge(image(), limited())
    lab.shell("a", "dd if=/dev/urandom of=/data bs=1M count=10 2>/dev/null; mkdir /own; chown 1000:1000 /own")
    before = lab.shell("a", "md5sum /data; stat -c '%u:%g' /own")
    for space, mib in (("200Mi", 190), ("32Mi", 24), ("132Mi", 115)):
        lab.converge(image(), limited(space=space))
        assert abs(size(lab) - mib) < 10
        assert lab.shell("a", "md5sum /data; stat -c '%u:%g' /own") == before
    lose_power(lab)
    lab.vsprov("boot")
    assert lab.shell("a", "md5sum /data; stat -c '%u:%g' /own") == before
    assert lab.is_settled(image(), limited(space="132Mi"))


def test_a_change_shows_what_it_costs_and_leaves_others_alone(lab: Lab) -> None:
    lab.converge(image(), limited(), limited("b"))
    grown = lab.differences(image(), limited(space="128Mi"), limited("b"))
    before, after, cost = grown["Server/a /spec/resources/disk/space"]
    live = lacking("cap_sys_resource") is None
    assert (before, after, cost) == (64 * MI, 128 * MI, "live" if live else "restart")
    inits = lab.inits("a", "b")
    lab.converge(image(), limited(space="128Mi"), limited("b"))
    assert lab.init("b") == inits["b"]
    assert (lab.init("a") == inits["a"]) == live
    assert size(lab) > 110
    shrunk = lab.differences(image(), limited(space="64Mi"), limited("b"))
    assert shrunk == {"Server/a /spec/resources/disk/space": (128 * MI, 64 * MI, "restart")}


@pytest.mark.vm_subset
def test_a_disk_grows_while_its_server_works(lab: Lab) -> None:
    requires("cap_sys_resource")
    lab.converge(image(), limited())
    init = lab.init("a")
    lab.shell("a", "dd if=/dev/urandom of=/data bs=1M count=40 2>/dev/null")
    lab.converge(image(), limited(space="300Mi"))
    assert lab.init("a") == init
    lab.shell("a", "cat /data /data /data >/more")
    assert size(lab) > 250


def test_shrinking_below_what_is_used_is_refused_with_the_figure(lab: Lab) -> None:
    lab.converge(image(), limited())
    lab.shell("a", "dd if=/dev/urandom of=/data bs=1M count=40 2>/dev/null; sync")
    init = lab.init("a")
    said = lab.refused(image(), limited(space="32Mi"))
    assert "spec.resources.disk.space: 32Mi is less than what the server uses, 40." in said
    assert lab.init("a") == init and lab.shell("a", "stat -c %s /data") == f"{40 * MI}\n"


def test_shrinking_to_what_has_no_room_for_metadata_leaves_all_as_it_was(lab: Lab) -> None:
    lab.converge(image(), limited())
    lab.shell("a", "dd if=/dev/urandom of=/data bs=1M count=40 2>/dev/null; sync")
    said = lab.refused(image(), limited(space="41Mi"))
    assert "resize2fs" in said and "started again as it was before" in said
    assert lab.shell("a", "stat -c %s /data") == f"{40 * MI}\n"
    assert lab.is_settled(image(), limited())


def test_an_image_that_was_made_longer_by_hand_is_drift_and_is_repaired(lab: Lab) -> None:
    lab.converge(image(), limited())
    os.truncate(disk_image(lab), 80 * MI)
    expected = {"Server/a /spec/resources/disk/space": (80 * MI, 64 * MI, "live")}
    assert lab.differences(image(), limited()) == expected
    found = json.loads(lab.vsprov("get", "server", "a", "-o", "json").stdout)
    assert found["spec"]["resources"]["disk"]["space"] == 80 * MI
    init = lab.init("a")
    lab.converge(image(), limited())
    assert lab.init("a") == init and disk_image(lab).stat().st_size == 64 * MI


def test_a_file_system_that_was_resized_by_hand_is_drift_and_is_repaired(lab: Lab) -> None:
    lab.converge(image(), limited())
    lab.vsprov("stop", "a")
    wait_until(lambda: not loops(lab))
    os.truncate(disk_image(lab), 100 * MI)
    subprocess.run(["e2fsck", "-fp", disk_image(lab)], check=True, capture_output=True)
    subprocess.run(["resize2fs", disk_image(lab)], check=True, capture_output=True)
    assert lab.differences(image(), limited())["Server/a /spec/resources/disk/space"][:2] == (
        100 * MI,
        64 * MI,
    )
    lab.converge(image(), limited())
    assert size(lab) < 64


def test_an_image_that_was_removed_under_its_server_is_made_again(lab: Lab) -> None:
    lab.converge(image(), limited(), limited("b"))
    disk_image(lab).unlink()
    lost = ("missing", "empty; what the server had written is lost", "restart")
    assert lab.differences(image(), limited(), limited("b")) == {"Server/a /status/disk": lost}
    lab.converge(image(), limited(), limited("b"))
    lab.shell("a", "echo x >/written")


def test_an_image_that_was_replaced_under_its_server_is_mounted_by_a_restart(lab: Lab) -> None:
    lab.converge(image(), limited())
    copy = disk_image(lab).with_name("copy")
    subprocess.run(["cp", "--preserve=all", "--sparse=always", disk_image(lab), copy], check=True)
    copy.rename(disk_image(lab))
    replaced = ("removed or replaced since the start", "mounted", "restart")
    assert lab.differences(image(), limited())["Server/a /status/disk"] == replaced


def test_an_ephemeral_server_gets_an_empty_disk_at_each_start(lab: Lab) -> None:
    lab.converge(image(), limited(ephemeral=True))
    lab.shell("a", "echo x >/written")
    lab.vsprov("restart", "a")
    assert lab.run("a", "test", "-e", "/written", check=False).returncode == 1
    assert 50 <= size(lab) <= 64


def test_a_quota_gives_each_server_a_disk_of_its_own(lab: Lab) -> None:
    each = quota("small", disk={"space": "32Mi"})
    lab.converge(image(), each, server("a", quota="small"), server("b", quota="small"))
    lab.run("a", "dd", "if=/dev/zero", "of=/big", "bs=64k", check=False)
    assert lab.shell("b", "dd if=/dev/zero of=/big bs=1M count=10 2>&1; stat -c %s /big").endswith(
        f"{10 * MI}\n"
    )


def test_a_renamed_server_keeps_its_disk(lab: Lab) -> None:
    lab.converge(image(), limited())
    lab.shell("a", "echo x >/written")
    lab.vsprov("rename", "-y", "a", "z")
    assert lab.shell("z", "cat /written") == "x\n" and 50 <= size(lab, "z") <= 64


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_files_are_copied_and_compared_whether_the_server_runs_or_not(
    lab: Lab, tmp_path: Path, state: str
) -> None:
    lab.converge(image(), limited())
    lab.shell("a", "echo inside >/written; rm -r /srv")
    if state == "stopped":
        lab.vsprov("stop", "a")
    said = lab.vsprov("changes", "a").stdout.splitlines()
    assert "A /written" in said and "D /srv" in said
    lab.vsprov("cp", "a:/written", tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "inside\n"
    (tmp_path / "given").write_text("from outside\n")
    lab.vsprov("cp", tmp_path / "given", "a:/given")
    lab.vsprov("start" if state == "stopped" else "restart", "a")
    assert lab.shell("a", "cat /given") == "from outside\n"


def test_rescue_repairs_what_is_on_the_disk(lab: Lab) -> None:
    lab.converge(image(), limited())
    lab.shell("a", "echo broken >/state")
    lab.vsprov("stop", "a")
    lab.vsprov("start", "--rescue", "a")
    lab.shell("a", "grep -q broken /state && echo mended >/state")
    lab.vsprov("restart", "a")
    assert lab.shell("a", "cat /state") == "mended\n"


def test_what_is_stopped_or_removed_leaves_no_loop_device(lab: Lab) -> None:
    lab.converge(image(), limited(), limited("b"))
    assert len(loops(lab)) == 2
    lab.vsprov("stop", "a")
    wait_until(lambda: len(loops(lab)) == 1)
    lab.vsprov("destroy", "--all", "-y")
    assert loops(lab) == []


def test_the_backends_that_this_host_lacks_are_refused_before_anything_is_made(lab: Lab) -> None:
    said = lab.refused(image(), limited(disk={"backend": "project"}), code=69)
    assert "spec.resources.disk.backend: project is not supported by this host:" in said
    assert not lab.directory("a").exists()


def test_doctor_names_the_backend(lab: Lab) -> None:
    lines = lab.vsprov("doctor", check=False).stdout.splitlines()
    assert any(line.startswith("disk limits") and " image" in line for line in lines)


def test_a_disk_grows_with_a_restart_that_something_else_needs(lab: Lab) -> None:
    lab.converge(image(), limited())
    lab.shell("a", "echo x >/written")
    changed = limited(space="128Mi")
    changed["spec"]["init"]["command"] = ["sleep", "1000000"]
    lab.converge(image(), changed)
    assert size(lab) > 110 and lab.shell("a", "cat /written") == "x\n"
