"""Marks on what vsprov makes: extended attributes `trusted.vsprov.*` of directories, files and cgroups.

Only a process with CAP_SYS_ADMIN in the first user namespace sees or writes `trusted.*` (xattr(7)), so no
server can forge one.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from vsprov.errors import FailedError, HostError, NotPermittedError, reason

PREFIX = "trusted.vsprov."
OWNER = "owner"


@dataclass(frozen=True, slots=True, order=True)
class Owner:
    """Who made an object: an instance of vsprov, and which set of manifests."""

    instance: str
    set: str

    def __str__(self) -> str:
        return f"{self.instance}/{self.set}"


def read_mark(path: str | int, name: str) -> str | None:
    """The text of a mark; None when `path` bears none.

    A symbolic link is not followed. Raises OSError when `path` is gone.
    """
    try:
        return os.getxattr(path, PREFIX + name, follow_symlinks=isinstance(path, int)).decode(
            errors="replace"
        )
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def write_mark(path: str | int, name: str, text: str, label: str = "") -> None:
    """Set a mark; `label` names `path` in errors when that is a descriptor."""
    try:
        os.setxattr(path, PREFIX + name, text.encode(), follow_symlinks=isinstance(path, int))
    except OSError as error:
        raise _refused(label or str(path), name, error) from error


def remove_mark(path: str | int, name: str) -> None:
    """Take a mark away; nothing happens when there is none."""
    try:
        os.removexattr(path, PREFIX + name, follow_symlinks=isinstance(path, int))
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise _refused(str(path), name, error) from error


def read_owner(path: str | int) -> Owner | None:
    """Who made `path`; None if not vsprov, or if the mark makes no sense. OSError when `path` is gone."""
    text = read_mark(path, OWNER)
    if text is None:
        return None
    instance, slash, rest = text.partition("/")
    return Owner(instance, rest) if instance and slash and rest else None


def write_owner(path: str | int, owner: Owner, label: str = "") -> None:
    write_mark(path, OWNER, str(owner), label)


def _refused(path: str, name: str, error: OSError) -> FailedError | HostError | NotPermittedError:
    message = f"{path}: mark {PREFIX}{name}: {reason(error)}"
    if error.errno == errno.EOPNOTSUPP:
        return HostError(
            message,
            hint="put it on a file system with trusted extended attributes; overlay needs them as well",
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        return NotPermittedError(message, hint="run as root: trusted extended attributes need CAP_SYS_ADMIN")
    return FailedError(message)
