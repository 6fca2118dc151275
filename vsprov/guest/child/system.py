"""What a server needs to boot the init of its image: a terminal as its console, and mounts that services need
to make new ones of the kernel's file systems.
"""

from __future__ import annotations

import os
from struct import pack

from ..sys_calls import AT_FDCWD, MS_BIND, MS_RDONLY, MS_REC, MS_SHARED
from .program import PRIVATE, Program

KERNEL = b"/dev/.vsprov"
TIOCSPTLCK, TIOCGPTPEER = 0x40045431, 0x5441
_TERMINAL = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC


def write_kernel_mounts(p: Program, dev: int, procfs: bool, sysfs: bool) -> None:
    """Mount another /proc and /sys, on which nothing will be masked, where only the server's root sees them;
    neither for a root that may not mount, from which masks do protect.

    The kernel lets a user namespace mount either only while a mount of it shows everything: systemd does for
    ProtectProc=, and so do containers in the server (mount_namespaces(7), "Restrictions on mount namespaces";
    mount_too_revealing() in fs/namespace.c). Masks protect nothing from a root that may unmount them; what is
    under them belongs to the host's root, as all that is dangerous in /proc.
    """
    p.call("fchdir", dev)
    p.step = "mount another /proc"
    for name, mode in ((b".vsprov", 0o755), (b".vsprov/kernel", 0o700)):
        p.call("mkdirat", AT_FDCWD, name, mode)
    if procfs:
        p.call("mkdirat", AT_FDCWD, b".vsprov/kernel/proc", 0o555)
        p.mount(b"proc", b".vsprov/kernel/proc", PRIVATE)
    if procfs and sysfs:
        p.step = "mount another /sys"
        p.call("mkdirat", AT_FDCWD, b".vsprov/kernel/sys", 0o555)
        p.mount(b"sysfs", b".vsprov/kernel/sys", PRIVATE | MS_RDONLY)
    p.call("chdir", b"/")


def share_mounts(p: Program) -> None:
    """Make all mounts shared, as systemd does on a machine, and expects of whoever starts it in a container:
    units have mount namespaces of their own, which learn by that of mounts and credentials made later.
    """
    p.step = "share mounts"
    p.call("mount", None, b"/", None, MS_REC | MS_SHARED, None, path="/")


def write_terminal(p: Program, dev: int, master: int) -> None:
    """Open a pty of the server's own, the first, and make it /dev/console and the standard streams.

    The fd of its master stays open, for the client to take it with pidfd_getfd(2), until execve.
    """
    p.step = "console"
    p.call("fchdir", dev)
    p.call("openat", AT_FDCWD, b"pts/ptmx", _TERMINAL, 0, want=master, path="/dev/ptmx")
    p.call("ioctl", master, TIOCSPTLCK, pack("i", 0))
    p.call("ioctl", master, TIOCGPTPEER, _TERMINAL, want=master + 1)
    for stream in range(3):
        p.call("dup3", master + 1, stream, 0)
    p.call("close", master + 1)
    p.call("openat", AT_FDCWD, b"console", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, want=master + 1)
    p.call("close", master + 1)
    p.call("mount", b"pts/0", b"console", None, MS_BIND, None, path="/dev/console")
    p.call("chdir", b"/")
