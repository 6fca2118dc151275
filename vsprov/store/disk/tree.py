"""A directory tree: walking it; and one of the host as the source of an image: digesting it, copying it.

It may change, and may have been made by someone hostile: every step goes by a descriptor of the folder and
follows no symbolic link.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Container, Iterator
from typing import NamedTuple

from vsprov.errors import ImageError, reason
from vsprov.kernel.paths import FOLDER
from vsprov.store.disk import limits
from vsprov.store.disk.durable import HINTS
from vsprov.store.disk.limits import Limits

FICLONE = 0x40049409  # linux/fs.h
KINDS = {
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}
CAPABILITY = "security.capability"
OVERLAY = "trusted.overlay."
OPAQUE = f"{OVERLAY}opaque"
WHITEOUT = ".wh."
WITHOUT_LIMIT = Limits(entries=sys.maxsize, bytes=sys.maxsize)
CANNOT_COPY_RANGE = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM}
CANNOT_CLONE = CANNOT_COPY_RANGE | {errno.ENOTTY, errno.ETXTBSY}


class Entry(NamedTuple):
    """One name in the tree. `folder` is the descriptor of the folder it is in, until the walk goes on."""

    path: str  # relative to the top, "" for the top itself
    name: str
    folder: int
    status: os.stat_result

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.status.st_mode)


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor of the directory `path`.

    Refuses a symbolic link in its place: it may lead anywhere (CVE-2026-48749).
    """
    try:
        if stat.S_ISLNK(os.lstat(path).st_mode):
            raise ImageError(
                f"{path}: it is a symbolic link to {os.readlink(path)}", hint="name the directory itself"
            )
        top = os.open(path, FOLDER)
    except OSError as error:
        raise ImageError(f"{path}: open as a directory: {reason(error)}") from error
    try:
        yield top
    except OSError as error:
        where = f"{path}: {error.filename}" if error.filename else path
        raise ImageError(f"{where}: {reason(error)}", hint=HINTS.get(error.errno or 0, "")) from error
    finally:
        os.close(top)


RejectReason = Callable[
    [Entry, int, int, int, int], str
]  # (entry, device, entries, bytes, depth): what is wrong


def walk(
    top: int, label: str, reject_reason: RejectReason | None = None, skip: Container[str] = frozenset()
) -> Iterator[Entry]:
    """Every entry below the folder open as `top`, itself first, parents before children, in byte order.

    Raises ImageError at the first entry that `reject_reason` has words for: by default one that no image may hold.
    Does not descend into a folder that is in `skip` by the time the next entry is asked for.
    """
    reject_reason = reject_reason or image_reject_reason(limits.LIMITS)
    device = os.fstat(top).st_dev
    stack: list[tuple[int, str, list[str]]] = []
    count, size = 0, 0
    try:
        entry = Entry("", ".", top, os.fstat(top))
        while True:
            count += 1
            size += entry.status.st_blocks * 512
            problem = reject_reason(entry, device, count, size, len(stack))
            if problem:
                raise ImageError(f"{label}: {entry.path or '.'!r}: {problem}")
            yield entry
            if entry.kind == stat.S_IFDIR and entry.path not in skip:
                stack.append(_descend(entry, label))
            while stack and not stack[-1][2]:
                os.close(stack.pop()[0])
            if not stack:
                return
            folder, path, names = stack[-1]
            name = names.pop()
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            entry = Entry(f"{path}/{name}" if path else name, name, folder, status)
    finally:
        for folder, _, _ in stack:
            os.close(folder)


def _descend(entry: Entry, label: str) -> tuple[int, str, list[str]]:
    """(descriptor, path, names in reverse) of a folder."""
    folder = os.open(entry.name, FOLDER, dir_fd=entry.folder)
    if os.fstat(folder).st_ino != entry.status.st_ino:
        os.close(folder)
        raise ImageError(
            f"{label}: {entry.path!r}: changed while it was being read", hint="try again when it is at rest"
        )
    return folder, entry.path, sorted(os.listdir(folder), key=os.fsencode, reverse=True)


