"""Making a layer from the upper directory of a server, with the ids inside the server."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from vsprov.errors import FailedError, ImageError
from vsprov.kernel.paths import GONE, open_beneath
from vsprov.plan.ranges import RANGE
from vsprov.store.trees import acl, tree
from vsprov.store.trees.limits import Limits
from vsprov.store.trees.tree import CAPABILITY, OPAQUE, OVERLAY

# linux/capability.h: a capability of a user namespace (revision 3) contains the root uid of the namespace.
# An upper directory with these contains less than what the server sees; overlayfs.rst, "redirect_dir".
REFERENCES = (f"{OVERLAY}redirect", f"{OVERLAY}metacopy")
REVISION_3, REVISION_2, REVISION_MASK = 0x03000000, 0x02000000, 0xFF000000


def to_layer(path: str, base: int, most: Limits, below: Sequence[str] = ()) -> str:
    """Change the owners of everything in `path`, which is not in use, to the ids inside the server.

    Sockets and FIFOs are removed, since an image may not contain them; what they hide in the trees `below`,
    topmost first, stays hidden. Returns a note about them. Of overlay's marks only those that a lower layer
    needs are kept: whiteouts and opaque directories. Raises ImageError for an owner outside the server's ids,
    for more than `most`, and where the upper directory refers to files below it.
    """
    label = "upper directory"
    left_out: dict[str, str] = {}
    with tree.opened(path) as top, ExitStack() as held:
        lower = [held.enter_context(tree.opened(one)) for one in below]
        for entry in tree.walk(top, label, lambda *where: tree.over_limit(most, *where)):
            if entry.kind in (stat.S_IFSOCK, stat.S_IFIFO):
                times = os.fstat(entry.folder)
                os.unlink(entry.name, dir_fd=entry.folder)
                if not entry.path.startswith("dev/"):
                    left_out[entry.path] = tree.KINDS[entry.kind]
                if any(_has(one, entry.path) for one in lower):
                    os.mknod(entry.name, stat.S_IFCHR, 0, dir_fd=entry.folder)
                os.utime(entry.folder, ns=(times.st_atime_ns, times.st_mtime_ns))
            elif entry.kind in (stat.S_IFDIR, stat.S_IFREG):
                with tree.opened_entry(entry, label) as fd:
                    _shift(fd, base, f"{label}: {entry.path or '.'}")
            elif entry.kind == stat.S_IFCHR:  # a whiteout, which belongs to whoever mounted the overlay
                os.chown(entry.name, 0, 0, dir_fd=entry.folder, follow_symlinks=False)
            elif entry.kind == stat.S_IFLNK and not _is_shifted(entry.status, base):
                uid, gid = _inside(entry.status, base, f"{label}: {entry.path}")
                os.chown(entry.name, uid, gid, dir_fd=entry.folder, follow_symlinks=False)
    return tree.left_out_note(list(left_out.items())[: tree.LEFT_OUT_SHOWN], len(left_out))


def _has(top: int, path: str) -> bool:
    """Whether a tree has something at the path; not if that is a link's target, which hides nothing."""
    try:
        os.close(open_beneath(top, path, os.O_PATH))
    except OSError as error:
        if error.errno in GONE:
            return False
        raise
    return True


def _is_shifted(status: os.stat_result, base: int) -> bool:
    """Whether the inode was shifted before, under another name."""
    return status.st_nlink > 1 and status.st_uid < base


def _inside(status: os.stat_result, base: int, label: str) -> tuple[int, int]:
    try:
        return tree.ids_inside(status, base)
    except FailedError as error:
        raise ImageError(f"{label}: {error}", hint=error.hint) from None


def _shift(fd: int, base: int, label: str) -> None:
    """Set the owner; restore what chown(2) clears, and the times; and convert the extended attributes."""
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and _is_shifted(status, base):
        return
    later: dict[str, bytes] = {}
    for name in os.listxattr(fd):
        if name == CAPABILITY:
            later[name] = of_any_namespace(os.getxattr(fd, name))
        elif name in acl.ATTRIBUTES:
            try:
                later[name] = acl.shift(os.getxattr(fd, name), base, RANGE)
            except ValueError as error:
                raise ImageError(f"{label}: {name}: {error}") from error
        elif name in REFERENCES:
            # Made where the kernel's default is on: the content would be missing without any sign.
            raise ImageError(
                f"{label}: has {name}: it refers to a file of the layers below by another name",
                hint="turn off redirect_dir and metacopy in /sys/module/overlay/parameters; in the server, "
                "restarted since, copy what was moved or changed in this way",
            )
        elif name.startswith(OVERLAY) and not (name == OPAQUE and os.getxattr(fd, name) == b"y"):
            os.removexattr(fd, name)
    uid, gid = _inside(status, base, label)
    os.fchown(fd, uid, gid)
    os.fchmod(fd, stat.S_IMODE(status.st_mode))
    for name, value in later.items():
        os.setxattr(fd, name, value)
    os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))


def with_root(raw: bytes, moved: Callable[[int], int]) -> bytes:
    """A file capability whose user namespace has another root uid: without one, that of the host, 0."""
    magic = struct.unpack_from("<I", raw)[0]
    if magic & REVISION_MASK != REVISION_3:
        root = moved(0)
        marked = struct.pack("<I", magic & ~REVISION_MASK | REVISION_3) + raw[4:20]
        return marked + struct.pack("<I", root) if root else raw
    return raw[:20] + struct.pack("<I", moved(struct.unpack_from("<I", raw, 20)[0]))


def of_any_namespace(raw: bytes) -> bytes:
    """A file capability of whichever user namespace has the file."""
    magic = struct.unpack_from("<I", raw)[0]
    if magic & REVISION_MASK != REVISION_3:
        return raw
    return struct.pack("<I", magic & ~REVISION_MASK | REVISION_2) + raw[4:20]
