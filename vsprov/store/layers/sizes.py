"""Disk usage of layers, images and servers. An inode counts once, however many names it has.

Blocks that different inodes share (reflinks) count for each of them.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from vsprov.kernel.paths import FOLDER, GONE
from vsprov.store.disk import durable
from vsprov.store.disk.descent import Descent
from vsprov.store.instance import TREE

BLOCK = 512  # unit of st_blocks, stat(3type)

Inode = tuple[int, int]  # st_dev, st_ino


class Share(Struct, frozen=True):
    """Bytes of an image on disk: `shared` with other images, `private` to it."""

    shared: int
    private: int

    @property
    def total(self) -> int:
        return self.shared + self.private


class Sizes(Struct, frozen=True):
    """The inodes in the tree of each layer, with their bytes."""

    layers: Mapping[str, Mapping[Inode, int]]

    @property
    def total(self) -> int:
        """Bytes of all layers together."""
        return sum(_union(self.layers.values()).values())

    def images(self, images: Mapping[str, Sequence[str]]) -> dict[str, Share]:
        """The usage of each image, by name; `images` is {name: keys of its layers}.

        An inode is shared if a layer of another image contains it: the same layer, or a hard link.
        """
        held = {name: _union(self.layers.get(key, {}) for key in keys) for name, keys in images.items()}
        users = Counter(inode for inodes in held.values() for inode in inodes)
        shares = {}
        for name, inodes in held.items():
            private = sum(size for inode, size in inodes.items() if users[inode] == 1)
            shares[name] = Share(sum(inodes.values()) - private, private)
        return shares


def _union(parts: Iterable[Mapping[Inode, int]]) -> dict[Inode, int]:
    return {inode: size for part in parts for inode, size in part.items()}


def measure(layers: Mapping[str, str]) -> Sizes:
    """Read the inodes in the trees of `layers`, {key: path}; a layer that does not exist has none."""
    return Sizes(
        {
            key: {(s.st_dev, s.st_ino): s.st_blocks * BLOCK for s in inodes(f"{path}/{TREE}")}
            for key, path in layers.items()
        }
    )


def upper_size(path: str) -> int:
    """Bytes on disk of `path` and everything below it; 0 if it does not exist.

    The server may change it meanwhile, to any depth and with any names; the result is then approximate.
    """
    return sum(status.st_blocks * BLOCK for status in inodes(path))


def written_size(path: str) -> int:
    """Like `upper_size`, without directories, which the overlay also copies for mount points of vsprov."""
    return sum(status.st_blocks * BLOCK for status in inodes(path) if not stat.S_ISDIR(status.st_mode))


def written(path: str) -> tuple[int, int]:
    """(`written_size`, the number of inodes below the path)."""
    found = [0 if stat.S_ISDIR(status.st_mode) else status.st_blocks * BLOCK for status in inodes(path)]
    return sum(found), max(0, len(found) - 1)


def inodes(path: str) -> Iterator[os.stat_result]:
    """The status of `path` and of each inode below it, once each, on one file system.

    Follows no symbolic link. Yields nothing if `path` does not exist.
    """
    try:
        top = os.open(path, FOLDER)
    except FileNotFoundError:
        return
    except OSError as error:
        raise durable.failed(path, "measure", error) from error
    try:
        descent = Descent(top)
        try:
            yield from _walk(descent)
        finally:
            descent.close()
    except OSError as error:
        raise durable.failed(path, "measure", error) from error
    finally:
        os.close(top)


def _walk(descent: Descent) -> Iterator[os.stat_result]:
    """No directory is visited twice, so this ends even if directories are moved meanwhile."""
    seen: set[int] = set()
    status: os.stat_result | None = os.fstat(descent.here)
    while True:
        if status is not None:
            seen.add(status.st_ino)
            yield status
            yield from _entries(descent, seen)
        while not descent.left:
            if descent.is_at_top:
                return
            if not descent.leave():
                descent.recover()
        name = descent.left.pop()
        try:
            status = descent.enter(name, seen)
        except OSError as error:
            if error.errno not in GONE:
                raise
            status = None


def _entries(descent: Descent, seen: set[int]) -> Iterator[os.stat_result]:
    """The status of the entries that are not directories; those are added to `descent.left`."""
    for name in os.listdir(descent.here):
        try:
            status = os.stat(name, dir_fd=descent.here, follow_symlinks=False)
        except OSError as error:
            if error.errno not in GONE:
                raise
            continue
        if stat.S_ISDIR(status.st_mode):
            descent.left.append(name)
        elif status.st_ino not in seen:
            if status.st_nlink > 1:
                seen.add(status.st_ino)
            yield status
