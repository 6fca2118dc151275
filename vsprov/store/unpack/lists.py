"""The access control lists of the members of an archive."""

from __future__ import annotations

import os
import stat
import tarfile
from errno import EOPNOTSUPP

from vsprov.store.trees import acl

from .headers import NAMES, Member
from .refused import NeedsBelow, Refused
from .target import Tree

MAX_ID = 65535
MAX_USERS = 1 << 20  # bytes of /etc/passwd and /etc/group


class Lists:
    """The access control lists of the members.

    GNU tar writes names of users and groups, and no ids. They are looked up when all is unpacked, in the
    /etc/passwd and /etc/group of the image.
    """

    def __init__(self, tree: Tree, *, alone: bool) -> None:
        self.tree = tree
        self.alone = alone
        self.later: dict[str, list[tuple[str, str]]] = {}  # {path: (attribute, text)}
        self.ids: dict[str, dict[str, int]] = {}

    def set(self, fd: int, path: str, member: Member) -> bool:
        """Set the lists of a new file or directory, after its mode, as they determine the rights of the mode.

        Returns whether what is made in a directory inherits a list.
        """
        self.later.pop(path, None)
        inherits = False
        for name, value in member.attributes:
            attribute = acl.TEXTS.get(name, name)
            if attribute not in acl.ATTRIBUTES or (
                attribute == acl.DEFAULT and member.kind != tarfile.DIRTYPE
            ):
                continue
            try:
                if name in acl.TEXTS:
                    value = acl.from_text(value.decode(*NAMES), _unknown)
            except LookupError:
                self.later.setdefault(path, []).append((attribute, value.decode(*NAMES)))
                continue
            except ValueError as error:
                raise Refused(f"{member.name!r}: {name}: {error}") from error
            self._set(fd, repr(member.name), attribute, value)
            inherits = inherits or attribute == acl.DEFAULT
        return inherits

    def _set(self, fd: int, label: str, attribute: str, value: bytes) -> None:
        try:
            os.setxattr(fd, attribute, acl.check(value, MAX_ID))
        except ValueError as error:
            raise Refused(f"{label}: {attribute}: {error}") from error
        except OSError as error:
            hint = "the file system of the image store must support access control lists"
            raise Refused(
                f"{label}: set {attribute}: {error.strerror}", hint if error.errno == EOPNOTSUPP else ""
            ) from error

    def finish(self) -> None:
        """Set the lists with names, where their files still exist."""
        for path, lists in self.later.items():
            folder, _, name = path.rpartition("/")
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                fd = os.open(name or ".", flags, dir_fd=self.tree.place(folder).fd)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                for attribute, text in lists:
                    self._set(fd, repr(path), attribute, acl.from_text(text, self._find))
            except LookupError as error:
                raise Refused(
                    f"{path!r}: access control list: {error.args[0]}",
                    "add it there, or use bsdtar --format=pax, which also writes ids",
                ) from error
            finally:
                os.close(fd)
            self.tree.tidy()

    def _find(self, kind: str, name: str) -> int:
        file = "passwd" if kind == "user" else "group"
        if file not in self.ids:
            self.ids[file] = self._read(file)
        if name not in self.ids[file]:
            raise LookupError(f"{kind} {name!r} is not in /etc/{file} of the image")
        return self.ids[file][name]

    def _read(self, file: str) -> dict[str, int]:
        """{name: id} of the image's /etc/passwd or /etc/group, {} if it is missing, no file or too large."""
        try:
            folder = self.tree.place("etc").fd
            fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except OSError as error:
            if self.alone:
                raise NeedsBelow(f"/etc/{file} is not in it") from error
            return {}
        with open(fd, "rb") as opened:
            regular = stat.S_ISREG(os.fstat(fd).st_mode)
            data = opened.read(MAX_USERS + 1) if regular else b""
        if len(data) > MAX_USERS:
            return {}
        lines = (line.split(":") for line in data.decode(*NAMES).split("\n"))
        return {
            f[0]: int(f[2]) for f in reversed([*lines]) if len(f) > 2 and f[2].isascii() and f[2].isdigit()
        }


def _unknown(kind: str, name: str) -> int:
    raise LookupError(name)
