"""What to do if a file system is full, or a disk quota is exhausted."""

from __future__ import annotations

import errno
import os

from vsprov.errors import EXHAUSTED
from vsprov.kernel import proc

FULL = (errno.ENOSPC, errno.EDQUOT)


def hint(number: int, place: str | int) -> str:
    """The hint for an error number of FULL. It names the file system of `place`, a path or an open file.

    The path need not exist. A file system that is mounted for one operation only has no name.
    """
    try:
        place = _existing(place) if isinstance(place, str) else place
        mount, left = proc.mount_of(place), os.statvfs(place)
    except OSError:
        return EXHAUSTED[number]
    if mount is None:
        return EXHAUSTED[number]
    where = f"{proc.unescaped(mount.point)} ({mount.kind})"
    if number == errno.EDQUOT:
        return f"the disk quota on {where} is exhausted"
    if left.f_files and not left.f_favail:
        return f"remove some files on {where}: it has no inode left"
    return f"free some space on {where}"


def _existing(path: str) -> str:
    """The path, or the directory above it that exists."""
    path = os.path.abspath(path)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path
