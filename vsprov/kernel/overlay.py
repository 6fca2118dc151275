"""Whether a file system can hold the upper layer of an overlay."""

from __future__ import annotations

import errno
import os

from vsprov.kernel import proc, syscall


def file_system(path: str) -> str:
    """The type of the file system of a path, from mountinfo; proc_pid_mountinfo(5)."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    return next((mount.kind for mount in proc.mounts() if mount.device == number), "unknown")


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
