"""Overlays: whether a file system can hold the upper layer of one, and what directories contain together."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from vsprov.kernel import proc, syscall


def file_system(path: str) -> str:
    """The type of the file system of a path."""
    mount = proc.mount_of(path)
    return mount.kind if mount else "unknown"


def refuse_upper(path: str) -> None:
    """Raise OSError if no upper layer can be below this existing directory. Mounts and writes nothing.

    Since Linux 6.5, the kernel checks the file system when the option is set; before, only when it mounts.
    """
    if file_system(path) == "overlay":
        raise OSError(errno.EINVAL, "an upper layer cannot be on an overlay")
    context = syscall.fsopen("overlay")
    try:
        syscall.fsconfig(context, syscall.FSCONFIG_SET_STRING, "upperdir", os.fsencode(path))
    finally:
        os.close(context)


def merged(trees: Sequence[int]) -> int:
    """A descriptor of what two or more open directories contain together, the topmost first: a read-only
    overlay that is mounted nowhere.
    """
    lower = [b"/proc/self/fd/%d" % tree for tree in trees]
    try:
        return _mount([("lowerdir+", path) for path in lower])
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    # Before Linux 6.7, which says so only when the mount is created. A string has at most 256 bytes.
    return _mount([("lowerdir", b":".join(lower))])


def _mount(options: Sequence[tuple[str, bytes]]) -> int:
    context = syscall.fsopen("overlay")
    try:
        for name, path in options:
            syscall.fsconfig(context, syscall.FSCONFIG_SET_STRING, name, path)
        syscall.fsconfig(context, syscall.FSCONFIG_CMD_CREATE)
        return syscall.fsmount(context, syscall.MOUNT_ATTR_NODEV | syscall.MOUNT_ATTR_NOSUID)
    finally:
        os.close(context)
