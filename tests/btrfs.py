"""A lab whose state root is on a btrfs of its own with quotas."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.features import requires
from tests.instance import own_instance
from tests.kernel.layers import disk
from tests.lab import Lab

SIZE = 1 << 30


@pytest.fixture
def btrfs_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a btrfs of its own, without quotas."""
    requires("overlay", "loop", "btrfs", "mkfs_btrfs")
    with disk("btrfs", tmp_path / "btrfs", SIZE) as folder:
        yield folder


@pytest.fixture
def quota_lab(btrfs_disk: Path) -> Iterator[Lab]:
    """A lab on a btrfs with quotas."""
    subprocess.run(["btrfs", "quota", "enable", btrfs_disk], check=True)
    with own_instance(btrfs_disk) as instance:
        yield Lab(instance)


def groups(folder: Path) -> dict[str, list[int | None]]:
    """{path of the subvolume: [bytes that it references, limit or None]} of the btrfs at `folder`."""
    subprocess.run(["btrfs", "filesystem", "sync", folder], check=True, capture_output=True)
    said = subprocess.run(
        ["btrfs", "qgroup", "show", "-r", "--raw", folder], check=True, capture_output=True, text=True
    ).stdout
    found: dict[str, list[int | None]] = {}
    for line in said.splitlines()[2:]:
        _, used, _, limit, path = line.split(maxsplit=4)
        found[path] = [int(used), None if limit == "none" else int(limit)]
    return found
