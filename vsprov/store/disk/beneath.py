"""Going to a path inside a tree, and nowhere else."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from ctypes import c_char_p, c_int, c_long, c_size_t

_OPENAT2 = 437  # the same on every architecture
_RESOLVE_NO_XDEV, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 1, 4, 8

# A path that led somewhere a moment ago, or by a listing, and does not any more.
GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE}

_openat2 = ctypes.CDLL(None, use_errno=True).syscall
_openat2.argtypes = (c_long, c_int, c_char_p, c_char_p, c_size_t)
_openat2.restype = c_long


def open_beneath(top: int, path: str, flags: int) -> int:
    """A CLOEXEC descriptor of `path` below the folder open as `top`; "" is that folder itself. openat2(2).

    Raises OSError where a symbolic link or a mount stands anywhere on the way, or `path` leads out of it.
    """
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    how = struct.pack("3Q", flags, 0, _RESOLVE_NO_XDEV | _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH)
    name = os.fsencode(path) or b"."
    fd: int = _openat2(_OPENAT2, top, name, how, len(how))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return fd
