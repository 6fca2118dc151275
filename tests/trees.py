"""What is in a directory, so that two can be compared."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple


class Found(NamedTuple):
    """One name: all that matters of it to those who use the tree."""

    mode: int
    owner: tuple[int, int]
    modified: int  # ns
    attributes: dict[str, bytes]
    content: bytes | str | None  # of a file, of a symbolic link
    same_as: str  # the first name of the same file, itself for most
    device: int


def listing(top: Path) -> dict[str, Found]:
    """Every name below `top`, and "." for that itself."""
    found = {}
    first: dict[tuple[int, int], str] = {}
    names = ["."]
    for where, folders, files in os.walk(top):
        names += [os.path.relpath(os.path.join(where, name), top) for name in (*folders, *files)]
    for name in sorted(names):
        path = top / name
        status = os.lstat(path)
        content: bytes | str | None = None
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        found[name] = Found(
            mode=status.st_mode,
            owner=(status.st_uid, status.st_gid),
            modified=status.st_mtime_ns,
            attributes={
                each: os.getxattr(path, each, follow_symlinks=False)
                for each in os.listxattr(path, follow_symlinks=False)
                if not each.startswith(("trusted.", "security.selinux"))
            },
            content=content,
            same_as=name
            if stat.S_ISDIR(status.st_mode)
            else first.setdefault((status.st_dev, status.st_ino), name),
            device=status.st_rdev,
        )
    return found
