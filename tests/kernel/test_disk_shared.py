"""Images that are mounted several times at once: those of volumes."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import pytest

from tests import leaks
from tests.lab import wait_until
from vsprov.store.space import image_state, shared

pytestmark = pytest.mark.requires("root", "loop", "ext4", "mkfs_ext4")
MI = 1 << 20


def nothing(path: str) -> None:
    """Leave an image empty."""


@pytest.mark.vm_subset
def test_mounts_of_one_image_share_its_file_system_and_the_last_one_detaches_it(folder: Path) -> None:
    shared.make(str(folder), 16 * MI, None, nothing)
    with ExitStack() as opened:
        mounts = [shared.tree(str(folder)) for _ in range(3)]
        for mounted in mounts[1:]:
            opened.callback(os.close, mounted)
        assert len(leaks.loops(folder)) == 1
        Path(shared.place(mounts[0]), "file").write_text("shared\n")
        os.close(mounts[0])
        assert [Path(shared.place(each), "file").read_text() for each in mounts[1:]] == ["shared\n"] * 2
    wait_until(lambda: not leaks.loops(folder))


def test_threads_that_mount_an_image_at_once_attach_one_device(folder: Path) -> None:
    shared.make(str(folder), 16 * MI, None, nothing)
    found: list[int] = []
    threads = [Thread(target=lambda: found.append(shared.tree(str(folder)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(leaks.loops(folder)) == 1
    assert len({os.stat(shared.place(each)).st_dev for each in found}) == 1
    for each in found:
        os.close(each)


def test_an_image_is_filled_and_empty_of_what_ext4_brings(folder: Path) -> None:
    shared.make(str(folder), 16 * MI, None, nothing)
    assert shared.is_empty(str(folder))
    mounted = shared.tree(str(folder))
    assert os.listdir(shared.place(mounted)) == [] and not shared.is_empty(str(folder))  # not known: in use
    os.mkdir("kept", dir_fd=mounted)
    os.close(mounted)
    wait_until(lambda: not leaks.loops(folder))
    assert not shared.is_empty(str(folder))


def test_what_a_check_of_the_file_system_makes_is_removed_and_what_it_finds_is_kept(folder: Path) -> None:
    shared.make(str(folder), 32 * MI, None, nothing)
    shared.resize(str(folder), 16 * MI, live=False)
    wait_until(lambda: not leaks.loops(folder))
    assert shared.is_empty(str(folder))
    mounted = shared.tree(str(folder))
    os.mkdir(shared.LOST_FOUND, 0o700, dir_fd=mounted)
    os.mkdir(f"{shared.LOST_FOUND}/#12", dir_fd=mounted)
    os.close(mounted)
    again = shared.tree(str(folder))
    assert os.listdir(shared.place(again)) == [shared.LOST_FOUND]
    os.close(again)
    wait_until(lambda: not leaks.loops(folder))
    check = subprocess.run(["e2fsck", "-fn", image_state.path(str(folder))], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout
