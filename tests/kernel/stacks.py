"""Archives and stacks of them: unpacked by ours, mounted to look at, unpacked by umoci to compare."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import registry
from tests.archives import archive
from tests.trees import Found, listing
from vsprov.errors import ImageError
from vsprov.store.layers.unpacking import NeedsBelow, Unpacked, unpack
from vsprov.store.trees.limits import LIMITS, Limits

MIB = 1 << 20
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Box:
    """A folder for archives and the trees made of them, with the few calls the tests make."""

    folder: Path
    limits: Limits = LIMITS
    trees: int = 0

    def opened(self, archive: Path, **how: Any) -> tuple[Path, Unpacked]:
        """What `unpack` makes of a file, in a fresh directory; a `whole` image unless `below` is given."""
        self.trees += 1
        target = self.folder / f"tree{self.trees}"
        target.mkdir()
        if how.get("below"):
            work = self.folder / f"work{self.trees}"
            work.mkdir()
            how = {**how, "below": [str(path) for path in how["below"]], "work": str(work)}
        how = {"whole": "below" not in how, "progress": lambda *_: None, **how}
        with open(archive, "rb") as file:
            found = unpack(file.fileno(), str(target), limits=self.limits, label=archive.name, **how)
        return target, found

    def unpacked(self, *members: tuple[tarfile.TarInfo, bytes], **how: Any) -> Path:
        """The tree of an archive of `members`."""
        return self.opened(archive(self.folder / "image.tar", *members), **how)[0]

    def refusal(self, data: bytes, **how: Any) -> str:
        """What is said to an archive that nothing can be made of."""
        path = self.folder / "image.tar"
        path.write_bytes(data)
        with pytest.raises(ImageError) as refused:
            self.opened(path, **how)
        return str(refused.value)

    def stack(self, archives: Sequence[bytes]) -> list[Path]:
        """The trees of a stack of layers, lowest first: each alone if that works, else over those below."""
        trees: list[Path] = []
        for data in archives:
            path = self.folder / "layer.tar"
            path.write_bytes(data)
            try:
                tree, _ = self.opened(path, below=None if trees else ())
            except NeedsBelow:
                tree, _ = self.opened(path, below=trees[::-1])
            trees.append(tree)
        return trees


@contextlib.contextmanager
def overlaid(trees: Sequence[Path], at: Path) -> Iterator[Path]:
    """The trees, lowest first and all in one folder, mounted as one."""
    if len(trees) == 1:
        yield trees[0]
        return
    at.mkdir()
    here = os.getcwd()
    os.chdir(trees[0].parent)  # short names, as the kernel has a page for them
    try:
        layers = "lowerdir=" + ":".join(tree.name for tree in reversed(trees))
        if _libc.mount(b"t", os.fsencode(at), b"overlay", 1, layers.encode()):
            raise OSError(ctypes.get_errno(), "mount the overlay")
    finally:
        os.chdir(here)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


def as_umoci(folder: Path, archives: Sequence[bytes]) -> dict[str, Found]:
    """What `umoci unpack` makes of the same layers."""
    layout = registry.named(folder / "layout", x=registry.image(folder / "layout", *archives))
    return unpacked_by_umoci(layout, "x", folder / "bundle")


def unpacked_by_umoci(layout: Path, name: str, bundle: Path) -> dict[str, Found]:
    """What `umoci unpack` makes of an image of a layout."""
    command = ["umoci", "unpack", "--image", f"{layout}:{name}", bundle]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return listing(bundle / "rootfs")


def same(ours: dict[str, Found], theirs: dict[str, Found]) -> None:
    """Fail unless the trees are the same.

    umoci leaves directories that no layer holds with the time of unpacking, and those they were put into. A
    layer that says nothing of the root has one of its own, which a server's upper layer has as well.
    """
    assert sorted(ours) == sorted(theirs)
    if ours["."].modified == 0:
        theirs = {**theirs, ".": ours["."]}
    for name, found in theirs.items():
        now = found.modified > 1_700_000_000 * 10**9
        assert ours[name] == (found._replace(modified=ours[name].modified) if now else found), name
