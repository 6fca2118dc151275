"""The backend `project`: a project quota of the state root's file system (ext4 or xfs with prjquota).

upper/ and work/ of a server belong to a project, and so does whatever is made in them. The id of the project
is the first id of the server's range, which no other server of the host has; that of a volume is one that
nobody had. Servers of a pool that is limited have its project instead, see `store.space.pools`. The kernel
reports the limit as the size of the file system, and a server cannot change its project: that takes the
initial user namespace.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from vsprov.errors import reason
from vsprov.kernel import overlay, paths
from vsprov.kernel.storage import quota
from vsprov.model.disk_backends import PROJECT
from vsprov.plan.ranges import END
from vsprov.plan.seen_disk import SeenDisk
from vsprov.store.disk import durable, folders

_MOST = 0x7FFFFFFF
OF_POOLS = range(END, (1 << 32) - 1)  # the last id, -1, means no project
_FILE_SYSTEMS = ("ext4", "xfs")
_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
UPPER = "upper"
PARTS = ("work", UPPER)  # in this order: upper/ says whether there is a limit
VOLUME = "data"  # the files of a volume


def lack(root: str) -> str:
    """Why the file system of the state root has no project quotas; "" if it does."""
    folder = os.path.realpath(paths.existing(root))
    try:
        with paths.opened(folder) as fd:
            if quota.is_enforced(fd):
                return ""
    except OSError as error:
        return f"{folder}: {reason(error)}"
    kind = overlay.file_system(folder)
    if kind not in _FILE_SYSTEMS:
        return f"{kind} of {folder} has none: {' and '.join(_FILE_SYSTEMS)} have"
    return f"{kind} of {folder} is mounted without project quotas (prjquota)"


def observe(folder: str, part: str = UPPER) -> SeenDisk | None:
    """What limits the server or the volume with this directory, of which `part` has the files; None if it
    belongs to no project.
    """
    project = find(folder, part)
    of_work = find(folder, "work") if part == UPPER else project
    if is_of_pool(project) or is_of_pool(of_work):
        both = tuple(sorted({number if is_of_pool(number) else 0 for number in (project, of_work)}))
        return SeenDisk(PROJECT, 0, None, 0, None, None, attached=True, pools=both)
    if not project:
        return None
    with paths.opened(folder) as fd:
        # As long as work/ belongs to another one, which an exchange that was interrupted leaves, it needs to
        # be limited anew.
        found = quota.find(fd, project) if of_work == project else quota.Quota(0, 0)
    return SeenDisk(
        PROJECT,
        found.space,
        found.inodes or None,
        found.used,
        found.used_inodes,
        found.inodes,
        found.space,
        attached=True,
    )


def limit(folder: str, project: int, space: int, inodes: int | None, parts: Iterable[str] = PARTS) -> None:
    """Limit what a server writes, from now on or otherwise than before; 0 and None for no limit."""
    try:
        with paths.opened(folder) as fd:
            quota.set_limits(fd, project, space, inodes or 0)
    except OSError as error:
        raise durable.failed(folder, "set the project quota", error) from error
    join(folder, project, parts)


def join(folder: str, project: int, parts: Iterable[str] = PARTS) -> None:
    """Have what a server writes belong to a project from now on."""
    try:
        for name in parts:
            with paths.opened(f"{folder}/{name}") as fd:
                if quota.project_of(fd) != project:
                    quota.set_project(fd, project)
    except OSError as error:
        raise durable.failed(folder, "set the project quota", error) from error


def begin(other: str, project: int, space: int, inodes: int | None) -> None:
    """Limit a project, unless it is that of a pool, and have all that is made in the directory `other` belong
    to it.
    """
    try:
        with paths.opened(other) as fd:
            if not is_of_pool(project):
                quota.set_limits(fd, project, space, inodes or 0)
            quota.set_project(fd, project)
    except OSError as error:
        raise durable.failed(other, "set the project quota", error) from error


def leave(other: str) -> None:
    """Take back what `begin` has set; what was made in the directory keeps its project.

    A directory that inherits a project takes in only what belongs to it; rename(2), EXDEV.
    """
    try:
        with paths.opened(other) as fd:
            if quota.project_of(fd):
                quota.set_project(fd, 0)
    except OSError as error:
        raise durable.failed(other, "remove the project", error) from error


def find(folder: str, part: str = UPPER) -> int:
    """The project of a server or a volume; 0 if it has none, or has lost that part."""
    try:
        with paths.opened(f"{folder}/{part}") as fd:
            return quota.project_of(fd)
    except OSError as error:
        if error.errno in _NO_FOLDER:
            return 0
        raise durable.failed(f"{folder}/{part}", "read its project", error) from error


def free(folder: str) -> int:
    """A project that nobody has, for what has no range of ids. It is odd, so it never is that of a server."""
    try:
        with paths.opened(folder) as fd:
            project = os.fstat(fd).st_ino & _MOST | 1
            while quota.find(fd, project) != quota.Quota(0, 0):
                project = (project + 2) & _MOST
            return project
    except OSError as error:
        raise durable.failed(folder, "choose a project", error) from error


def is_of_pool(project: int) -> bool:
    """Whether a project can be that of a pool: it is above the ids of all servers and volumes."""
    return project in OF_POOLS


def release_abandoned(folder: str, left: Iterable[str]) -> None:
    """Remove the limits of projects that only what a crash has `left` half made or half removed has, of the
    servers or volumes in `folder`.
    """
    abandoned = {number for name in left for number in _all_of(f"{folder}/{name}")}
    if abandoned:
        kept = {number for name in folders.names(folder) for number in _all_of(f"{folder}/{name}")}
        for number in abandoned - kept:
            release_own(folder, number)


def _all_of(path: str) -> set[int]:
    """The projects of what is in the directory of a server or volume."""
    return {find(path, part) for part in (*PARTS, VOLUME)} - {0}


def release_own(servers: str, project: int) -> None:
    """Remove the limits of the project of a server that was removed, unless it is 0, or that of its pool."""
    if project and not is_of_pool(project):
        release(servers, project)


def release(servers: str, project: int) -> None:
    """Remove the limits of a project whose server, volume or pool was removed."""
    try:
        with paths.opened(servers) as fd:
            quota.set_limits(fd, project, 0, 0)
    except OSError as error:
        if error.errno != errno.ESRCH:  # mounted without quotas meanwhile
            raise durable.failed(servers, "remove the project quota", error) from error
