"""Making files, directories and links from the members of the archive."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

from vsprov.store.trees import acl

from .headers import Member, Members
from .lists import MAX_ID, Lists
from .refused import NeedsBelow, Refused
from .stream import PIECE, Stream
from .target import Place, Tree, joined

CAPABILITY = "security.capability"
WHITEOUT = ".wh."  # this and the next: image-spec, layer.md
OPAQUE = ".wh..wh..opq"
NOT_FILES = ".wh..wh."  # internal files of AUFS, which some archives still contain
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
ROOT = (0, 0)

# Left out: servers have their own /dev, and whoever needs a FIFO or a socket makes it.
SPECIAL = {
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a FIFO",
}


class Limits(NamedTuple):
    """Like vsprov.store.trees.limits.Limits."""

    entries: int
    bytes: int
    depth: int
    path: int


class Unpacking:
    """The unpacking of one archive into the tree. With `sparse`, zeros become holes in every file."""

    sparse: bool = False

    def __init__(
        self,
        tree: Tree,
        stream: Stream,
        limits: Limits,
        *,
        whole: bool,
        merge: bool,
        below: Sequence[str] | None,
    ) -> None:
        self.tree = tree
        self.stream = stream
        self.limits = limits
        self.whole = whole
        self.merge = merge
        self.below = below
        self.entries = 0
        self.bytes = 0
        self.lists = Lists(tree, alone=below is None)
        self.left_out: dict[str, str] = {}  # {path: what it is} of special files

    def run(self, members: Members) -> None:
        while (member := members.next()) is not None:
            try:
                self.put(members, member)
            except OSError as error:
                raise OSError(error.errno, error.strerror, repr(member.name)) from error
            self.tree.tidy()
        self.lists.finish()
        self.tree.finish()

    def put(self, members: Members, member: Member) -> None:
        """Make one member of the archive."""
        self.count(member)
        path = self.checked(member.name, member)
        folder, _, name = path.rpartition("/")
        self.left_out.pop(path, None)  # it is replaced
        if self.is_whiteout(name):
            self.white_out(folder, name, member)
        elif member.kind in SPECIAL:
            self.leave_out(folder, name, SPECIAL[member.kind])
        elif not (0 <= member.uid <= MAX_ID and 0 <= member.gid <= MAX_ID):
            raise Refused(
                f"{member.name!r}: belongs to {member.uid}:{member.gid}; "
                f"the highest id in a server is {MAX_ID}"
            )
        elif member.kind == tarfile.DIRTYPE:
            self.make_folder(folder, name, member)
        elif not path:
            raise Refused(f"{member.name!r}: the root of the archive is not a directory")
        elif member.kind == tarfile.LNKTYPE:
            self.make_link(folder, name, member)
        elif member.kind == tarfile.SYMTYPE:
            self.make_symlink(folder, name, member)
        else:
            self.make_file(folder, name, member, members)

    def is_whiteout(self, name: str) -> bool:
        """Whether a member of this name stands for what it hides."""
        return name.startswith(WHITEOUT)

    def count(self, member: Member) -> None:
        self.entries += 1
        if member.size < 0:
            raise Refused(f"{member.name!r}: has a negative size")
        if self.entries > self.limits.entries:
            raise Refused(f"it contains more than {self.limits.entries} files")
        if member.kind == tarfile.REGTYPE:
            self.bytes += member.size
            if self.bytes > self.limits.bytes:
                raise Refused(f"{member.name!r}: makes the image larger than {self.limits.bytes} bytes")

    def checked(self, name: str, member: Member) -> str:
        """A name as a path below the root, "" for the root itself.

        Names that lead out of the root could do no harm, but are attacks, so they are refused. Absolute names
        are common in layers, unlike in archives of root file systems.
        """
        parts = [part for part in name.split("/") if part and part != "."]
        if (self.whole and parts and name.startswith("/")) or ".." in parts or "\0" in name:
            raise Refused(f"{member.name!r}: {name!r} leads out of the archive")
        unhidden = parts if self.whole else parts[:-1]
        if ".wh." in name and any(map(self.is_whiteout, unhidden)):
            raise Refused(f"{member.name!r}: is a whiteout, which only a layer on top of another may contain")
        path = "/".join(parts)
        if len(parts) > self.limits.depth or len(os.fsencode(path)) > self.limits.path:
            raise Refused(
                f"{f'{member.name[:60]!r}…'}: lies too deep: at most {self.limits.depth} levels and"
                f" {self.limits.path} bytes are allowed"
            )
        return path

    def white_out(self, folder: str, name: str, member: Member) -> None:
        """Hide a name of the layers below, or all of a directory."""
        if self.below is None:
            raise NeedsBelow(f"{member.name!r} is a whiteout")
        hidden = name.removeprefix(WHITEOUT)
        if hidden in ("", ".", ".."):
            raise Refused(f"{member.name!r}: is a whiteout without a name")
        if not self.below or (name.startswith(NOT_FILES) and name != OPAQUE):
            return
        try:
            place = self.tree.place(folder)
        except (FileNotFoundError, NotADirectoryError):
            return  # there is nothing to hide
        if name == OPAQUE:
            self.tree.clear_folder(place)
        else:
            self.tree.clear(place, hidden)

    def leave_out(self, folder: str, name: str, what: str) -> None:
        """Leave out a special file, and remove what it replaces, which would otherwise be seen again.

        Below dev/ nothing of an image is ever seen, so nothing is removed.
        """
        path = joined(folder, name)
        self.left_out[path] = what
        if path.startswith("dev/"):
            return
        if self.below is None:
            raise NeedsBelow(f"{path!r} is {what}")
        try:
            place = self.tree.place(folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        place.made.discard(name)
        if self.tree.remove(place, name):
            self.tree.times.setdefault(place.path, place.modified)

    def make_folder(self, folder: str, name: str, member: Member) -> None:
        if self.merge and self.is_there(f"{folder}/{name}"):
            return
        above = self.tree.place(folder, make=True)
        place = self.tree.make_folder(above, name) if name else above
        os.fchown(place.fd, member.uid, member.gid)
        place.gid = member.gid
        kept = self.kept(member)
        for attribute in os.listxattr(place.fd):  # if the directory existed before
            if attribute in acl.ATTRIBUTES or (attribute.startswith("user.") and attribute not in kept):
                os.removexattr(place.fd, attribute)
        for attribute, value in kept.items():
            os.setxattr(place.fd, attribute, value)
        os.fchmod(place.fd, member.mode & 0o7777)
        place.inherits = self.lists.set(place.fd, place.path, member)
        self.tree.times[place.path] = member.mtime

    def is_there(self, path: str) -> bool:
        """Whether the path is a directory, or a symbolic link to one."""
        try:
            self.tree.place(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def make_room(self, place: Place, name: str, member: Member) -> None:
        """Remove what a file or a symbolic link replaces."""
        if self.merge and stat.S_ISDIR(os.stat(name, dir_fd=place.fd, follow_symlinks=False).st_mode):
            raise Refused(
                f"'/{member.name}': is a directory in the image", "name a file in it, or end the target in /"
            )
        self.tree.remove(place, name)

    def make_link(self, folder: str, name: str, member: Member) -> None:
        """A hard link to a file, which already has its owner and mode."""
        target_path = self.checked(member.target, member)
        target_folder, _, target = target_path.rpartition("/")
        if target_path in self.left_out:
            self.leave_out(folder, name, self.left_out[target_path])
            return
        source = self.tree.place(target_folder)
        place = self.tree.place(folder, make=True)
        try:
            os.stat(target, dir_fd=source.fd, follow_symlinks=False)
        except FileNotFoundError:
            if self.below is None:
                raise NeedsBelow(f"{member.target!r}, which {name!r} is a link to, is not in it") from None
            raise
        if (source.path, target) == (place.path, name):
            return  # tar(1) writes a link to itself for a file given twice
        self.tree.change(place, name)
        try:
            os.link(target, name, src_dir_fd=source.fd, dst_dir_fd=place.fd, follow_symlinks=False)
        except FileExistsError:
            self.tree.remove(place, name)
            os.link(target, name, src_dir_fd=source.fd, dst_dir_fd=place.fd, follow_symlinks=False)

    def make_symlink(self, folder: str, name: str, member: Member) -> None:
        place = self.tree.place(folder, make=True)
        self.tree.change(place, name)
        try:
            os.symlink(member.target, name, dir_fd=place.fd)
        except FileExistsError:
            self.make_room(place, name, member)
            os.symlink(member.target, name, dir_fd=place.fd)
        self.kept(member)
        if place.gid or (member.uid, member.gid) != ROOT:
            os.chown(name, member.uid, member.gid, dir_fd=place.fd, follow_symlinks=False)
        os.utime(name, ns=(member.mtime, member.mtime), dir_fd=place.fd, follow_symlinks=False)

    def make_file(self, folder: str, name: str, member: Member, members: Members) -> None:
        """A regular file; owner before attributes and mode, as chown(2) clears capabilities and setuid."""
        place = self.tree.place(folder, make=True)
        self.tree.change(place, name)
        try:
            fd = os.open(name, NEW, 0o600, dir_fd=place.fd)
        except FileExistsError:
            self.make_room(place, name, member)
            fd = os.open(name, NEW, 0o600, dir_fd=place.fd)
        try:
            self.write(fd, member, members)
            if place.inherits:
                acl.remove(fd)
            if place.gid or (member.uid, member.gid) != ROOT:
                os.fchown(fd, member.uid, member.gid)
            if member.attributes:
                for attribute, value in self.kept(member).items():
                    os.setxattr(fd, attribute, value)
            os.fchmod(fd, member.mode & 0o7777)
            self.lists.set(fd, joined(place.path, name), member)
            os.utime(fd, ns=(member.mtime, member.mtime))
        finally:
            os.close(fd)

    def write(self, fd: int, member: Member, members: Members) -> None:
        """Write the content, with the holes of a sparse file."""
        sparse = self.sparse or member.sparse
        end = 0
        for at, size, pieces in self.parts(member, members):
            if not end <= at <= at + size <= member.size:
                raise Refused(f"{member.name!r}: has an invalid map of its holes")
            end = at + size
            for data in pieces:
                here, at = at, at + len(data)
                if sparse and not data[0] and data.tobytes().count(0) == len(data):
                    continue
                while (done := os.pwrite(fd, data, here)) < len(data):
                    data, here = data[done:], here + done
            if at < end:
                raise Refused(f"{member.name!r}: the archive is truncated in the middle of this file")
        if sparse:
            os.ftruncate(fd, member.size)

    def parts(self, member: Member, members: Members) -> Iterator[tuple[int, int, Iterator[memoryview]]]:
        """(offset, size, content) of each part of a file between its holes."""
        info = member.sparse
        if info is None:
            yield 0, member.size, self.stream.views(member.size)
            return
        content: IO[bytes] = members.tar.fileobject(members.tar, info)
        found: Any = info.sparse  # of pairs, whatever typeshed says
        for at, size in found:
            content.seek(at)
            yield at, size, _pieces(content, size)

    def kept(self, member: Member) -> dict[str, bytes]:
        """The extended attributes that an image keeps; only files and directories have user.*, xattr(7)."""
        for name, _ in member.attributes:
            if name.startswith(("trusted.overlay.", "user.overlay.")):
                raise Refused(
                    f"{member.name!r}: {name}: belongs to the upper layer of an overlay",
                    "archive the merged directory",
                )
        return {
            name: value for name, value in member.attributes if name == CAPABILITY or name.startswith("user.")
        }


def _pieces(content: IO[bytes], size: int) -> Iterator[memoryview]:
    while size and (data := content.read(min(PIECE, size))):
        size -= len(data)
        yield memoryview(data)
