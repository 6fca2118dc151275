"""Making the files of an exported server. Everything that it cannot have made itself is refused."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from typing import Any

from ..headers import Member, Members
from ..lists import MAX_ID
from ..refused import Refused
from ..writing import CAPABILITY, SPECIAL, Unpacking
from .layout import HEADER, LARGEST, MANIFEST, OPAQUE, SUMS, sums_text
from .summed import SummedStream

MOST_OPAQUE = 100_000  # directories


class Exported(Unpacking):
    """The unpacking of an archive whose parts, with the number of their files and bytes, are `announced`.

    `opaque` are the paths of opaque directories: this process may not set the attribute.
    """

    sparse = True
    stream: SummedStream

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.names = [HEADER, MANIFEST, SUMS]
        self.at = -1  # among the parts
        self.sums: list[tuple[str, str]] = []
        self.opaque: list[str] = []

    def documents(self, members: Members) -> Iterator[tuple[str, bytes]]:
        """Unpack everything; yields the header and the manifest as soon as they are read."""
        while True:
            member, part = self._next(members)
            if part in (HEADER, MANIFEST, SUMS):
                text = self._small(member)
                if part == SUMS:
                    break
                yield part, text
                continue
            try:
                self.put(members, member)
            except OSError as error:
                raise OSError(error.errno, error.strerror, repr(member.name)) from error
            self.tree.tidy()
        self._check(text)
        if members.next() is not None:
            raise Refused(f"it continues after {SUMS}")
        self.lists.finish()
        self.tree.finish()

    def announce(self, parts: list[str]) -> None:
        """Set the parts that follow the manifest."""
        self.names[2:2] = parts

    def _next(self, members: Members) -> tuple[Member, str]:
        """The next member, and the part it belongs to."""
        self.stream.hold(members.end)
        member = members.next()
        if member is None:
            raise Refused(f"it is incomplete: {SUMS} is missing at its end")
        part = self.names[self.at] if self.at >= 0 else ""
        anew = not member.name.startswith(f"{part}/")
        digest = self.stream.release(anew=anew)
        if anew:
            if part:
                self.sums.append((part, digest))
            self.at += 1
            if self.at == len(self.names) or member.name != self.names[self.at]:
                expected = self.names[self.at] if self.at < len(self.names) else "its end"
                raise Refused(f"{member.name[:200]!r}: in the place of {expected}")
        return member, self.names[self.at]

    def _small(self, member: Member) -> bytes:
        if member.kind != tarfile.REGTYPE or member.sparse or not 0 <= member.size <= LARGEST:
            raise Refused(f"{member.name!r}: is not a file of at most {LARGEST} bytes")
        return self.stream.read(member.size)

    def _check(self, text: bytes) -> None:
        if text == sums_text(self.sums):
            return
        lines = text.decode(errors="replace").splitlines()
        wrong = [part for part, digest in self.sums if f"{digest}  {part}" not in lines]
        raise Refused(f"it is damaged: wrong checksum of {', '.join(wrong) or SUMS}")

    def put(self, members: Members, member: Member) -> None:
        path = self.checked(member.name, member)
        self._refuse_behind_link(path, member)
        found = [value for name, value in member.attributes if name == OPAQUE]
        if found:
            member = member._replace(attributes=tuple(one for one in member.attributes if one[0] != OPAQUE))
            if found != [b"y"] or member.kind != tarfile.DIRTYPE or len(self.opaque) == MOST_OPAQUE:
                raise Refused(f"{member.name!r}: {OPAQUE}: is not allowed here")
            self.opaque.append(path)
        if member.kind in SPECIAL:
            self.count(member)
            self.make_special(path, member)
        else:
            super().put(members, member)

    def _refuse_behind_link(self, path: str, member: Member) -> None:
        """Each directory is in the archive before what is in it, and is no link to elsewhere."""
        folder = path.rpartition("/")[0]
        if self.at >= 0 and path != self.names[self.at] and self.tree.place(folder).path != folder:
            raise Refused(f"{member.name!r}: lies behind a symbolic link")

    def count(self, member: Member) -> None:
        self.entries += 1
        if self.entries > self.limits.entries:
            raise Refused(f"it contains more than the {self.limits.entries} files that it announces")
        if member.kind == tarfile.REGTYPE:
            self.bytes += member.size
        if member.size < 0 or self.bytes > self.limits.bytes:
            raise Refused(f"{member.name!r}: exceeds the {self.limits.bytes} bytes that it announces")

    def is_whiteout(self, name: str) -> bool:
        return False

    def make_special(self, path: str, member: Member) -> None:
        """A whiteout or a FIFO."""
        folder, _, name = path.rpartition("/")
        whiteout = member.kind == tarfile.CHRTYPE and member.device == (0, 0)
        if not whiteout and member.kind != tarfile.FIFOTYPE:
            raise Refused(f"{member.name!r}: is {SPECIAL[member.kind]}, which no server can create")
        if not (0 <= member.uid <= MAX_ID and 0 <= member.gid <= MAX_ID):
            raise Refused(f"{member.name!r}: belongs to {member.uid}:{member.gid}, none of a server's ids")
        place = self.tree.place(folder)
        self.tree.change(place, name)
        os.mknod(name, (stat.S_IFCHR if whiteout else stat.S_IFIFO) | 0o600, 0, dir_fd=place.fd)
        os.chown(name, member.uid, member.gid, dir_fd=place.fd, follow_symlinks=False)
        os.chmod(name, member.mode & 0o7777, dir_fd=place.fd)
        os.utime(name, ns=(member.mtime, member.mtime), dir_fd=place.fd, follow_symlinks=False)

    def make_link(self, folder: str, name: str, member: Member) -> None:
        """Between files of one part only: others would change together with it."""
        target = self.checked(member.target, member)
        if not target.startswith(f"{self.names[self.at]}/"):
            raise Refused(f"{member.name!r}: is a link to {member.target!r}, which is in another part")
        self._refuse_behind_link(target, member)
        super().make_link(folder, name, member)

    def kept(self, member: Member) -> dict[str, bytes]:
        """The attributes that the server's own root can set, also those of an overlay that it has mounted."""
        for name, _ in member.attributes:
            if name.startswith("trusted."):
                raise Refused(f"{member.name!r}: {name}: an attribute that no server can set")
        return {
            name: value for name, value in member.attributes if name == CAPABILITY or name.startswith("user.")
        }
