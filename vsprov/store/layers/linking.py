"""Replacing equal files by hard links to one inode, name by name, so that a crash leaves each tree intact.

A name gets its new inode by rename(2), which changes the mtime of the directory; that is restored at once.
Meanwhile the layer contains a file `linking`: after a crash, `repair` finds it and restores the times.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple

from msgspec import Struct

from vsprov.errors import reason
from vsprov.kernel import syscall
from vsprov.kernel.paths import FOLDER, GONE, open_beneath
from vsprov.store.disk import durable
from vsprov.store.disk.progress import PIECE, Meter
from vsprov.store.instance import LINKING, LISTING, TREE
from vsprov.store.layers import listing, reflink, verify
from vsprov.store.layers.listing import Item, Reader, Unreadable
from vsprov.store.trees import tree

TEMPORARY = f"{durable.TEMPORARY}linking"
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME | os.O_CLOEXEC
# Different mounts of a file system, different project quotas, immutable files, no support for hard links.
CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP}


class Name(NamedTuple):
    """A file: the key of its layer, and its path in the tree of the layer."""

    layer: str
    path: str

    def __str__(self) -> str:
        return f"{self.layer}: {verify.quoted(self.path)}"


class Group(Struct, frozen=True):
    """Files equal to `item` except for the path: `others` are to get the inode of `keep`."""

    item: Item
    keep: Name
    others: tuple[Name, ...]


class Differs(Exception):
    """Files that differ from their listing or cannot be read, with the problem of each."""

    def __init__(self, found: dict[Name, str]) -> None:
        super().__init__(found)
        self.found = found


def lower_priority() -> None:
    """Give this thread the lowest CPU and I/O priority. On Linux, both are per thread."""
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    with suppress(OSError):  # the kernel then derives the I/O priority from the nice value; ioprio_set(2)
        syscall.ioprio_set(syscall.IOPRIO_WHO_PROCESS, 0, syscall.IOPRIO_CLASS_IDLE)


# ---- the mark of a layer in which names are being changed


def mark(layer: str) -> None:
    """Record on disk that names in the layer are about to change."""
    path = f"{layer}/{LINKING}"
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        durable.flush_folder(layer)
    except OSError as error:
        raise durable.failed(path, "make", error) from error


def unmark(layers: list[str]) -> None:
    """Write the changes to disk, then remove the marks."""
    for path in layers:
        durable.flush_all(path)
    for path in (f"{layer}/{LINKING}" for layer in layers):
        try:
            durable.unlink(path)
            durable.flush_folder(os.path.dirname(path))
        except OSError as error:
            raise durable.failed(path, "remove", error) from error


def repair(layer: str) -> bool:
    """Restore the directory times of a layer after interrupted linking, and remove the mark.

    Returns whether there was a mark. Raises ImageError if the listing is not readable.
    """
    if not os.path.lexists(f"{layer}/{LINKING}"):
        return False
    try:
        durable.unlink(_temporary(layer))
    except OSError as error:
        raise durable.failed(_temporary(layer), "remove", error) from error
    with tree.opened(f"{layer}/{TREE}") as top:
        for item in listing.read(f"{layer}/{LISTING}"):
            if item.kind == "d":
                _put_back_time(top, item)
    unmark([layer])
    return True


def _put_back_time(top: int, item: Item) -> None:
    try:
        folder = open_beneath(top, item.path, FOLDER)
    except OSError as error:
        if error.errno not in GONE:
            raise
        return  # `verify` reports it
    try:
        status = os.fstat(folder)
        if status.st_mtime_ns != item.mtime:
            os.utime(folder, ns=(status.st_atime_ns, item.mtime))
    finally:
        os.close(folder)


def _temporary(layer: str) -> str:
    """A path on the file system of the layer, which `folders.sweep` removes after a crash."""
    return f"{os.path.dirname(layer)}/{TEMPORARY}"


# ---- linking


class Linking:
    """Links files of the layers open as `tops`; counts `files` and `bytes`, and describes `failures`."""

    def __init__(
        self, layers: Mapping[str, str], tops: Mapping[str, int], meter: Meter, notify: Callable[[str], None]
    ) -> None:
        self._layers, self._tops, self._meter, self._notify = layers, tops, meter, notify
        self._reader = Reader("", meter)
        self._notified: set[str] = set()
        self.files = self.bytes = 0
        self.failures: list[str] = []

    def unite(self, group: Group) -> None:
        """Give the others the inode of the one to keep, or of the next one where that is not possible."""
        keep: Name | None = group.keep
        for other in group.others:
            if keep is None:
                keep = other
                continue
            try:
                if not self._replace(keep, other, group.item):
                    keep = other
            except Differs as differs:
                self.failures += [f"{name}: {what}" for name, what in differs.found.items()]
                if keep in differs.found:
                    keep = None if other in differs.found else other

    def _replace(self, keep: Name, other: Name, item: Item) -> bool:
        """Make `other` a link to the inode of `keep`; False if that has the maximum number of links."""
        with self._opened(keep) as (kept, _), self._opened(other) as (fd, folder):
            old = os.fstat(fd)
            if os.path.sameopenfile(kept, fd):
                return True
            self._compare({keep: kept, other: fd}, item)
            try:
                self._link(kept, other, folder)
            except OSError as error:
                if error.errno == errno.EMLINK:
                    return False
                if error.errno not in CANNOT_LINK:
                    raise durable.failed(f"{self._layers[other.layer]}/{TREE}", "link", error) from error
                self._share_blocks(kept, fd, other, error)
                return True
        self.files += 1
        self.bytes += old.st_blocks * 512 if old.st_nlink == 1 else 0
        return True

    @contextmanager
    def _opened(self, name: Name) -> Iterator[tuple[int, int]]:
        """Descriptors of a file and of its directory."""
        above, _, last = name.path.rpartition("/")
        try:
            folder = open_beneath(self._tops[name.layer], above, FOLDER)
            try:
                fd = os.open(last, READ, dir_fd=folder)
            except OSError:
                os.close(folder)
                raise
        except OSError as error:
            raise Differs({name: f"open: {reason(error)}"}) from error
        try:
            yield fd, folder
        finally:
            os.close(fd)
            os.close(folder)

    def _compare(self, files: dict[Name, int], item: Item) -> None:
        """Raise `Differs` unless both files match `item` and have equal contents."""
        found = {}
        for name, fd in files.items():
            changes = _changes(fd, item)
            if changes:
                found[name] = changes[0]
        if found:
            raise Differs(found)
        (one, kept), (other, fd) = files.items()
        if _all_attributes(kept) != _all_attributes(fd):
            raise Differs({other: f"has different extended attributes from {one}"})
        if not self._same_bytes(files, item.size):
            for name, fd in files.items():
                try:
                    if self._reader.sha256(fd, item.size, str(name)) != item.content:
                        found[name] = "content differs"
                except Unreadable as error:
                    found[name] = f"read: {error.detail}"
            raise Differs(found or {other: "changed while it was being read"})

    def _same_bytes(self, files: dict[Name, int], size: int) -> bool:
        for offset in range(0, size, PIECE):
            count = min(PIECE, size - offset)
            parts = []
            for name, fd in files.items():
                try:
                    parts.append(os.pread(fd, count, offset))
                except OSError as error:
                    raise Differs({name: f"read: {reason(error)}"}) from error
            if parts[0] != parts[1]:
                return False
            self._meter.add(count)
        return True

    def _link(self, kept: int, other: Name, folder: int) -> None:
        """Replace `other` by a link to the open file."""
        temporary = _temporary(self._layers[other.layer])
        times = os.fstat(folder)
        try:
            # By descriptor, as the name may refer to another file by now. The dir_fd has no effect on an
            # absolute path, but without it Python calls link(2), which does not follow the link in /proc.
            os.link(f"/proc/self/fd/{kept}", temporary, src_dir_fd=folder, follow_symlinks=True)
            os.rename(temporary, other.path.rpartition("/")[2], dst_dir_fd=folder)
        except OSError:
            durable.unlink(temporary)
            raise
        os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))

    def _share_blocks(self, kept: int, fd: int, other: Name, refused: OSError) -> None:
        status = os.fstat(fd)
        if status.st_size < status.st_blksize:
            return  # smaller than a block
        try:
            shared = reflink.share(kept, fd, status.st_size)
        except OSError as error:
            self.failures.append(f"{other}: link: {reason(refused)}; share its blocks: {reason(error)}")
            return
        message = f"{self._layers[other.layer]}: its files cannot be hard-linked ({reason(refused)}): "
        message += "equal ones share disk blocks, but no memory"
        if message not in self._notified:
            self._notified.add(message)
            self._notify(message)
        if shared:
            self.files += 1
            self.bytes += status.st_blocks * 512


def _changes(fd: int, item: Item) -> list[str]:
    """The differences between the open file and `item`, except for the content."""
    found = listing.facts(item.path, os.fstat(fd), item.content, listing.kept_attributes(fd))
    return list(verify.changes(found, item))


def _all_attributes(fd: int) -> dict[str, bytes]:
    """All extended attributes, with those that a listing omits: ACLs, labels of security modules."""
    return {name: os.getxattr(fd, name) for name in os.listxattr(fd)}
