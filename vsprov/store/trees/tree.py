"""Directory trees: walking them, and computing the digest of those that are sources of images.

A tree may change meanwhile, and may be hostile: each step goes by a descriptor of the directory, and no
symbolic link is followed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from typing import NamedTuple

from vsprov.errors import FailedError, ImageError, path_of, reason
from vsprov.kernel.paths import FOLDER, UnsafePathError, open_beneath, open_host
from vsprov.plan.ranges import RANGE
from vsprov.store.disk.durable import hint_for
from vsprov.store.trees import acl, limits
from vsprov.store.trees.limits import Limits

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
LEFT_OUT_SHOWN = 5  # special files, in a note
LONGEST_SHOWN = 200  # characters of a path
WITHOUT_LIMIT = Limits(entries=sys.maxsize, bytes=1 << 80)


class Entry(NamedTuple):
    """One entry of the tree. `folder` is a descriptor of its directory, valid until the walk continues."""

    path: str  # relative to the top; "" for the top itself
    name: str
    folder: int
    status: os.stat_result

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.status.st_mode)


@contextlib.contextmanager
def opened(path: str, *, links: bool = True) -> Iterator[int]:
    """A descriptor of the directory `path`, during the block; OSErrors in the block become ImageErrors.

    Refuses a symbolic link, which may lead anywhere (CVE-2026-48749), and above it those that others could
    have placed; with `links` false, all.
    """
    try:
        if stat.S_ISLNK(os.lstat(path).st_mode):
            raise ImageError(
                f"{path}: it is a symbolic link to {os.readlink(path)}", hint="name the directory itself"
            )
        top = open_host(path, FOLDER, links=links, owners=False)
    except OSError as error:
        raise unusable(path, "open as a directory", error) from error
    try:
        yield top
    except OSError as error:
        where = f"{path}: {path_of(error)}" if path_of(error) else path
        raise ImageError(f"{where}: {reason(error)}", hint=hint_for(error, top)) from error
    finally:
        os.close(top)


def unusable(path: str, done: str, error: OSError) -> ImageError:
    """The ImageError for a source that cannot be opened; names the component that was refused."""
    if isinstance(error, UnsafePathError):
        where = "" if error.filename == path else f"{error.filename}: "
        return ImageError(f"{path}: {done}: {where}{reason(error)}", hint=error.hint)
    return ImageError(f"{path}: {done}: {reason(error)}")


# (entry, device of the top, entries so far, bytes so far, depth): why the entry is not allowed, "" if it is.
RejectReason = Callable[[Entry, int, int, int, int], str]


def walk(
    top: int, label: str, reject_reason: RejectReason | None = None, skip: Container[str] = frozenset()
) -> Iterator[Entry]:
    """Every entry below the folder open as `top`, itself first, parents before children, in byte order.

    Raises ImageError at the first entry with a `reject_reason`, by default that of an image.
    Does not descend into directories whose path is in `skip` when the next entry is requested.
    """
    reject_reason = reject_reason or image_reject_reason(limits.LIMITS)
    device = os.fstat(top).st_dev
    stack: list[tuple[int, str, list[str]]] = []
    count, size = 0, 0
    try:
        entry = Entry("", ".", top, os.fstat(top))
        while True:
            count += 1
            size += _size(entry)
            problem = reject_reason(entry, device, count, size, len(stack))
            if problem:
                raise ImageError(f"{label}: {_shown(entry.path)}: {problem}")
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


def _shown(path: str) -> str:
    """A path in a message: a server may have made it as long as it likes, so that nobody sees the rest."""
    return repr(path or ".") if len(path) <= LONGEST_SHOWN else f"{path[:LONGEST_SHOWN]!r}…"


def _size(entry: Entry) -> int:
    """The bytes of an entry, on the disk or with its holes: these are read, too."""
    blocks = entry.status.st_blocks * 512
    return max(blocks, entry.status.st_size) if entry.kind == stat.S_IFREG else blocks


def _descend(entry: Entry, label: str) -> tuple[int, str, list[str]]:
    """(descriptor, path, names in reverse order) of a directory."""
    folder = os.open(entry.name, FOLDER, dir_fd=entry.folder)
    if os.fstat(folder).st_ino != entry.status.st_ino:
        os.close(folder)
        raise ImageError(
            f"{label}: {entry.path!r}: changed while it was being read",
            hint="try again when nothing writes to it",
        )
    return folder, entry.path, sorted(os.listdir(folder), key=os.fsencode, reverse=True)


def image_entries(
    top: int, label: str, reject_reason: RejectReason | None = None, left_out: dict[str, str] | None = None
) -> Iterator[Entry]:
    """`walk` without devices, FIFOs and sockets, which images do not keep.

    Adds those to `left_out`, {path: what it is}, except below dev/: servers have a /dev of their own.
    """
    for entry in walk(top, label, reject_reason):
        if entry.kind not in KINDS:
            yield entry
        elif left_out is not None and not entry.path.startswith("dev/"):
            left_out[entry.path] = KINDS[entry.kind]


def left_out_note(
    found: Sequence[Sequence[str]], count: int, why: str = "images keep no devices, FIFOs and sockets"
) -> str:
    """A message about `count` special files, "" for none; `found` are some of them: (path, what it is)."""
    if not count:
        return ""
    named = [f"{path!r} ({what})" for path, what in found]
    more = count - len(named)
    if more:
        named.append(f"{more} more")
    *first, last = named
    files = f"{', '.join(first)} and {last}" if first else last
    return f"left out, because {why}: {files}"


def image_reject_reason(most: Limits) -> RejectReason:
    """A function that returns why an entry is not allowed in an image, which may have `most`."""

    def reject_reason(entry: Entry, device: int, count: int, size: int, depth: int) -> str:
        if entry.kind in KINDS:
            return over_limit(most, entry, device, count, size, depth)
        if entry.name.startswith(WHITEOUT):
            return "is a whiteout, which only a layer on top of another may contain"
        return foreign_ids(entry) or over_limit(most, entry, device, count, size, depth)

    return reject_reason


def layer_reject_reason(entry: Entry, device: int, count: int, size: int, depth: int) -> str:
    """Why an entry is not allowed in a layer; "" if it is.

    Whiteouts of overlay are: character devices 0:0 that hide a name in the layers below. Limits of size are
    not checked again, since they were when the layer was made.
    """
    whiteout = entry.kind == stat.S_IFCHR and entry.status.st_rdev == 0
    if entry.kind in KINDS and not whiteout:
        return f"is {KINDS[entry.kind]}, which an image may not contain"
    return foreign_ids(entry) or over_limit(WITHOUT_LIMIT, entry, device, count, size, depth)


def foreign_ids(entry: Entry) -> str:
    """Why the owner of an entry cannot exist in a server; "" if it can."""
    uid, gid = entry.status.st_uid, entry.status.st_gid
    if uid > limits.MAX_ID or gid > limits.MAX_ID:
        return f"belongs to {uid}:{gid}; the highest id in a server is {limits.MAX_ID}"
    return ""


def ids_inside(status: os.stat_result, base: int) -> tuple[int, int]:
    """(uid, gid) of a file as a server sees them whose ids begin at `base`. FailedError if it has none."""
    uid, gid = status.st_uid - base, status.st_gid - base
    if not (0 <= uid < RANGE and 0 <= gid < RANGE):
        raise FailedError(
            f"belongs to {status.st_uid}:{status.st_gid}, none of the server's ids",
            hint=f"remove it, or give it to the server's root by `chown -R {base}:{base}` on the host",
        )
    return uid, gid


def over_limit(most: Limits, entry: Entry, device: int, count: int, size: int, depth: int) -> str:
    """Why an entry exceeds the limits or lies on another file system; "" if neither.

    A subvolume has a device number of its own, but is a directory like others.
    """
    if entry.kind == stat.S_IFDIR and entry.status.st_dev != device and _is_mounted(entry):
        return "is on another file system: something is mounted there"
    if depth > most.depth or len(os.fsencode(entry.path)) > most.path:
        return f"lies too deep: at most {most.depth} levels and {most.path} bytes are allowed"
    if count > most.entries:
        return f"is entry number {count}; at most {most.entries} are allowed"
    if size > most.bytes:
        return f"makes the image larger than {most.bytes} bytes"
    return ""


def _is_mounted(entry: Entry) -> bool:
    """Whether an entry is a mount point."""
    try:
        os.close(open_beneath(entry.folder, entry.name, os.O_PATH))
    except OSError as error:
        if error.errno == errno.EXDEV:
            return True
        raise
    return False


def fingerprint(top: int, label: str, reject_reason: RejectReason | None = None) -> tuple[str, int]:
    """(a text that any change in the tree changes, the time of the newest change in ns). Reads no files."""
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
    """The SHA-256 over names, types, modes, owners, contents, hard links and the extended attributes kept.

    Times do not count: the same files unpacked twice have the same digest.
    """
    sha = hashlib.sha256()
    linked: dict[tuple[int, int], str] = {}
    for entry in image_entries(top, label, reject_reason):
        s = entry.status
        content: object = None
        attributes: dict[str, str] = {}
        first = (
            linked.setdefault((s.st_dev, s.st_ino), entry.path)
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
    """`open_entry` for the duration of the block."""
    fd = open_entry(entry, label)
    try:
        yield fd
    finally:
        os.close(fd)


def open_entry(entry: Entry, label: str) -> int:
    """A descriptor of a regular file or directory. ImageError if another one has taken its place."""
    fd = os.open(entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=entry.folder)
    status = os.fstat(fd)
    if (status.st_ino, stat.S_IFMT(status.st_mode)) != (entry.status.st_ino, entry.kind):
        os.close(fd)
        raise ImageError(
            f"{label}: {entry.path!r}: changed while it was being read",
            hint="try again when nothing writes to it",
        )
    return fd


def kept_attributes(fd: int, entry: Entry, label: str) -> list[tuple[str, bytes]]:
    """The extended attributes that an image keeps: file capabilities, access control lists and user.*.

    Raises ImageError for those of overlay: without the lower layers, the tree would be incomplete.
    """
    kept = []
    for name in sorted(os.listxattr(fd)):
        if name.startswith((OVERLAY, "user.overlay.")):
            raise ImageError(
                f"{label}: {entry.path or '.'!r}: {name}: belongs to the upper layer of an overlay",
                hint="copy the merged directory",
            )
        if name == CAPABILITY or name.startswith("user."):
            kept.append((name, os.getxattr(fd, name)))
        elif name in acl.ATTRIBUTES:
            try:
                kept.append((name, acl.check(os.getxattr(fd, name), limits.MAX_ID)))
            except ValueError as error:
                raise ImageError(f"{label}: {entry.path or '.'!r}: {name}: {error}") from error
    return kept
