"""Disk limits when vsprov dies in the middle, the disk of the host is full, or an image is damaged."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import leaks
from tests.fault.crashes import Base, every_step, with_bystander
from tests.fault.faults import Apply, fill
from tests.instance import own_instance
from tests.kernel.layers import disk
from tests.lab import Document, Lab, image, server, wait_until
from vsprov.kernel.storage import loop

pytestmark = pytest.mark.requires("overlay", "loop", "ext4", "mkfs_ext4")
MI = 1 << 20
ONLY = ("MakeDirectory", "MakeDisk", "ResizeDisk", "Stop", "Spawn", "MarkInit")


def limited(name: str, space: str, *command: str) -> Document:
    limit = {"space": space, "backend": "image"}
    return server(name, *command, resources={"disk": limit}, init={"stopSignal": "KILL"})


BEFORE = (image(), limited("live", "64Mi"), limited("restarted", "32Mi"))
AFTER = (image(), limited("live", "96Mi"), limited("restarted", "24Mi"), limited("added", "16Mi"))


@pytest.fixture(scope="module")
def base() -> Iterator[Base]:
    with with_bystander() as base:
        yield base


@pytest.mark.slow
def test_disks_that_were_being_made_or_resized_are_finished_by_the_next_apply(base: Base) -> None:
    changed = base.make(AFTER)
    base.remove(AFTER)

    def prepare() -> None:
        base.make(BEFORE)
        base.lab.shell("restarted", "echo kept >/written")

    def mend(step: int) -> None:
        assert Apply(base.lab, AFTER).run() == 0, f"after step {step}"
        base.holds(changed, step)
        assert base.lab.shell("restarted", "cat /written") == "kept\n" or step == 0
        base.remove(AFTER)

    assert every_step(base, Apply(base.lab, AFTER), prepare, mend, ONLY) > 10


def test_a_full_state_root_refuses_a_disk_and_leaves_nothing_of_it(small_lab: Lab) -> None:
    small_lab.apply(image())
    fill(small_lab.vsprov.folder, 64 << 10)
    said = small_lab.refused(image(), limited("a", "2Gi"))
    assert "Server/a" in said and "No space left on device" in said
    (small_lab.vsprov.folder / "ballast").unlink()
    assert not small_lab.directory("a").exists() and not leaks.loops(small_lab.vsprov.folder)
    small_lab.converge(image(), limited("a", "16Mi"))


def test_a_full_host_is_named_and_the_disk_is_writable_again_when_there_is_space(tmp_path: Path) -> None:
    documents = (image(), limited("a", "64Mi"))
    with disk("ext4", tmp_path / "host", 100 * MI) as folder, own_instance(folder) as instance:
        lab = Lab(instance)
        lab.converge(*documents)
        lab.shell("a", "echo kept >/written; sync")
        ballast = fill(folder, 2 * MI)
        script = "dd if=/dev/urandom of=/big bs=64k count=500 conv=fsync; sync; touch /other"
        said = lab.run("a", "sh", "-c", script, check=False).stderr
        assert "No space left on device" in said and "Read-only file system" in said
        told = "read-only after an I/O error: the disk of the host may be full"
        assert told in lab.vsprov("describe", "a").stdout
        assert json.loads(lab.vsprov("get", "server", "a", "-o", "json").stdout)["status"]["disk"][
            "problem"
        ].startswith(told)
        broken = ("read-only after an I/O error", "writable", "restart")
        assert lab.differences(*documents) == {"Server/a /status/disk": broken}
        ballast.unlink()
        lab.converge(*documents)
        assert lab.shell("a", "touch /other; cat /written") == "kept\n"


def torn(lab: Lab) -> Path:
    """The image of a server that was stopped, which nobody uses any more."""
    lab.apply(image(), limited("a", "64Mi"), limited("b", "16Mi"))
    lab.shell("a", "echo kept >/written")
    lab.vsprov("stop", "a")
    wait_until(lambda: len(leaks.loops(lab.vsprov.folder)) == 1)
    return lab.directory("a") / "disk.img"


def test_a_truncated_image_is_named_and_whole_again_when_it_is_put_back(lab: Lab) -> None:
    found = torn(lab)
    content = found.read_bytes()
    os.truncate(found, 8 * MI)
    said = lab.refused(image(), limited("a", "64Mi"), limited("b", "16Mi"))
    assert f"{found}: is truncated: it has {8 * MI} bytes, and its file system {64 * MI}" in said
    assert "hint: restore the file from a backup, or destroy the server" in said
    assert lab.vsprov("start", "a", check=False).returncode == 1
    assert '"usedBytes": null' in lab.vsprov("get", "server", "a", "-o", "json").stdout
    with open(found, "r+b") as file:
        file.write(content)
    lab.apply(image(), limited("a", "64Mi"), limited("b", "16Mi"))
    assert lab.shell("a", "cat /written") == "kept\n"


def test_an_image_without_a_file_system_is_named_and_can_be_removed(lab: Lab) -> None:
    found = torn(lab)
    with open(found, "r+b") as file:
        file.write(bytes(64 << 10))
    said = lab.refused(image(), limited("a", "64Mi"), limited("b", "16Mi"))
    assert f"{found}: has no ext4 file system" in said
    lab.vsprov("delete", "-y", "server", "a")
    assert not found.exists()


def test_a_damaged_file_system_is_not_mounted_and_nothing_of_the_start_is_left(lab: Lab) -> None:
    found = torn(lab)
    with open(found, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)  # the descriptors of its groups
    said = lab.vsprov("start", "a", check=False)
    assert said.returncode == 1 and f"{found}: mount: " in said.stderr
    assert f"hint: check it with e2fsck -f {found}" in said.stderr
    assert len(leaks.loops(lab.vsprov.folder)) == 1


def test_an_image_that_somebody_has_mounted_is_left_to_them(lab: Lab, tmp_path: Path) -> None:
    found = torn(lab)
    subprocess.run(["mount", "-o", "loop", found, tmp_path], check=True)
    try:
        assert (tmp_path / "upper/written").read_text() == "kept\n"
        said = lab.vsprov("start", "a", check=False)
        assert said.returncode == 1 and f"{found}: is attached to /dev/loop" in said.stderr
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    lab.vsprov("start", "a")
    assert lab.shell("a", "cat /written") == "kept\n"


def test_a_start_waits_for_whoever_uses_the_image(lab: Lab) -> None:
    found = torn(lab)
    fd = os.open(found, os.O_RDWR)
    assert loop.lock(fd, 10)
    words = lab.vsprov.command("start", "a")
    starting = subprocess.Popen(words, env=lab.vsprov.environment, stderr=subprocess.PIPE, text=True)
    try:
        # It sits in flock(2), in a thread of its own.
        wait_until(lambda: f":{found.stat().st_ino} 0 EOF" in waiting_for_locks())
    finally:
        os.close(fd)
    assert starting.communicate()[1] != "" and starting.returncode == 0
    assert lab.shell("a", "cat /written") == "kept\n"


def waiting_for_locks() -> str:
    """The lines of /proc/locks of those that wait; proc_locks(5)."""
    lines = Path("/proc/locks").read_text().splitlines()
    return "\n".join(line for line in lines if "->" in line)