def image_reject_reason(most: Limits) -> RejectReason:
    """What says of an entry why no image may hold it; `most` is how much one may hold."""

    def reject_reason(entry: Entry, device: int, count: int, size: int, depth: int) -> str:
        if entry.kind in KINDS:
            return f"is {KINDS[entry.kind]}, which no image may hold"
        if entry.name.startswith(WHITEOUT):
            return "is a whiteout, which only a layer over another may hold"
        return foreign_ids(entry) or over_limit(most, entry, device, count, size, depth)

    return reject_reason


def layer_reject_reason(entry: Entry, device: int, count: int, size: int, depth: int) -> str:
    """What is wrong with an entry of a layer, which may hold what the overlay itself writes in one: a
    character device 0:0 says that a name of the layers below is gone. "" when nothing is.

    How much a layer may hold was said when it was made.
    """
    whiteout = entry.kind == stat.S_IFCHR and entry.status.st_rdev == 0
    if entry.kind in KINDS and not whiteout:
        return f"is {KINDS[entry.kind]}, which no image may hold"
    return foreign_ids(entry) or over_limit(WITHOUT_LIMIT, entry, device, count, size, depth)


def foreign_ids(entry: Entry) -> str:
    uid, gid = entry.status.st_uid, entry.status.st_gid
    if uid > limits.MAX_ID or gid > limits.MAX_ID:
        return f"belongs to {uid}:{gid}; a server's ids end at {limits.MAX_ID}"
    return ""


def over_limit(most: Limits, entry: Entry, device: int, count: int, size: int, depth: int) -> str:
    """Why an entry is too much or too far away; "" when it is not."""
    if entry.kind == stat.S_IFDIR and entry.status.st_dev != device:
        return "is on another file system: something is mounted there"
    if depth > most.depth or len(os.fsencode(entry.path)) > most.path:
        return f"lies too deep: {most.depth} levels and {most.path} bytes are the most"
    if count > most.entries:
        return f"is entry number {count}; {most.entries} are the most"
    if size > most.bytes:
        return f"makes the image larger than {most.bytes} bytes"
    return ""


def fingerprint(top: int, label: str, reject_reason: RejectReason | None = None) -> tuple[str, int]:
    """(what changes whenever anything in the tree does, the newest change in ns). Reads no contents."""
    sha = hashlib.sha256()
    newest = 0
    for entry in walk(top, label, reject_reason):
        s = entry.status
        sha.update(os.fsencode(entry.path))
        sha.update(
            b"\0%d %d %d %d %d %d\n"
            % (s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev)
        )
        newest = max(newest, s.st_ctime_ns)
    return sha.hexdigest(), newest


def digest(top: int, label: str, reject_reason: RejectReason | None = None) -> str:
    """The sha256 over a listing: names, kinds, modes, owners, contents, hard links, kept extended attributes.

    Times are left out: the same files unpacked twice have the same digest.
    """
    sha = hashlib.sha256()
    linked: dict[int, str] = {}
    for entry in walk(top, label, reject_reason):
        s = entry.status
        content: object = None
        attributes: dict[str, str] = {}
        first = (
            linked.setdefault(s.st_ino, entry.path)
            if s.st_nlink > 1 and entry.kind != stat.S_IFDIR
            else entry.path
        )
        if first != entry.path:
            content = {"link": first}
        elif entry.kind == stat.S_IFLNK:
            content = os.readlink(entry.name, dir_fd=entry.folder)
        else:
            with opened_entry(entry, label) as fd:
                attributes = {name: value.hex() for name, value in kept_attributes(fd, entry, label)}
                if entry.kind == stat.S_IFREG:
                    with open(fd, "rb", closefd=False) as file:
                        content = hashlib.file_digest(file, "sha256").hexdigest()
        line = [entry.path, entry.kind, stat.S_IMODE(s.st_mode), s.st_uid, s.st_gid, content, attributes]
        sha.update(json.dumps(line, sort_keys=True).encode() + b"\n")
    return sha.hexdigest()


@contextlib.contextmanager
def opened_entry(entry: Entry, label: str) -> Iterator[int]:
    fd = open_entry(entry, label)
    try:
        yield fd
    finally:
        os.close(fd)


def open_entry(entry: Entry, label: str) -> int:
    """A descriptor of a regular file or directory, the very one that was looked at."""
    fd = os.open(entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=entry.folder)
    status = os.fstat(fd)
    if (status.st_ino, stat.S_IFMT(status.st_mode)) != (entry.status.st_ino, entry.kind):
        os.close(fd)
        raise ImageError(
            f"{label}: {entry.path!r}: changed while it was being read",
            hint="try again when it is at rest",
        )
    return fd


