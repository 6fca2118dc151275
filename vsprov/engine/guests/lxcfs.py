"""The files of lxcfs(1), which show a server's own limits and use in place of those of the host.

lxcfs finds the server by the control groups of its first process. Its files are mounted one by one, as LXC
does: those that it has and the kernel has not are left out.
"""

from __future__ import annotations

import os
from functools import cache

from vsprov.kernel import proc

KIND, OWNER = "fuse.lxcfs", "user_id=0"
FILES = (
    "/proc/cpuinfo", "/proc/diskstats", "/proc/loadavg", "/proc/meminfo", "/proc/stat", "/proc/swaps",
    "/proc/uptime", "/sys/devices/system/cpu/online",
)  # fmt: skip


def mount_point() -> str:
    """Where lxcfs is mounted, by root: with fusermount(1) every user can mount a file system of this name; ""
    if it is not.
    """
    found = (mount for mount in proc.mounts() if mount.kind == KIND and OWNER in mount.options.split(","))
    return next((mount.point for mount in found), "")


@cache
def files() -> tuple[tuple[str, str], ...]:
    """(path on the host, path in a server) of each file; () if lxcfs is not there, or does not answer."""
    point = mount_point()
    if not point:
        return ()
    from vsprov.engine.guests import host_sources

    if host_sources.unanswered([point]):
        return ()
    try:
        os.statvfs(point)  # asks lxcfs: what a file is, the kernel remembers for a second when lxcfs has gone
    except OSError:
        return ()
    return tuple((path, file) for file in FILES if os.path.isfile(path := f"{point}{file}"))
