"""Exact copies of directory trees that are not in use: the files that a server has written; and moving them.

Everything is kept: owners, modes, times, all extended attributes, hard links, holes, device nodes, and the
whiteouts and marks of overlayfs. Subvolumes become directories. Blocks are shared (reflinks) where the file
system can.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from msgspec import Struct

from vsprov.errors import FailedError, path_of, reason
from vsprov.kernel.paths import FOLDER
from vsprov.plan.ranges import RANGE
from vsprov.store.disk.durable import hint_for
from vsprov.store.layers.shift import with_root
from vsprov.store.trees import acl, tree
from vsprov.store.trees.copying import NEW_FILE, copy_content
from vsprov.store.trees.limits import Limits
from vsprov.store.trees.tree import CAPABILITY, WITHOUT_LIMIT, Entry

# Paths have to fit behind the descriptor that they are relative to.
LIMITS = Limits(WITHOUT_LIMIT.entries, WITHOUT_LIMIT.bytes, depth=256, path=4000)


class Size(Struct, frozen=True):
    """The number of files and directories, and their bytes on disk."""

    entries: int = 0
    bytes: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(self.entries + other.entries, self.bytes + other.bytes)


def after(before: Size, progress: Callable[[int], None]) -> Callable[[int], None]:
    """The progress of a copy that goes on after others."""
    return lambda done: progress(before.bytes + done)


def copy(
    source: str,
    target: str,
    label: str,
    progress: Callable[[int], None],
    shift: tuple[int, int] | None = None,
    most: Limits = LIMITS,
) -> Size:
    """Copy the directory `source` to the path `target`, where there is nothing or an empty directory.

    `shift` are the first ids of the range that files belong to, and of the one that the copies belong to.
    ImageError for more than `most`.
    `progress` is called with the bytes copied so far; what it raises cancels the copy. FailedError, with
    `label` in front, for errors of the kernel. The caller then removes `target`.
    """
    with _opened(source, target, label, "copy") as (top, into):
        return _Copy(top, into, label, progress, shift).run(most)


def measure(path: str, label: str) -> Size:
    """The size of a directory tree that is not in use."""
    entries = size = 0
    with tree.opened(path) as top:
        for entry in tree.walk(top, label, lambda *where: tree.over_limit(LIMITS, *where)):
            entries += 1
            size += entry.status.st_blocks * 512
    return Size(entries, size)


def move(
    source: str,
    target: str,
    label: str,
    progress: Callable[[int], None],
    shift: tuple[int, int] | None = None,
) -> None:
    """Like `copy`, but `source` is used up: its files are copied only if they cannot be renamed."""
    with _opened(source, target, label, "move") as (top, into):
        if shift:
            _Copy(top, top, label, progress, shift).change()
        here = Entry("", ".", top, os.fstat(top))
        attributes = _attributes(here)
        try:
            for name in os.listdir(top):
                os.rename(name, name, src_dir_fd=top, dst_dir_fd=into)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # Of another file system, or project, whose files it does not mix with others: so all of them.
            _Copy(top, into, label, progress, None).run()
            return
        _Copy(top, into, label, progress, None).set_metadata(".", here.status, attributes)


@contextmanager
def _opened(source: str, target: str, label: str, done: str) -> Iterator[tuple[int, int]]:
    """Descriptors of a directory, and of a new one."""
    with ExitStack() as held:
        try:
            with suppress(FileExistsError):
                os.mkdir(target, 0o700)
            into = os.open(target, FOLDER)
            held.callback(os.close, into)
            top = os.open(source, FOLDER)
            held.callback(os.close, top)
            yield top, into
        except OSError as error:
            hint = hint_for(error, target)
            what = path_of(error) or "its files"
            raise FailedError(f"{label}: {done} {what}: {reason(error)}", hint=hint) from error


class _Copy:
    """The copy of the tree open as `top` into the empty directory open as `into`."""

    def __init__(
        self,
        top: int,
        into: int,
        label: str,
        progress: Callable[[int], None],
        shift: tuple[int, int] | None,
    ) -> None:
        self.top, self.into, self.label, self.progress, self.shift = top, into, label, progress, shift
        self.linked: dict[tuple[int, int], str] = {}  # files with several names: the first one
        self.folders: list[tuple[str, os.stat_result, dict[str, bytes]]] = []

    def run(self, most: Limits = LIMITS) -> Size:
        entries = size = 0
        for entry in tree.walk(self.top, self.label, lambda *where: tree.over_limit(most, *where)):
            path = entry.path or "."
            try:
                self._copy(entry, path)
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from error
            entries += 1
            size += entry.status.st_blocks * 512
            self.progress(size)
        # At the end, from the bottom up: entries change the times of their directory, and inherit its list.
        for path, status, attributes in reversed(self.folders):
            self.set_metadata(path, status, attributes)
        return Size(entries, size)

    def change(self) -> None:
        """Change the ids of the files themselves: `into` is `top`."""
        for entry in tree.walk(self.top, self.label, lambda *where: tree.over_limit(LIMITS, *where)):
            self.set_metadata(entry.path or ".", entry.status, _attributes(entry))

    def _copy(self, entry: Entry, path: str) -> None:
        status, into = entry.status, self.into
        if entry.kind == stat.S_IFDIR:
            if entry.path:
                os.mkdir(path, 0o700, dir_fd=into)
            self.folders.append((path, status, _attributes(entry)))
            return
        if status.st_nlink > 1:
            first = self.linked.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                os.link(first, path, src_dir_fd=into, dst_dir_fd=into, follow_symlinks=False)
                return
        if entry.kind == stat.S_IFLNK:
            os.symlink(os.readlink(entry.name, dir_fd=entry.folder), path, dir_fd=into)
        elif entry.kind == stat.S_IFREG:
            with tree.opened_entry(entry, self.label) as source:
                target = os.open(path, NEW_FILE, 0o600, dir_fd=into)
                try:
                    copy_content(source, target, status.st_size)
                finally:
                    os.close(target)
        else:
            os.mknod(path, entry.kind | 0o600, status.st_rdev, dir_fd=into)
        self.set_metadata(path, status, _attributes(entry))

    def set_metadata(self, path: str, status: os.stat_result, attributes: dict[str, bytes]) -> None:
        """Set owner, mode, attributes and times: chown(2) clears capabilities and setuid."""
        uid, gid = self._moved(status.st_uid), self._moved(status.st_gid)
        os.chown(path, uid, gid, dir_fd=self.into, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(path, stat.S_IMODE(status.st_mode), dir_fd=self.into)
        for name, value in attributes.items():
            if self.shift and name in acl.ATTRIBUTES:
                value = acl.pack([self._moved_entry(one) for one in acl.parse(value)])
            elif self.shift and name == CAPABILITY:
                value = with_root(value, self._moved)
            os.setxattr(f"/proc/self/fd/{self.into}/{path}", name, value, follow_symlinks=False)
        times = status.st_atime_ns, status.st_mtime_ns
        os.utime(path, ns=times, dir_fd=self.into, follow_symlinks=False)

    def _moved(self, number: int) -> int:
        """An id in the other range; those of no server, such as of whiteouts, stay."""
        if self.shift and self.shift[0] <= number < self.shift[0] + RANGE:
            return number - self.shift[0] + self.shift[1]
        return number

    def _moved_entry(self, one: acl.Entry) -> acl.Entry:
        return one._replace(id=self._moved(one.id)) if one.tag in (acl.USER, acl.GROUP) else one


def _attributes(entry: Entry) -> dict[str, bytes]:
    path = f"/proc/self/fd/{entry.folder}/{entry.name}"
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
