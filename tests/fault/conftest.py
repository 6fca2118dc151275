"""What the tests of this folder share."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.features import requires
from tests.instance import own_instance
from tests.lab import Lab, lab, loop_disk, shared_lab

__all__ = ["lab", "loop_disk", "shared_lab"]


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
