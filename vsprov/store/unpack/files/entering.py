"""Confining this process to the root of a server, with no more rights than the server's root has.

A process that copies for the host must not do for a server what the server could not do itself: whatever
links, mounts and devices the server has put in the way, they lead where they lead the server's own root
(CVE-2018-15664). Nothing is loaded from the server's files (CVE-2019-14271): all modules were imported
before.
"""

from __future__ import annotations

import errno
import os
import signal
import sys

from ..confine import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUTS,
    check,
    drop_rights,
    end_with,
    libc,
    raise_open_files,
)

CLONE_NEWUSER = 0x10000000


def enter(root: int, userns: int, parent: int) -> None:
    """Make the directory open as `root` the root of this process, and its user that of the user namespace.

    When its parent ends, it gets SIGTERM, so that it can remove a file that is incomplete.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and kills this process
    os.umask(0)
    raise_open_files()
    check(libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET), "unshare")
    os.fchdir(root)
    os.chroot(".")
    os.close(root)
    sys.path.clear()
    sys.meta_path.clear()
    check(libc.setns(userns, CLONE_NEWUSER), "setns")
    os.close(userns)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    drop_rights()
    end_with(parent, signal.SIGTERM)
    if os.getcwd() != "/":
        raise OSError(errno.EACCES, "the root of the server is not a root", "chroot")
