"""The version of the systemd that a guest is about to boot, by its program in the guest's root."""

from __future__ import annotations

import os

from ..users import open_file

LAST_MIXED = 257  # the last version that accepts cgroup v1 hierarchies beside cgroup2
_LIBRARY = b"libsystemd-shared-"  # linked by the program; its name has the version
_READ = 1 << 20  # bytes; the names of libraries are near the start


def accepts_v1(program: str, root: int) -> bool:
    """Whether the program, found below the directory fd `root`, is a systemd that accepts v1 hierarchies.

    One that nothing is known of does not: all versions accept cgroup2 alone.
    """
    try:
        fd = open_file(program, root)
    except OSError:
        return False
    try:
        version = _version(os.pread(fd, _READ, 0))
    finally:
        os.close(fd)
    return version is not None and version <= LAST_MIXED


def _version(content: bytes) -> int | None:
    _, found, rest = content.partition(_LIBRARY)
    digits = 0
    while rest[digits : digits + 1].isdigit():
        digits += 1
    return int(rest[:digits]) if found and 0 < digits < 5 else None
