"""What the tests of this folder share."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.btrfs import btrfs_disk, quota_lab
from tests.features import requires
from tests.instance import own_instance
from tests.lab import Lab, image, lab, loop_disk, server, shared_lab

__all__ = ["btrfs_disk", "lab", "loop_disk", "quota_lab", "shared_lab"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on an ext4 of 8 MiB of its own."""
    requires("loop", "ext4", "mkfs_ext4")
    backing, folder = tmp_path / "disk", tmp_path / "mounted"
    with open(backing, "wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-N", "4096", str(backing)], check=True)
    folder.mkdir()
    subprocess.run(["mount", "-o", "loop", str(backing), str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def small_lab(small_disk: Path) -> Iterator[Lab]:
    with own_instance(small_disk) as instance:
        yield Lab(instance)


@pytest.fixture
def written(lab: Lab) -> Lab:
    """A lab with a server, web1, that has written each sort of file and removed one of its image."""
    lab.apply(image(), server("web1"))
    lab.shell("web1", "cd /srv; echo old > file; ln file twin; ln -s file link; mkfifo pipe; rm /etc/passwd")
    return lab
