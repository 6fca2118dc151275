"""Unpacking an archive in a directory tree that is in use, or that will be moved into one."""

from __future__ import annotations

import os
import tarfile
from typing import NamedTuple

from ..headers import Member, Members
from ..refused import Refused
from ..target import Place, joined
from ..writing import CAPABILITY, Unpacking
from .packing import MOST_NAMED
from .replacing import is_mount, kept_kind

NO_LIMIT = 1 << 62
USER_OVERLAY = "user.overlay."


class Changes(NamedTuple):
    """What is changed of each member: its place, by its first component or in front of it; its owner, unless
    None; and whether it loses what gives rights: setuid, setgid and file capabilities.
    """

    into: str
    strip: bool
    owner: tuple[int, int] | None
    powerless: bool


class Copying(Unpacking):
    """The unpacking of an archive with `changes`. Directories that exist are kept as they are, and each file
    has its name only when it is complete.
    """

    sparse = True
    changes: Changes
    files = 0
    stripped: tuple[str, ...] = ()  # some of the members that have lost setuid, setgid or capabilities

    def put(self, members: Members, member: Member) -> None:
        attributes = member.attributes
        owner = (member.uid, member.gid) if self.changes.owner is None else self.changes.owner
        mode = member.mode
        if self.changes.powerless:
            mode &= ~0o6000 if member.kind != tarfile.DIRTYPE else ~0o4000
            attributes = tuple(each for each in attributes if each[0] != CAPABILITY)
            lost = (mode, attributes) != (member.mode, member.attributes)
            if lost and len(self.stripped) < MOST_NAMED:
                self.stripped += (member.name,)
        changed = member._replace(mode=mode, uid=owner[0], gid=owner[1], attributes=attributes)
        super().put(members, changed)
        self.files += changed.kind != tarfile.DIRTYPE

    def checked(self, name: str, member: Member) -> str:
        path = super().checked(name, member)
        if self.changes.strip:
            path = path.partition("/")[2]
        return "/".join(part for part in (self.changes.into.strip("/"), path) if part)

    def is_whiteout(self, name: str) -> bool:
        return False

    def leave_out(self, folder: str, name: str, what: str) -> None:
        self.left_out[joined(folder, name)] = what

    def make_folder(self, folder: str, name: str, member: Member) -> None:
        if not self.is_there(joined(folder, name)):
            place = self.tree.place(folder, make=True)
            if name in os.listdir(place.fd):
                raise Refused(f"'/{joined(folder, name)}': is not a directory")
        super().make_folder(folder, name, member)

    def make_file(self, folder: str, name: str, member: Member, members: Members) -> None:
        temporary = self.temporary()
        place = self.tree.place(folder, make=True)
        try:
            super().make_file(folder, temporary, member, members)
            self.rename(place, temporary, name)
        except BaseException:
            self.remove(place, temporary)
            raise
        if later := self.lists.later.pop(joined(place.path, temporary), None):
            self.lists.later[joined(place.path, name)] = later

    def make_symlink(self, folder: str, name: str, member: Member) -> None:
        temporary = self.temporary()
        place = self.tree.place(folder, make=True)
        try:
            super().make_symlink(folder, temporary, member)
            self.rename(place, temporary, name)
        except BaseException:
            self.remove(place, temporary)
            raise
        self.tree.by_link.clear()

    def make_link(self, folder: str, name: str, member: Member) -> None:
        temporary = self.temporary()
        place = self.tree.place(folder, make=True)
        super().make_link(folder, temporary, member)
        try:
            self.rename(place, temporary, name)
        finally:
            self.remove(place, temporary)  # of two links to one file, rename(2) removes neither
        self.tree.by_link.clear()  # it may be one to a symbolic link

    def kept(self, member: Member) -> dict[str, bytes]:
        """Also the attributes of an overlay that somebody has mounted with `userxattr`, such as podman in the
        server or on the host: overlays of servers take no notice of them.
        """
        overlay = [one for one in member.attributes if one[0].startswith(USER_OVERLAY)]
        others = tuple(one for one in member.attributes if one not in overlay)
        return super().kept(member._replace(attributes=others)) | dict(overlay)

    def temporary(self) -> str:
        return f".vsprov-{os.getpid()}"

    def remove(self, place: Place, name: str) -> None:
        if name in place.made:
            place.made.discard(name)
            try:
                os.unlink(name, dir_fd=place.fd)
            except FileNotFoundError:
                return

    def rename(self, place: Place, temporary: str, name: str) -> None:
        """Give what is complete its name; what had this name before is replaced, unless it is a directory."""
        try:
            status = os.stat(name, dir_fd=place.fd, follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            self.refuse_kept(place, name, status)
        os.rename(temporary, name, src_dir_fd=place.fd, dst_dir_fd=place.fd)

    def refuse_kept(self, place: Place, name: str, status: os.stat_result) -> None:
        """Refuse to replace what is neither a file nor a link, and a mount: rename(2) would unmount it, as
        it is in the mount namespace of the server, not in that of this process.
        """
        path = f"/{joined(place.path, name)}"
        if what := kept_kind(status.st_mode):
            raise Refused(f"{path!r}: is {what}")
        if is_mount(place.fd, name):
            raise Refused(
                f"{path!r}: is a mount", "write to it in the server: vsprov exec SERVER -- tee PATH"
            )
