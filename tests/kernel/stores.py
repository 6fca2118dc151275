"""The image store of an instance of a test's own, and importing into it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.archives import archive
from tests.kernel.stacks import overlaid
from tests.trees import Found, listing
from vsprov.errors import ImageError
from vsprov.model.kinds.image import Image, ImageLimits
from vsprov.model.sources import OciSource, Source, TarSource
from vsprov.store import images, sources
from vsprov.store.disk import durable, folders
from vsprov.store.disk.marks import Owner
from vsprov.store.disk.progress import Progress
from vsprov.store.hostimage import Bind
from vsprov.store.images import ImageRecord
from vsprov.store.instance import Instance
from vsprov.store.layers import layers
from vsprov.store.layers.verify import verify
from vsprov.store.sources import Resolved

MIB = 1 << 20


def quiet(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(slots=True)
class Store:
    """The store of one instance, with the few calls the tests make; `folder` is for sources."""

    instance: Instance
    folder: Path
    limits: ImageLimits = ImageLimits()
    owner: Owner = field(init=False)

    def __post_init__(self) -> None:
        self.owner = Owner(self.instance.name, "default")

    def image(self, source: Source) -> Image:
        return Image(source=source, limits=self.limits)

    def resolve(self, source: Source, record: ImageRecord | None = None, refresh: bool = False) -> Resolved:
        return sources.resolve(self.instance, self.image(source), record, refresh=refresh)

    def take(
        self, source: Source, resolved: Resolved, name: str = "base", told: Progress = quiet
    ) -> tuple[str, ...]:
        """Import what `resolve` has seen; the notes about it."""
        return sources.import_image(self.instance, name, self.image(source), resolved, self.owner, told)

    def imported(self, source: Source, name: str = "base", told: Progress = quiet) -> ImageRecord:
        """What an apply does of an image: look at what is there, look at the source, import."""
        record = images.observe(self.instance).get(name)
        self.take(source, self.resolve(source, record), name, told)
        return self.record(name)

    def record(self, name: str = "base") -> ImageRecord:
        return images.observe(self.instance)[name]

    def keys(self, name: str = "base") -> tuple[str, ...]:
        """The layers of an image, lowest first."""
        contents = self.record(name).contents
        assert contents is not None
        return contents.layers

    def binds(self, source: Source) -> tuple[Bind, ...]:
        """Import, and what is bound over the layers of servers."""
        contents = self.imported(source).contents
        assert contents is not None
        return contents.binds

    def layer(self, name: str = "base") -> Path:
        """The tree of an image of one layer."""
        (key,) = self.keys(name)
        return Path(layers.tree(self.instance, key))

    def trees(self, name: str = "base") -> list[Path]:
        return [Path(layers.tree(self.instance, key)) for key in self.keys(name)]

    @contextlib.contextmanager
    def merged(self, name: str = "base") -> Iterator[Path]:
        """What a server of the image sees: its layers, mounted as one."""
        short = self.folder / "short"  # the kernel has a page for the names of all
        short.mkdir()
        trees = []
        try:
            for number, tree in enumerate(self.trees(name)):
                (short / str(number)).symlink_to(tree)
                trees.append(short / str(number))
            with overlaid(trees, self.folder / "merged") as at:
                yield at.resolve()
        finally:
            for tree in trees:
                tree.unlink()
            short.rmdir()
            if len(trees) > 1:
                (self.folder / "merged").rmdir()

    def contents(self, name: str = "base") -> dict[str, Found]:
        with self.merged(name) as at:
            return listing(at)

    def unused(self, *used: str) -> images.Unused:
        return images.unused(self.instance, used)

    def refusal(self, source: Source | bytes) -> str:
        """What an import says, having left nothing."""
        if isinstance(source, bytes):
            (self.folder / "image.tar").write_bytes(source)
            source = tar(self.folder / "image.tar")
        with pytest.raises(ImageError) as refused:
            self.imported(source)
        self.holds_nothing()
        return str(refused.value).removeprefix("Image/base: ").replace(f"{self.folder}/", "")

    def holds_nothing(self) -> None:
        """Nothing is there, not even half made; but a download may be."""
        for path in (self.instance.layers, self.instance.images, self.instance.manifests):
            assert not os.path.exists(path) or os.listdir(path) == []
        assert self.half_made() == []

    def half_made(self) -> list[str]:
        """What has a temporary name."""
        found = []
        for folder in self.instance.folders:
            if os.path.isdir(folder):
                found += [f"{folder}/{name}" for name in os.listdir(folder) if name.startswith(".")]
        return found

    def is_whole(self) -> None:
        """Every image can be started, every layer is as it was made, and nothing is half made."""
        assert [record.problem for record in images.observe(self.instance).values() if record.problem] == []
        assert None not in images.manifests(self.instance).values()
        for key in layers.keys(self.instance):
            assert verify(layers.path(self.instance, key), quiet) == []
            assert sorted(os.listdir(layers.path(self.instance, key))) == ["listing", "tree"]
        assert self.half_made() == []

    def sweep(self) -> list[str]:
        """What the next apply does first, should this one have died."""
        return folders.sweep(self.instance)

    def empty(self) -> None:
        """Remove every image, and what only images need."""
        for name in images.observe(self.instance):
            images.remove(self.instance, name)
        images.collect(self.instance, self.unused())

    def importing(self, source: Source, name: str = "base") -> subprocess.Popen[bytes]:
        """Another process that imports the image; it says what it told, a line for each."""
        return subprocess.Popen(
            [sys.executable, "-c", _program(self.instance, source, name)], stdout=subprocess.PIPE
        )


def _program(instance: Instance, source: Source, name: str) -> str:
    return f"""
from vsprov.model.kinds.image import Image
from vsprov.model.sources import *
from vsprov.store import sources
from vsprov.store.instance import Instance
from vsprov.store.disk.marks import Owner
def told(what, done, total):
    print(what, done, flush=True)
image = Image(source={source!r})
store = Instance({instance.name!r}, {instance.root!r})
owner = Owner(store.name, "default")
sources.import_image(store, {name!r}, image, sources.resolve(store, image), owner, told)
"""


def store_of(name: str, root: str, folder: Path) -> Iterator[Store]:
    """A store that is removed in the end."""
    yield Store(Instance(name, root), folder)
    durable.remove_tree(root)


def tar(path: Path, sha256: str | None = None) -> Source:
    return Source(tar=TarSource(path=str(path), sha256=sha256))


def directory(path: Path) -> Source:
    return Source(directory=str(path))


def layout(path: Path, name: str | None = None, **more: Any) -> Source:
    return Source(oci=OciSource(layout=str(path), name=name, **more))


def packed_image(store: Store, *members: Any) -> Source:
    """A tar source of these members."""
    return tar(archive(store.folder / "image.tar", *members))


def processes(*words: str) -> list[int]:
    """The processes whose command lines hold all of these."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            with contextlib.suppress(OSError):  # it has ended
                line = (entry / "cmdline").read_bytes()
                if line and all(os.fsencode(word) in line for word in words):
                    found.append(int(entry.name))
    return found


def workers(root: str) -> list[int]:
    """The processes that unpack below `root`."""
    return processes("unpack/__main__.py", root)


def mounts_below(path: str) -> Sequence[str]:
    """The mounts at and below a path."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if f"{point}/".startswith(f"{path}/")]
