"""Copying directory trees that are sources of images."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable

from vsprov.kernel.paths import FOLDER
from vsprov.store.trees import acl, tree

FICLONE = 0x40049409  # linux/fs.h
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
CANNOT_COPY_RANGE = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM}
CANNOT_CLONE = CANNOT_COPY_RANGE | {errno.ENOTTY, errno.ETXTBSY}


def copy(
    top: int,
    label: str,
    target: str,
    progress: Callable[[int, int], None],
    reject_reason: tree.RejectReason | None = None,
) -> str:
    """Copy the tree into the empty directory `target`, sharing blocks (reflinks) where possible.

    `progress` is called with the number of entries and bytes after each entry. No other process may change
    `target` meanwhile. Returns a note about the special files that were left out, "" if there were none.
    """
    left_out: dict[str, str] = {}
    into = os.open(target, FOLDER)
    linked: dict[int, str] = {}
    folders: list[tuple[tree.Entry, bytes | None]] = []
    count = size = 0
    try:
        for entry in tree.image_entries(top, label, reject_reason, left_out):
            path = entry.path or "."
            s = entry.status
            if entry.kind == stat.S_IFDIR:
                if entry.path:
                    os.mkdir(path, 0o700, dir_fd=into)
                folders.append((entry, _copy_open(entry, label, path, into, FOLDER)))
            elif s.st_nlink > 1 and s.st_ino in linked:
                os.link(linked[s.st_ino], path, src_dir_fd=into, dst_dir_fd=into, follow_symlinks=False)
            elif entry.kind == stat.S_IFLNK:
                os.symlink(os.readlink(entry.name, dir_fd=entry.folder), path, dir_fd=into)
                os.chown(path, s.st_uid, s.st_gid, dir_fd=into, follow_symlinks=False)
                _set_times(path, into, s)
            else:
                _copy_open(entry, label, path, into, NEW_FILE)
                size += s.st_size
            linked.setdefault(s.st_ino, path)
            count += 1
            progress(count, size)
        for entry, default in reversed(folders):
            if default is not None:
                _set_default_list(entry.path or ".", into, default)
            _set_times(entry.path or ".", into, entry.status)
    finally:
        os.close(into)
    return tree.left_out_note(list(left_out.items())[: tree.LEFT_OUT_SHOWN], len(left_out))


def _set_times(path: str, into: int, status: os.stat_result) -> None:
    times = status.st_atime_ns, status.st_mtime_ns
    os.utime(path, ns=times, dir_fd=into, follow_symlinks=False)


def _set_default_list(path: str, into: int, default: bytes) -> None:
    fd = os.open(path, FOLDER, dir_fd=into)
    try:
        os.setxattr(fd, acl.DEFAULT, default)
    finally:
        os.close(fd)


def _copy_open(entry: tree.Entry, label: str, path: str, into: int, flags: int) -> bytes | None:
    """Copy a regular file, or a directory without its entries.

    Returns the default access control list of a directory, which is not yet set: entries would inherit it.
    """
    s = entry.status
    with tree.opened_entry(entry, label) as source:
        target = os.open(path, flags, 0o600, dir_fd=into)
        try:
            if entry.kind == stat.S_IFREG:
                copy_content(source, target, s.st_size)
            os.fchown(target, s.st_uid, s.st_gid)  # first, as chown(2) clears capabilities and setuid
            kept = dict(tree.kept_attributes(source, entry, label))
            access, default = kept.pop(acl.ACCESS, None), kept.pop(acl.DEFAULT, None)
            for name, value in kept.items():
                os.setxattr(target, name, value)
            os.fchmod(target, stat.S_IMODE(s.st_mode))
            if access is not None:
                os.setxattr(target, acl.ACCESS, access)
            os.utime(target, ns=(s.st_atime_ns, s.st_mtime_ns))
        finally:
            os.close(target)
    return default


def copy_content(source: int, target: int, size: int) -> None:
    """Copy the content of a file, with its holes."""
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
                return  # the file has shrunk, which the fingerprint will show
            start += copied


def _copy_range(source: int, target: int, offset: int, count: int) -> int:
    try:
        return os.copy_file_range(source, target, count, offset, offset)
    except OSError as error:
        if error.errno not in CANNOT_COPY_RANGE:
            raise
    return os.pwrite(target, os.pread(source, min(count, 1 << 20), offset), offset)
