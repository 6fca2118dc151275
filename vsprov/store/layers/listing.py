"""Listings: what the tree of a layer contained when it was made, to detect damage and to find equal files.

A listing is text: a line with the format; a JSON array for each entry, parents before children, names in byte
order; a JSON object with the number of entries and the bytes in all files; the SHA-256 of all lines above.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from typing import IO, NamedTuple

from msgspec import Struct

from vsprov.errors import ImageError, reason
from vsprov.store.disk import durable
from vsprov.store.disk.progress import PIECE, Meter, Progress
from vsprov.store.trees import acl, tree

HEAD = b"vsprov listing 1\n"
ANY_HEAD = rb"vsprov listing [0-9]+\n"
TAIL_BYTES = 4096  # longer than the last two lines
KINDS = {stat.S_IFDIR: "d", stat.S_IFREG: "f", stat.S_IFLNK: "l", stat.S_IFCHR: "w"}
IN_WORDS = {"d": "a directory", "f": "a file", "l": "a symbolic link", "w": "a whiteout"}
MAKE_AGAIN = "run vsprov image verify, which marks the layer as damaged, and then vsprov image pull"


class Item(NamedTuple):
    """One entry of a layer. `kind` is a key of `IN_WORDS`, `mtime` is in ns, `attributes` are in hex.

    `content` is the SHA-256 of a file or the target of a symbolic link. Directories and links have size 0.
    """

    path: str  # relative to the tree; "" is its top
    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    content: str
    attributes: dict[str, str]


class Summary(Struct, frozen=True):
    """The number of entries of a tree, and the bytes in its files."""

    entries: int
    bytes: int


class Unreadable(ImageError):
    """An entry cannot be read; `detail` is the reason."""

    def __init__(self, where: str, detail: str) -> None:
        super().__init__(f"{where}: read: {detail}")
        self.detail = detail


class Reader:
    """Reads entries of a tree as items."""

    def __init__(self, label: str, meter: Meter) -> None:
        self._label = label
        self._meter = meter
        self._buffer = memoryview(bytearray(PIECE))

    def item(self, entry: tree.Entry) -> Item:
        """The item for an entry. Raises `Unreadable`, or ImageError if the entry was replaced meanwhile."""
        where = f"{self._label}: {entry.path or '.'!r}"
        content = ""
        fd = -1
        try:
            try:
                if entry.kind in (stat.S_IFREG, stat.S_IFDIR):
                    fd = tree.open_entry(entry, self._label)
                elif entry.kind == stat.S_IFLNK:
                    content = os.readlink(entry.name, dir_fd=entry.folder)
                # Entries that cannot be opened are named relative to their directory.
                attributes = kept_attributes(fd if fd >= 0 else f"/proc/self/fd/{entry.folder}/{entry.name}")
            except OSError as error:
                raise Unreadable(where, reason(error)) from error
            if entry.kind == stat.S_IFREG:
                content = self.sha256(fd, entry.status.st_size, where)
        finally:
            if fd >= 0:
                os.close(fd)
        return facts(entry.path, entry.status, content, attributes)

    def sha256(self, fd: int, size: int, where: str) -> str:
        """The SHA-256 of the next `size` bytes, in hex. Raises `Unreadable`."""
        sha = hashlib.sha256()
        left = size
        while left:
            try:
                count = os.readv(fd, [self._buffer[: min(left, PIECE)]])
            except OSError as error:
                raise Unreadable(where, reason(error)) from error
            if not count:
                break
            sha.update(self._buffer[:count])
            left -= count
            self._meter.add(count)
        return sha.hexdigest()


def facts(path: str, status: os.stat_result, content: str, attributes: dict[str, str]) -> Item:
    """The item for a stat(2) result, a content and attributes."""
    kind = stat.S_IFMT(status.st_mode)
    return Item(
        path=path,
        kind=KINDS.get(kind, ""),
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=status.st_mtime_ns,
        size=status.st_size if kind == stat.S_IFREG else 0,
        content=content,
        attributes=attributes,
    )


def kept_attributes(path: int | str) -> dict[str, str]:
    """The extended attributes that a layer keeps, including those of overlay, in hex."""
    follow = isinstance(path, int)
    return {
        name: os.getxattr(path, name, follow_symlinks=follow).hex()
        for name in sorted(os.listxattr(path, follow_symlinks=follow))
        if name in (tree.CAPABILITY, *acl.ATTRIBUTES) or name.startswith(("user.", tree.OVERLAY))
    }


# ---- writing and reading a listing


def write(top: str, path: str, progress: Progress) -> str:
    """Write the listing of the tree at `top` to `path`, atomically; the caller flushes it to disk.

    Returns its SHA-256.
    `progress` reports the bytes read. Raises ImageError for an entry that is not allowed in a layer.
    """
    new = durable.temporary(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        durable.unlink(new)
        with open(os.open(new, flags, 0o600), "wb") as file:
            try:
                sha256 = _write(top, file, progress)
                file.flush()
                os.rename(new, path)
                return sha256
            except BaseException:
                durable.unlink(new)
                raise
    except OSError as error:
        raise durable.failed(path, "write the listing", error) from error


def _write(top: str, file: IO[bytes], progress: Progress) -> str:
    meter = Meter(progress, "list")
    reader = Reader(top, meter)
    sha = hashlib.sha256(HEAD)
    file.write(HEAD)
    entries = size = 0
    encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
    with tree.opened(top) as fd:
        for entry in tree.walk(fd, top, tree.layer_reject_reason):
            item = reader.item(entry)
            line = encode(item).encode() + b"\n"
            sha.update(line)
            file.write(line)
            entries += 1
            size += item.size
            meter.add(0)
    meter.report()
    line = encode({"entries": entries, "bytes": size}).encode() + b"\n"
    sha.update(line)
    file.write(line + sha.hexdigest().encode() + b"\n")
    return sha.hexdigest()


def read(path: str) -> Iterator[Item]:
    """The items of a listing, in its order, after its checksum has been verified.

    Raises ImageError if it is missing or damaged, or has a format that this version does not read.
    """
    with _opened(path) as file:
        end = _check(file, path)
        file.seek(len(HEAD))
        while file.tell() < end:
            yield Item(*json.loads(file.readline()))


def summary(path: str) -> Summary:
    """The summary of a listing, without verifying the rest. Raises ImageError like `read`."""
    with _opened(path) as file:
        return _tail(file, path).summary


def _opened(path: str) -> IO[bytes]:
    try:
        return open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except FileNotFoundError as error:
        raise ImageError(f"{path}: the listing of the layer is missing", hint=MAKE_AGAIN) from error
    except OSError as error:
        raise ImageError(f"{path}: open: {reason(error)}") from error


class _Tail(NamedTuple):
    summary: Summary
    line: bytes  # of the summary
    start: int  # offset of that line
    sha256: bytes


def _check(file: IO[bytes], path: str) -> int:
    """Verify the checksum of a listing; the offset where its items end."""
    tail = _tail(file, path)
    sha = hashlib.sha256()
    left = tail.start
    file.seek(0)
    while left and (part := file.read(min(left, PIECE))):
        sha.update(part)
        left -= len(part)
    sha.update(tail.line)
    if sha.hexdigest().encode() != tail.sha256:
        raise _damaged(path)
    return tail.start


def _tail(file: IO[bytes], path: str) -> _Tail:
    try:
        head = file.readline(64)
        if head != HEAD:
            if re.fullmatch(ANY_HEAD, head):
                raise ImageError(f"{path}: was written by another version of vsprov", hint=MAKE_AGAIN)
            raise _damaged(path)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        *_, line, sha256, rest = file.read().split(b"\n")
        if rest:
            raise _damaged(path)
        return _Tail(Summary(**json.loads(line)), line + b"\n", size - len(line) - len(sha256) - 2, sha256)
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(path) from error
    except OSError as error:
        raise ImageError(f"{path}: read: {reason(error)}") from error


def _damaged(path: str) -> ImageError:
    return ImageError(f"{path}: the listing is damaged; the layer itself may be intact", hint=MAKE_AGAIN)
