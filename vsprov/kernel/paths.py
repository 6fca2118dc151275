"""Opening a path inside a directory tree, and nowhere else."""

from __future__ import annotations

import errno
import os

from vsprov.kernel import syscall

# To open a directory itself, not what a symbolic link in its place leads to.
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# errno values for a path that existed a moment ago, or in a listing, and no longer does.
GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE}

_RESOLVE = syscall.RESOLVE_NO_XDEV | syscall.RESOLVE_NO_SYMLINKS | syscall.RESOLVE_BENEATH


def open_beneath(top: int, path: str, flags: int) -> int:
    """A CLOEXEC descriptor of `path` below the directory open as `top`; "" is that directory itself.

    Raises OSError if any component is a symbolic link or a mount point, or if `path` leads out of `top`;
    openat2(2).
    """
    return syscall.openat2(top, path or ".", flags | os.O_NOFOLLOW, _RESOLVE)
