"""Subvolumes of btrfs, and the type of file systems whose files have devices of their own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.layers import disk, mounted
from vsprov.errors import FailedError
from vsprov.kernel import overlay
from vsprov.kernel.storage import btrfs
from vsprov.store.disk import durable
from vsprov.store.space import subvolume

pytestmark = pytest.mark.requires("btrfs", "loop", "mkfs_btrfs")


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Path]:
    with disk("btrfs", tmp_path / "disk", 256 << 20) as point:
        yield point


def made(path: Path) -> Path:
    subprocess.run(["btrfs", "subvolume", "create", path], check=True, capture_output=True)
    return path


def test_the_type_of_btrfs_is_known_in_each_subvolume(point: Path) -> None:
    assert overlay.file_system(str(point)) == "btrfs"
    assert overlay.file_system(str(made(point / "own"))) == "btrfs"


def test_a_tree_is_removed_with_the_subvolumes_in_it_and_their_groups(point: Path) -> None:
    subprocess.run(["btrfs", "quota", "enable", point], check=True)
    (point / "tree").mkdir()
    inner = made(made(point / "tree/one") / "deeper")
    (inner / "file").write_text("x")
    fd = os.open(inner, os.O_RDONLY)
    try:
        group, groups = btrfs.subvolume(fd), btrfs.groups(fd)
    finally:
        os.close(fd)
    durable.remove_tree(str(point / "tree"))
    assert os.listdir(point) == []
    subprocess.run(["btrfs", "subvolume", "sync", point], check=True, capture_output=True)
    assert group > 256 and not os.path.exists(f"{groups}/0_{group}")


def test_a_mount_in_a_tree_is_not_taken_for_a_subvolume(point: Path) -> None:
    (point / "tree").mkdir()
    (made(point / "own") / "file").write_text("kept")
    with mounted("bind", point / "own", point / "tree/mount"):
        with pytest.raises(FailedError, match="is still mounted"):
            durable.remove_tree(str(point / "tree"))
        with pytest.raises(FailedError, match="busy"):
            durable.remove_unmounted(str(point / "tree"))
        assert (point / "own/file").read_text() == "kept"


def test_a_directory_in_the_place_of_the_subvolume_is_named(point: Path) -> None:
    (point / "web/disk").mkdir(parents=True)
    assert subvolume.observe(str(point / "web")).problem == f"{point}/web/disk: is not a subvolume of btrfs"
