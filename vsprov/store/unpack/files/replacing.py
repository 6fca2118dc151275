"""What a copy does not take the place of."""

from __future__ import annotations

import ctypes
import os
import stat
import struct

from ..confine import check, libc
from .packing import LEFT_OUT

AT_SYMLINK_NOFOLLOW, AT_NO_AUTOMOUNT = 0x100, 0x800
STATX_ATTR_MOUNT_ROOT = 0x2000  # Linux 5.8, linux/stat.h
STATX_SIZE, ATTRIBUTES_AT = 256, 8  # size of struct statx, offset of stx_attributes


def kept_kind(mode: int) -> str:
    """What has this mode, unless it is a file or a symbolic link: a copy replaces only these.

    >>> kept_kind(stat.S_IFCHR | 0o666), kept_kind(stat.S_IFREG | 0o644)
    ('a character device', '')
    """
    kind = stat.S_IFMT(mode)
    return "a directory" if kind == stat.S_IFDIR else LEFT_OUT.get(kind, "")


def is_mount(folder: int, name: str) -> bool:
    """Whether something is mounted at a name in the directory open as `folder`; statx(2)."""
    found = ctypes.create_string_buffer(STATX_SIZE)
    flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT
    check(libc.statx(folder, os.fsencode(name), flags, 0, found), "statx")
    attributes: int = struct.unpack_from("Q", found, ATTRIBUTES_AT)[0]
    return bool(attributes & STATX_ATTR_MOUNT_ROOT)
