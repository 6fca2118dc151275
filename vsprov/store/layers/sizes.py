"""What layers, images and servers take on disk: every inode once, however many names it has.

Blocks that files of different inodes share (reflinks) count for each of them.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vsprov.kernel.paths import GONE
from vsprov.store.disk import durable
from vsprov.store.disk.durable import FOLDER
from vsprov.store.instance import TREE

BLOCK = 512  # what st_blocks counts in, stat(3type)

Inode = tuple[int, int]  # st_dev, st_ino


@dataclass(frozen=True, slots=True)
class Share:
    """What an image takes, in bytes: `shared` with other images, `private` to it."""

    shared: int
    private: int

    @property
    def total(self) -> int:
        return self.shared + self.private


@dataclass(frozen=True, slots=True)
class Sizes:
    """The inodes of each layer's tree, and the bytes of each."""

    layers: Mapping[str, Mapping[Inode, int]]

    @property
    def total(self) -> int:
        """Bytes of all layers together."""
        return sum(_union(self.layers.values()).values())

    def layer(self, key: str) -> int:
        """Bytes of one layer; 0 for one that was not measured."""
        return sum(self.layers.get(key, {}).values())

    def images(self, images: Mapping[str, Sequence[str]]) -> dict[str, Share]:
        """What each image takes, by name; `images` are names and the keys of their layers.

        Shared is what a layer of another image holds too: because the layer is the same, or the inode is.
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
    """Look at every inode of the trees of `layers`, {key: path}; a layer that is not there holds nothing."""
    return Sizes(
        {
            key: {(s.st_dev, s.st_ino): s.st_blocks * BLOCK for s in inodes(f"{path}/{TREE}")}
            for key, path in layers.items()
        }
    )


def upper_size(path: str) -> int:
    """Bytes on disk below `path` and of itself; 0 when it is not there.

    What a server does meanwhile, however deep it nests and whatever it names, is no error: only the number
    can be of no one moment.
    """
    return sum(status.st_blocks * BLOCK for status in inodes(path))


@dataclass(slots=True)
class _Level:
    """A folder on the way down: its own name and inode, and the folders in it that are still to be seen."""

    name: str
    inode: Inode
    left: list[str]


def inodes(path: str) -> Iterator[os.stat_result]:
    """The status of each inode below `path`, itself first, each once, on its own file system alone.

    Follows no symbolic link. Nothing when `path` is not there.
    """
    try:
        top = os.open(path, FOLDER)
    except FileNotFoundError:
        return
    except OSError as error:
        raise durable.failed(path, "measure", error) from error
    walk = _Walk(top)
    try:
        yield from walk.run()
    except OSError as error:
        raise durable.failed(path, "measure", error) from error
    finally:
        os.close(walk.here)
        os.close(top)


class _Walk:
    """On its way through a tree that may change under it, with two descriptors however deep it is.

    It goes back up by `..`; where that does not lead back, as folders were moved meanwhile, it goes on from
    the deepest folder that is still in its place. No folder is seen twice, so it comes to an end.
    """

    def __init__(self, top: int) -> None:
        self.top = top
        self.here = os.dup(top)
        self.device = os.fstat(top).st_dev
        self.seen: set[int] = set()
        self.levels: list[_Level] = []

    def run(self) -> Iterator[os.stat_result]:
        yield from self._enter(os.dup(self.top), "")
        while self.levels:
            if self.levels[-1].left:
                name = self.levels[-1].left.pop()
                try:
                    below = os.open(name, FOLDER, dir_fd=self.here)
                except OSError as error:
                    if error.errno not in GONE:
                        raise
                else:
                    yield from self._enter(below, name)
            else:
                self.levels.pop()
                self._go_back()

    def _enter(self, fd: int, name: str) -> Iterator[os.stat_result]:
        """Make `fd` the folder that the walk is in, unless it was there before; what is in it but folders."""
        status = os.fstat(fd)
        if status.st_dev != self.device or status.st_ino in self.seen:
            os.close(fd)
            return
        os.close(self.here)
        self.here = fd
        self.seen.add(status.st_ino)
        folders: list[str] = []
        self.levels.append(_Level(name, (status.st_dev, status.st_ino), folders))
        yield status
        for name in os.listdir(fd):
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                if error.errno not in GONE:
                    raise
                continue
            if stat.S_ISDIR(status.st_mode):
                folders.append(name)
            elif status.st_ino not in self.seen:
                if status.st_nlink > 1:
                    self.seen.add(status.st_ino)
                yield status

    def _go_back(self) -> None:
        """Go to the last of `levels`, or give up those that are no longer to be found."""
        if not self.levels or self._go(self.here, "..", self.levels[-1]):
            return
        wanted, self.levels = self.levels[1:], self.levels[:1]
        os.close(self.here)
        self.here = os.dup(self.top)
        for level in wanted:
            if not self._go(self.here, level.name, level):
                return
            self.levels.append(level)

    def _go(self, folder: int, name: str, level: _Level) -> bool:
        """Go to `name`, if that is the folder of `level`."""
        try:
            fd = os.open(name, FOLDER, dir_fd=folder)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return False
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != level.inode:
            os.close(fd)
            return False
        os.close(self.here)
        self.here = fd
        return True
