"""When the disk of the host is full: what does not fit into an image is not lost where it was."""

from __future__ import annotations

import os

import pytest

from tests import leaks
from tests.fault.faults import fill
from tests.lab import Lab, image, mounted, server, volume, wait_until

pytestmark = pytest.mark.requires("overlay", "loop", "ext4", "mkfs_ext4")
MI = 1 << 20


def test_files_whose_copies_the_host_has_no_room_for_stay_where_they_are(small_lab: Lab) -> None:
    """The copies are in memory, and only writing these back to the image fails."""
    user = server("a", init={"stopSignal": "KILL"}, mounts=[mounted("data")])
    small_lab.apply(image(), volume("data"), user)
    small_lab.shell("a", f"head -c {2 * MI} /dev/urandom > /data/file; sync")
    before = small_lab.shell("a", "md5sum /data/file")
    small_lab.vsprov("stop", "a")
    ballast = fill(small_lab.vsprov.folder, 2000 << 10)
    limited = (image(), volume("data", size="16Mi", backend="image"), user)
    said = small_lab.refused(*limited)
    assert "Volume/data" in said and "disk.img: write its files: Input/output error" in said
    assert "hint: the file system of the state root is full" in said
    wait_until(lambda: not leaks.loops(small_lab.vsprov.folder))
    assert os.listdir(small_lab.vsprov.root / "volumes") == ["data"]
    assert os.listdir(small_lab.vsprov.root / "volumes/data/data") == ["file"]
    ballast.unlink()
    small_lab.converge(*limited)
    assert small_lab.shell("a", "md5sum /data/file") == before


def test_a_snapshot_that_the_host_has_no_room_for_is_not_restored(small_lab: Lab) -> None:
    """The same for the disk of a server."""
    disk = {"space": "16Mi", "backend": "image"}
    wanted = (image(), server("a", init={"stopSignal": "KILL"}, resources={"disk": disk}))
    small_lab.apply(*wanted)
    small_lab.shell("a", f"head -c {MI} /dev/urandom > /file; sync")
    small_lab.vsprov("snapshot", "create", "a", "one")
    small_lab.shell("a", "echo later > /file; sync")
    ballast = fill(small_lab.vsprov.folder, 1000 << 10)
    done = small_lab.vsprov("snapshot", "restore", "-y", "a", "one", check=False)
    assert done.returncode == 1 and "disk.img: write its files: Input/output error" in done.stderr
    assert small_lab.shell("a", "cat /file") == "later\n"
    ballast.unlink()
