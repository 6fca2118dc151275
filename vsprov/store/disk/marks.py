"""Marks on what vsprov creates: extended attributes `trusted.vsprov.*` of directories, files and cgroups.

Reading and writing `trusted.*` requires CAP_SYS_ADMIN in the initial user namespace (xattr(7)), so a server
cannot forge them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from msgspec import Struct

from vsprov.errors import FailedError, HostError, NotPermittedError, reason

PREFIX = "trusted.vsprov."
OWNER = "owner"


class Owner(Struct, frozen=True, order=True):
    """The owner of an object: an instance of vsprov and a set of manifests."""

    instance: str
    set: str

    def __str__(self) -> str:
        return f"{self.instance}/{self.set}"

    @classmethod
    def parse(cls, text: str) -> Owner:
        """The owner that is written as this text."""
        instance, _, name = text.partition("/")
        return cls(instance, name)


def read_mark(path: str | int, name: str) -> str | None:
    """The text of a mark; None if `path` does not have it.

    Symbolic links are not followed. Raises OSError if `path` does not exist.
    """
    try:
        return os.getxattr(path, PREFIX + name, follow_symlinks=isinstance(path, int)).decode(
            errors="replace"
        )
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def find_mark(path: str, name: str) -> str | None:
    """The text of a mark; None if `path` does not have it or does not exist (any more)."""
    try:
        return read_mark(path, name)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):  # ENODEV: a control group that is being removed
            return None
        raise


def role_of(group: str) -> str:
    """The role of a control group in its owner mark, such as "server"; "" without a mark or such a group."""
    return (find_mark(group, OWNER) or "").partition(" ")[0]


def write_mark(path: str | int, name: str, text: str, label: str = "") -> None:
    """Set a mark. `label` stands for `path` in errors if that is a descriptor."""
    try:
        os.setxattr(path, PREFIX + name, text.encode(), follow_symlinks=isinstance(path, int))
    except OSError as error:
        raise _refused(label or str(path), name, error) from error


def remove_mark(path: str | int, name: str) -> None:
    """Remove a mark, if it exists."""
    try:
        os.removexattr(path, PREFIX + name, follow_symlinks=isinstance(path, int))
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise _refused(str(path), name, error) from error


def read_owner(path: str | int) -> Owner | None:
    """The owner of `path`; None without a valid mark. Raises OSError if `path` does not exist."""
    text = read_mark(path, OWNER)
    owner = Owner.parse(text or "")
    return owner if owner.instance and owner.set else None


def read_owners(path: str | int) -> tuple[Owner, ...]:
    """The owners of what several sets of an instance share; () without a valid mark.

    One mark contains all sets, separated by commas, so that they change together.
    """
    owner = read_owner(path)
    return tuple(Owner(owner.instance, name) for name in owner.set.split(",")) if owner else ()


def of_owners(owners: Sequence[Owner]) -> Owner:
    """The owner whose mark `read_owners` reads as these, which are of one instance."""
    return Owner(owners[0].instance, ",".join(sorted({owner.set for owner in owners})))


def write_owner(path: str | int, owner: Owner, label: str = "") -> None:
    """Set the owner mark; see `write_mark`."""
    write_mark(path, OWNER, str(owner), label)


def _refused(path: str, name: str, error: OSError) -> FailedError | HostError | NotPermittedError:
    message = f"{path}: mark {PREFIX}{name}: {reason(error)}"
    if error.errno == errno.EOPNOTSUPP:
        return HostError(
            message,
            hint="use a file system with trusted extended attributes; overlay needs them too",
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        return NotPermittedError(message, hint="run as root: trusted extended attributes need CAP_SYS_ADMIN")
    return FailedError(message)
