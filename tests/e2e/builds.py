"""Images that are built in steps, and what their layers hold."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Document, Lab, busybox_image, image
from vsprov.store import images
from vsprov.store.instance import Instance
from vsprov.store.layers import layers
from vsprov.store.layers.verify import verify


@pytest.fixture
def box(tmp_path: Path) -> Document:
    """An image `box` with busybox, in which /bin is a link to /usr/bin."""
    tree = busybox_image(tmp_path / "box")
    (tree / "usr").mkdir()
    (tree / "bin").rename(tree / "usr/bin")
    (tree / "bin").symlink_to("usr/bin")
    (tree / "srv/old").mkdir()
    (tree / "srv/old/a").write_text("a")
    (tree / "etc/gone").write_text("gone")
    return image("box", directory=str(tree))


def built(*steps: Any, name: str = "built", on: str = "box", **defaults: Any) -> Document:
    build = {"from": on, "steps": list(steps)} | ({"defaults": defaults} if defaults else {})
    return image(name, build=build)


def run(command: str, **more: Any) -> Document:
    return {"run": {"command": command, **more}}


def store(lab: Lab) -> Instance:
    return Instance(lab.vsprov.name, str(lab.vsprov.root))


def trees(lab: Lab, name: str = "built") -> list[Path]:
    """The layers of an image, lowest first."""
    contents = images.observe(store(lab))[name].contents
    assert contents is not None
    return [Path(layers.tree(store(lab), key)) for key in contents.layers]


def top(lab: Lab, name: str = "built") -> Path:
    return trees(lab, name)[-1]


def is_whole(lab: Lab) -> None:
    """Every layer is as it was made, and nothing else is there of any build."""
    for key in layers.keys(store(lab)):
        assert verify(layers.path(store(lab), key), lambda *_: None) == []
        assert sorted(os.listdir(layers.path(store(lab), key))) == ["listing", "tree"]
    assert [name for name in os.listdir(store(lab).layers) if name.startswith(".")] == []
    assert not builds(lab)


def builds(lab: Lab) -> list[Path]:
    """The groups of builds that are there."""
    return list(lab.group("").glob(".build-*")) if lab.group("").exists() else []


def looks(path: Path) -> tuple[str, int, int]:
    """Mode and owner."""
    status = os.lstat(path)
    return f"{stat.S_IMODE(status.st_mode):o}", status.st_uid, status.st_gid


def whiteout(path: Path) -> bool:
    status = os.lstat(path)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def steps_done(done: subprocess.CompletedProcess[str]) -> list[int]:
    """The numbers of the steps that an apply has done."""
    return [int(number) for number in re.findall(r": step ([0-9]+) of [0-9]+: ", done.stderr)]
