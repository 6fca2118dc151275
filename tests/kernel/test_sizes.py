"""What layers, images and servers take on disk, as du(1) counts."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Instance
from tests.kernel.layers import filled, mounted, put
from vsprov.errors import FailedError
from vsprov.store.disk import durable
from vsprov.store.layers import sizes
from vsprov.store.layers.sizes import Share

MIB = 1 << 20


@pytest.fixture
def root(instance: Instance) -> Iterator[Path]:
    instance.root.mkdir()
    yield instance.root
    durable.remove_tree(str(instance.root))


def du(*paths: Path) -> int:
    """Bytes on disk, every inode once."""
    words = ["du", "--summarize", "--total", "--block-size=1", "--one-file-system", *map(str, paths)]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[-2])


def test_an_image_shares_what_a_layer_of_another_holds_and_has_the_rest_to_itself(root: Path) -> None:
    base = filled(root / "base", {"a": bytes(MIB), "b": bytes(2 * MIB)})
    app = filled(root / "app", {"c": bytes(4 * MIB)})
    other = filled(root / "other", {"d": bytes(8 * MIB), "e": bytes(16 * MIB)})
    os.link(base / "tree/b", other / "tree/b")
    layers = {path.name: str(path) for path in (base, app, other)}
    measured = sizes.measure(layers)
    assert measured.total == du(*(path / "tree" for path in (base, app, other)))
    assert sum(measured.layers["base"].values()) == du(base / "tree")
    assert measured.images({"of": ["none"]})["of"].total == 0
    folder = (app / "tree").stat().st_blocks * 512
    assert measured.images({"one": ["base", "app"], "two": ["other"]}) == {
        "one": Share(shared=2 * MIB, private=MIB + 4 * MIB + 2 * folder),
        "two": Share(shared=2 * MIB, private=(8 + 16) * MIB + folder),
    }
    assert measured.images({"one": ["base", "app"], "two": ["base"]})["one"] == Share(
        shared=3 * MIB + folder, private=4 * MIB + folder
    )
    assert measured.images({"alone": ["base", "other"]})["alone"].total == du(base / "tree", other / "tree")
    assert sizes.measure({"gone": f"{root}/gone"}).total == 0


def test_a_file_takes_its_blocks_whatever_its_length_and_however_many_names_it_has(root: Path) -> None:
    put(root / "upper/a", bytes(MIB))
    for number in range(5):
        os.link(root / "upper/a", root / f"upper/a{number}")
    with open(root / "upper/sparse", "wb") as file:
        file.truncate(1 << 40)
    (root / "upper/out").symlink_to("/usr")
    (root / "upper/round").symlink_to(".")
    os.mkfifo(root / "upper/fifo")
    put(root / "upper/odd\udcff\n\x1b/x", b"x")
    assert sizes.upper_size(str(root / "upper")) == du(root / "upper")
    assert sizes.upper_size(str(root / "none")) == 0
    folders = (root / "upper").stat().st_blocks + (root / "upper/odd\udcff\n\x1b").stat().st_blocks
    assert sizes.written_size(str(root / "upper")) == du(root / "upper") - folders * 512
    assert sizes.written_size(str(root / "none")) == 0
    with pytest.raises(FailedError, match="a: measure: Not a directory"):
        sizes.upper_size(str(root / "upper/a"))


def test_what_is_mounted_in_a_tree_is_not_part_of_it(root: Path) -> None:
    put(root / "upper/a", b"x")
    (root / "upper/below").mkdir()
    before = sizes.upper_size(str(root / "upper"))
    with mounted("tmpfs", root.parent.name, root / "upper/below"):
        put(root / "upper/below/b", bytes(MIB))
        seen = sizes.upper_size(str(root / "upper"))
    assert seen == before - (root / "upper/below").stat().st_blocks * 512  # which the mount hid


def test_a_tree_deeper_than_any_path_or_number_of_descriptors_is_measured(root: Path) -> None:
    top = root / "upper"
    top.mkdir()
    name = "d" * 200
    here = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    each = top.stat().st_blocks * 512
    assert sizes.upper_size(str(top)) == 3001 * each


def test_folders_moved_away_meanwhile_do_not_lead_the_walk_out_of_the_tree(root: Path) -> None:
    top, outside = root / "upper", root / "outside"
    for name in ("1", "2", "3"):
        put(top / f"a/b{name}/c/d/file", bytes(MIB))
    put(outside / "secret", bytes(MIB))
    secret = (outside / "secret").stat().st_ino
    walk = sizes.inodes(str(top))
    seen = []
    for status in walk:
        seen.append(status)
        if status.st_size == MIB and len(seen) < 20 and not (outside / "moved").exists():
            # It stands in …/c/d now, and the way back up has gone elsewhere.
            (moved,) = (b for b in (top / "a").iterdir() if (b / "c/d/file").stat().st_ino == status.st_ino)
            os.rename(moved / "c", outside / "moved")
    assert sum(status.st_size == MIB for status in seen) == 3
    assert secret not in {status.st_ino for status in seen}


def test_a_server_that_changes_its_files_meanwhile_disturbs_nothing(root: Path) -> None:
    top = root / "upper"
    for number in range(30):
        put(top / f"{number}/a/b/c", b"x")
    done = threading.Event()

    def churn() -> None:
        while not done.is_set():
            for number in range(30):
                os.rename(top / f"{number}/a", top / f"{(number + 7) % 30}/moved")
                os.rename(top / f"{(number + 7) % 30}/moved", top / f"{number}/a")
                shutil.rmtree(top / f"{number}/a/b")
                put(top / f"{number}/a/b/c", b"x")

    churning = threading.Thread(target=churn)
    churning.start()
    try:
        found = [sizes.upper_size(str(top)) for _ in range(50)]
    finally:
        done.set()
        churning.join()
    assert min(found) >= 31 * top.stat().st_blocks * 512  # the folders that never move
    assert sizes.upper_size(str(top)) == du(top)
