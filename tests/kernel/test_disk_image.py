"""Images of disks: files with a file system of their own, loop devices, and the lock that these hold."""

from __future__ import annotations

import os
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.features import requires
from tests.lab import wait_until
from vsprov.errors import FailedError
from vsprov.kernel.storage import ext4, loop
from vsprov.plan.seen_disk import SeenDisk
from vsprov.store.disk import marks
from vsprov.store.space import blank, image
from vsprov.store.space.disks import Disks

pytestmark = pytest.mark.requires("root", "loop", "ext4", "mkfs_ext4")
MI, BASE = 1 << 20, 1 << 20


def seen(folder: Path) -> SeenDisk:
    found = Disks().of(str(folder), recorded=True)
    assert found is not None
    return found


@pytest.mark.parametrize("space", [16 * MI, 64 * MI, 132 * MI, 1000 * MI])
def test_a_new_image_has_the_size_that_was_asked_for(folder: Path, space: int) -> None:
    image.make(str(folder), space, None)
    found = seen(folder)
    assert (found.backend, found.space, found.inodes, found.attached, found.problem) == (
        "image", space, None, False, "",
    )  # fmt: skip
    assert found.used < 2 * MI or found.used < space // 4
    assert os.listdir(folder) == ["disk.img"]
    assert (folder / "disk.img").stat().st_blocks * 512 < 3 * MI


def test_images_of_one_size_differ_by_their_uuid_and_pass_the_check(folder: Path) -> None:
    """Only the first one is made by mkfs.ext4."""
    uuids = set()
    for number in range(3):
        path = folder / f"{number}"
        path.mkdir()
        image.make(str(path), 48 * MI, 1000)
        checked = subprocess.run(["e2fsck", "-f", "-n", path / "disk.img"], capture_output=True, text=True)
        assert (checked.returncode, checked.stderr.splitlines()[1:]) == (0, []), checked.stdout
        assert seen(path).inodes == 1000
        with closing(File(image.attach(str(path), BASE))) as mounted:
            os.close(os.open("upper/x", os.O_CREAT, dir_fd=mounted.fd))
        uuids.add((path / "disk.img").read_bytes()[1024 + 0x68 :][:16])
    assert len(uuids) == 3 and bytes(16) not in uuids


def test_an_image_whose_like_cannot_be_kept_in_memory_is_made_by_mkfs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blank, "_MOST_KEPT", 0)
    for _ in range(2):
        image.make(str(folder), 40 * MI, None)
        assert seen(folder).space == 40 * MI
    assert (40 * MI, None) not in blank._kept


def test_inodes_are_those_asked_for(folder: Path) -> None:
    image.make(str(folder), 64 * MI, 5000)
    found = seen(folder)
    assert found.inodes == 5000 and 5000 <= found.all_inodes - found.used_inodes <= 5500


@pytest.mark.vm_subset
def test_an_attached_image_has_folders_for_the_ids_of_the_server(folder: Path) -> None:
    image.make(str(folder), 64 * MI, None)
    mounted = image.attach(str(folder), BASE)
    try:
        for name, mode in (("upper", 0o40755), ("work", 0o40700)):
            status = os.stat(name, dir_fd=mounted)
            assert (status.st_mode, status.st_uid, status.st_gid) == (mode, BASE, BASE)
        with open(os.open("upper/x", os.O_CREAT | os.O_WRONLY, dir_fd=mounted), "wb") as file:
            file.write(b"x" * MI)
        found = seen(folder)
        assert found.attached and MI <= found.used < 2 * MI
    finally:
        os.close(mounted)
    wait_until(lambda: not seen(folder).attached)
    assert MI <= seen(folder).used < 2 * MI


def test_folders_that_were_not_finished_are_made_again(folder: Path) -> None:
    image.make(str(folder), 16 * MI, None)
    with closing(File(image.attach(str(folder), BASE))) as mounted:
        os.rename("upper", ".making-upper", src_dir_fd=mounted.fd, dst_dir_fd=mounted.fd)
        os.chown(".making-upper", 0, 0, dir_fd=mounted.fd)
    with closing(File(image.attach(str(folder), BASE))) as mounted:
        assert os.stat("upper", dir_fd=mounted.fd).st_uid == BASE
        assert sorted(os.listdir(f"/proc/self/fd/{mounted.fd}")) == ["lost+found", "upper", "work"]


