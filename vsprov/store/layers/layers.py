"""Layers on disk: immutable trees by key, shared by the images and servers that refer to them.

    layers/<sha256>/            mark: the instance that made it
        tree/                   what servers see; never changed once the layer has its name
        listing                 what the tree contains, for `image verify` and `image dedupe`

The key is a SHA-256 over what the layer was made from.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import threading
from collections.abc import Callable, Iterator

from msgspec import Struct, field

from vsprov.errors import FailedError, ImageError
from vsprov.store.disk import durable, folders, marks
from vsprov.store.disk.progress import Progress
from vsprov.store.instance import LINKING, LISTING, TREE, Instance

MARK = "layer"
DAMAGED = "damaged"  # mark of a layer in which `image verify` has found a difference
REPLACED = "replaced-"  # begins the names of damaged layers that were made again, while servers use them
_serial = itertools.count()
_replacing = threading.Lock()  # images imported concurrently may replace the same layer


def path(instance: Instance, key: str) -> str:
    """The directory of a layer.

    Raises ImageError if the key is not a SHA-256: it must not lead elsewhere (CVE-2026-48769).
    """
    if not is_digest(key):
        raise ImageError(f"{key!r} is not a sha256")
    return f"{instance.layers}/{key}"


def tree(instance: Instance, key: str) -> str:
    """The directory that servers have as a lower layer."""
    return f"{path(instance, key)}/{TREE}"


def is_digest(text: object) -> bool:
    """Whether this is a SHA-256 in hex, as the store has it in names and records."""
    return isinstance(text, str) and re.fullmatch(r"[0-9a-f]{64}", text) is not None


def keys(instance: Instance) -> set[str]:
    """The keys of all layers."""
    return {name for name in folders.names(instance.layers) if is_digest(name)}


def is_whole(instance: Instance, key: str) -> bool:
    """Whether the layer exists and is not known to be damaged. If not, the next import makes it again."""
    return os.path.isdir(tree(instance, key)) and not is_damaged(instance, key)


def is_damaged(instance: Instance, key: str) -> bool:
    """Whether the layer exists and `image verify` has found that it is damaged."""
    try:
        return marks.read_mark(path(instance, key), DAMAGED) is not None
    except FileNotFoundError:
        return False
    except OSError as error:
        raise durable.failed(path(instance, key), "read its marks", error) from error


def mark_damaged(instance: Instance, key: str, damaged: bool) -> None:
    """Record whether the layer, which exists, is damaged."""
    if damaged:
        marks.write_mark(path(instance, key), DAMAGED, "1")
    elif is_damaged(instance, key):
        marks.remove_mark(path(instance, key), DAMAGED)


class Batch(Struct):
    """Layers being made for one image, from several threads.

    They get their names together, after one wait for the disk. A crash before leaves only what
    `folders.sweep` removes.
    """

    instance: Instance
    progress: Progress
    made: dict[str, str] = field(default_factory=dict)  # key: its folder under a temporary name
    notes: list[str] = field(default_factory=list)  # for the user, about what was made
    _begun: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def has(self, key: str) -> bool:
        """Whether the layer exists, in this batch or in the store, and is not damaged."""
        return key in self.made or is_whole(self.instance, key)

    def folder(self, key: str) -> str:
        """The directory of a layer that was made in this batch or before."""
        return self.made.get(key) or path(self.instance, key)

    def tree(self, key: str) -> str:
        return f"{self.folder(key)}/{TREE}"

    def make(self, key: str, fill: Callable[[str], None]) -> None:
        """Make a layer unless it exists: `fill` gets the path of its tree, an empty directory of root."""
        if not self.has(key):
            self.keep(key, self.begin(fill))

    def begin(self, fill: Callable[[str], None]) -> str:
        """Make a layer whose key is not yet known; returns the directory to pass to `keep`."""
        from vsprov.store.trees import acl

        with self._lock:
            # A name that no process that died can have left with something mounted in it.
            folder = f"{self.instance.layers}/{durable.MAKING}{os.getpid()}-{next(_serial)}"
            self._begun.append(folder)
        try:
            durable.remove_tree(folder)
            os.mkdir(folder, 0o700)
            top = f"{folder}/{TREE}"
            os.mkdir(top, 0o755)
            acl.remove(top)  # inherited from the state root
            os.chmod(top, 0o755)  # whatever the umask is
            fill(top)
            marks.write_mark(folder, MARK, self.instance.name)
        except OSError as error:
            raise durable.failed(folder, "make a layer", error) from error
        return folder

    def keep(self, key: str, folder: str) -> None:
        """Complete a layer from `begin`: `key` is its key."""
        path(self.instance, key)  # raises for an invalid key
        self._list(folder)
        self._add(key, folder)

    def keep_by_content(self, folder: str) -> str:
        """Complete a layer from `begin` that was made from nothing but what it contains; its key."""
        key = hashlib.sha256(f"content\n{self._list(folder)}".encode()).hexdigest()
        self._add(key, folder)
        return key

    def _list(self, folder: str) -> str:
        from vsprov.store.layers import listing  # rarely needed

        try:
            return listing.write(f"{folder}/{TREE}", f"{folder}/{LISTING}", self.progress)
        except OSError as error:
            raise durable.failed(folder, "list what a layer holds", error) from error

    def _add(self, key: str, folder: str) -> None:
        with self._lock:
            if key not in self.made:
                self.made[key] = folder

    def note(self, text: str) -> None:
        """Add a note for the user; "" adds none."""
        with self._lock:
            if text and text not in self.notes:
                self.notes.append(text)

    def finish(self) -> None:
        """Write all layers to disk and give them their names."""
        if not self.made:
            return
        try:
            durable.flush_all(self.instance.layers)
            for key, folder in self.made.items():
                try:
                    durable.rename_new(folder, path(self.instance, key))
                except FileExistsError:
                    _replace(self.instance, key, folder)
            durable.flush_folder(self.instance.layers)
        except OSError as error:
            raise durable.failed(self.instance.layers, "keep the new layers", error) from error

    def clear(self) -> None:
        """Remove the layers that have not got their names."""
        for folder in self._begun:
            durable.remove_tree(folder)


def _replace(instance: Instance, key: str, folder: str) -> None:
    """Replace a damaged layer. One that is intact was made meanwhile by another image."""
    with _replacing:
        if is_damaged(instance, key):
            # Overlays show whatever happens in their lower layers, so those of running servers have to stay,
            # also if we die here; the layer is then missing, and the next import makes it.
            aside = f"{REPLACED}{os.path.basename(folder).removeprefix(durable.MAKING)}-{key}"
            os.rename(path(instance, key), f"{instance.layers}/{aside}")
            durable.rename_new(folder, path(instance, key))


def remove_replaced(instance: Instance) -> None:
    """Remove the damaged layers that were made again. The caller makes sure that no server uses them."""
    for name in folders.names(instance.layers):
        if name.startswith(REPLACED):
            durable.remove_tree(f"{instance.layers}/{name}")


@contextlib.contextmanager
def batch(instance: Instance, progress: Progress) -> Iterator[Batch]:
    """A batch that is kept if the block succeeds, and removed if it raises."""
    made = Batch(instance, progress)
    try:
        yield made
        made.finish()
    finally:
        made.clear()


def remove(instance: Instance, key: str) -> None:
    """Remove a layer that nothing uses, if it exists."""
    where = path(instance, key)
    try:
        aside = durable.set_aside(where)
    except OSError as error:
        raise durable.failed(where, "remove", error) from error
    if aside is not None:
        durable.remove_tree(aside)


def repair(instance: Instance) -> list[str]:
    """Repair what an interrupted dedupe has left; the paths of the layers that it was changing."""
    paths = [path(instance, key) for key in keys(instance)]
    marked = [layer for layer in paths if os.path.lexists(f"{layer}/{LINKING}")]
    if marked:
        from vsprov.store.layers import linking

        for layer in marked:
            linking.repair(layer)
    return sorted(marked)


def is_ours(instance: Instance, key: str) -> bool:
    """Whether this instance has made the layer."""
    try:
        return marks.read_mark(path(instance, key), MARK) == instance.name
    except (OSError, FailedError):
        return False