def kept_attributes(fd: int, entry: Entry, label: str) -> list[tuple[str, bytes]]:
    """The extended attributes that an image keeps: file capabilities and user.*; the overlay's own are
    refused, not dropped: they say that files of a lower layer are gone.
    """
    kept = []
    for name in sorted(os.listxattr(fd)):
        if name.startswith((OVERLAY, "user.overlay.")):
            raise ImageError(
                f"{label}: {entry.path or '.'!r}: {name}: it is the upper layer of an overlay",
                hint="copy the merged directory",
            )
        if name == CAPABILITY or name.startswith("user."):
            kept.append((name, os.getxattr(fd, name)))
    return kept


def copy(
    top: int,
    label: str,
    target: str,
    progress: Callable[[int, int], None],
    reject_reason: RejectReason | None = None,
) -> None:
    """Copy the tree into the empty `target`, which nobody else changes; contents share blocks where they can.

    `progress` is called with the number of entries and bytes after each entry.
    """
    into = os.open(target, FOLDER)
    linked: dict[int, str] = {}
    folders: list[Entry] = []
    count = size = 0
    try:
        for entry in walk(top, label, reject_reason):
            path = entry.path or "."
            s = entry.status
            if entry.kind == stat.S_IFDIR:
                if entry.path:
                    os.mkdir(path, 0o700, dir_fd=into)
                folders.append(entry)
                _copy_open(entry, label, path, into, FOLDER)
            elif s.st_nlink > 1 and s.st_ino in linked:
                os.link(linked[s.st_ino], path, src_dir_fd=into, dst_dir_fd=into, follow_symlinks=False)
            elif entry.kind == stat.S_IFLNK:
                os.symlink(os.readlink(entry.name, dir_fd=entry.folder), path, dir_fd=into)
                os.chown(path, s.st_uid, s.st_gid, dir_fd=into, follow_symlinks=False)
                os.utime(path, ns=(s.st_atime_ns, s.st_mtime_ns), dir_fd=into, follow_symlinks=False)
            else:
                _copy_open(
                    entry,
                    label,
                    path,
                    into,
                    os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                )
                size += s.st_size
            linked.setdefault(s.st_ino, path)
            count += 1
            progress(count, size)
        for entry in reversed(folders):
            os.utime(
                entry.path or ".",
                ns=(entry.status.st_atime_ns, entry.status.st_mtime_ns),
                dir_fd=into,
                follow_symlinks=False,
            )
    finally:
        os.close(into)


def _copy_open(entry: Entry, label: str, path: str, into: int, flags: int) -> None:
    """Copy a regular file, or what a directory is apart from its entries."""
    s = entry.status
    with opened_entry(entry, label) as source:
        target = os.open(path, flags, 0o600, dir_fd=into)
        try:
            if entry.kind == stat.S_IFREG:
                _copy_content(source, target, s.st_size)
            os.fchown(target, s.st_uid, s.st_gid)  # before what chown(2) takes away: capabilities and setuid
            for name, value in kept_attributes(source, entry, label):
                os.setxattr(target, name, value)
            os.fchmod(target, stat.S_IMODE(s.st_mode))
            os.utime(target, ns=(s.st_atime_ns, s.st_mtime_ns))
        finally:
            os.close(target)


def _copy_content(source: int, target: int, size: int) -> None:
    """Copy a file's content, its holes as holes."""
    try:
        fcntl.ioctl(target, FICLONE, source)
        return
    except OSError as error:
        if error.errno not in CANNOT_CLONE:
            raise
    os.ftruncate(target, size)
    offset = 0
    while offset < size:
        try:
            start = os.lseek(source, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        offset = os.lseek(source, start, os.SEEK_HOLE)
        while start < offset:
            copied = _copy_range(source, target, start, offset - start)
            if copied == 0:
                return  # the file has shrunk; the fingerprint will tell
            start += copied


def _copy_range(source: int, target: int, offset: int, count: int) -> int:
    try:
        return os.copy_file_range(source, target, count, offset, offset)
    except OSError as error:
        if error.errno not in CANNOT_COPY_RANGE:
            raise
    return os.pwrite(target, os.pread(source, min(count, 1 << 20), offset), offset)