def test_an_image_is_attached_only_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image.make(str(folder), 16 * MI, None)
    mounted = image.attach(str(folder), BASE)
    monkeypatch.setattr(image, "SECONDS_TO_DETACH", 0.1)
    with pytest.raises(FailedError, match=r"is still in use after 0\.1 s"):
        image.attach(str(folder), BASE)
    with pytest.raises(FailedError, match="is still in use"):
        image.rebuild(str(folder), 32 * MI)
    os.close(mounted)
    monkeypatch.setattr(image, "SECONDS_TO_DETACH", 60)
    os.close(image.attach(str(folder), BASE))


@pytest.mark.parametrize("space", [32 * MI, 100 * MI, 132 * MI, 300 * MI])
def test_a_rebuilt_image_has_another_size_and_the_same_files(folder: Path, space: int) -> None:
    image.make(str(folder), 64 * MI, 3000)
    with closing(File(image.attach(str(folder), BASE))) as mounted:
        content = os.urandom(8 * MI)
        with open(os.open("upper/x", os.O_CREAT | os.O_WRONLY, dir_fd=mounted.fd), "wb") as file:
            file.write(content)
        os.setxattr(f"/proc/self/fd/{mounted.fd}/upper/x", "trusted.overlay.opaque", b"y")
    image.rebuild(str(folder), space)
    found = seen(folder)
    assert (found.space, found.file_system, found.inodes, found.problem) == (space, space, 3000, "")
    with closing(File(image.attach(str(folder), BASE))) as mounted:
        assert Path(f"/proc/self/fd/{mounted.fd}/upper/x").read_bytes() == content
        assert os.getxattr(f"/proc/self/fd/{mounted.fd}/upper/x", "trusted.overlay.opaque") == b"y"
    assert os.listdir(folder) == ["disk.img"]


def test_what_does_not_fit_is_refused_and_the_image_stays(folder: Path) -> None:
    image.make(str(folder), 64 * MI, None)
    with closing(File(image.attach(str(folder), BASE))) as mounted:
        with open(os.open("upper/x", os.O_CREAT | os.O_WRONLY, dir_fd=mounted.fd), "wb") as file:
            file.write(os.urandom(30 * MI))
    with pytest.raises(FailedError, match=r"resize2fs: .*smaller than minimum"):
        image.rebuild(str(folder), 24 * MI)
    assert seen(folder).space == 64 * MI and os.listdir(folder) == ["disk.img"]


def test_growing_while_mounted_needs_a_capability(folder: Path) -> None:
    requires("cap_sys_resource")
    image.make(str(folder), 64 * MI, None)
    with closing(File(image.attach(str(folder), BASE))) as mounted:
        for space in (128 * MI, 132 * MI, 600 * MI):
            image.grow(str(folder), space)
            found = seen(folder)
            assert (found.space, found.file_system, found.attached) == (space, space, True)
        assert os.fstatvfs(mounted.fd).f_blocks * 4096 > 550 * MI


def test_a_growth_that_was_interrupted_is_not_taken_for_a_whole_one(folder: Path) -> None:
    image.make(str(folder), 64 * MI, None)
    made = marks.read_mark(str(folder / "disk.img"), "disk")
    assert made == f"{64 * MI} {64 * MI // 4096} 0"
    marks.write_mark(str(folder / "disk.img"), "disk", f"{128 * MI} 0 0")
    os.truncate(folder / "disk.img", 128 * MI)
    assert seen(folder).space == 64 * MI


def test_a_lock_outlives_whoever_attached_the_file(folder: Path) -> None:
    image.make(str(folder), 16 * MI, None)
    with open(folder / "disk.img", "r+b") as file:
        assert loop.lock(file.fileno(), 10)
        device = loop.attach(file.fileno())
    try:
        with open(folder / "disk.img", "r+b") as file:
            assert not loop.lock(file.fileno(), 0.1)
        found = ext4.superblock(device)
        assert found is not None and found.size == 16 * MI
        with open(folder / "other", "wb") as other:
            assert (
                loop.open_device(loop.devices()[str(folder / "disk.img")], os.fstat(other.fileno())) is None
            )
    finally:
        os.close(device)
    with open(folder / "disk.img", "r+b") as file:
        assert loop.lock(file.fileno(), 60)


class File:
    """A descriptor that `closing` closes."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        os.close(self.fd)
