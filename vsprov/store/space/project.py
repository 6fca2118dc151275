"""The backend `project`: a project quota of the state root's file system (ext4 or xfs with prjquota).

upper/ and work/ of a server belong to a project, and so does whatever is made in them. The id of the project
is the first id of the server's range, which no other server of the host has; that of a volume is one that
nobody had. The kernel reports the limit as the size of the file system, and a server cannot change its
project: that takes the initial user namespace.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from vsprov.errors import reason
from vsprov.kernel import overlay, paths
from vsprov.kernel.storage import quota
from vsprov.model.disk_backends import PROJECT
from vsprov.plan.observed import SeenDisk
from vsprov.store.disk import durable

_MOST = 0x7FFFFFFF
_FILE_SYSTEMS = ("ext4", "xfs")
_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
UPPER = "upper"
PARTS = ("work", UPPER)  # in this order: upper/ says whether there is a limit


def lack(root: str) -> str:
    """Why the file system of the state root has no project quotas; "" if it does."""
    folder = os.path.realpath(paths.existing(root))
    try:
        with _opened(folder) as fd:
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
    if not project:
        return None
    with _opened(folder) as fd:
        # As long as work/ belongs to another one, which an exchange that was interrupted leaves, it needs to
        # be limited anew.
        torn = part == UPPER and find(folder, "work") != project
        found = quota.Quota(0, 0) if torn else _find(fd, project)
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


def _find(fd: int, project: int) -> quota.Quota:
    try:
        return quota.get(fd, project)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH):  # no limit, or mounted without quotas meanwhile
            raise
        return quota.Quota(0, 0)


def limit(folder: str, project: int, space: int, inodes: int | None, parts: Iterable[str] = PARTS) -> None:
    """Limit what a server writes, from now on or otherwise than before; 0 and None for no limit."""
    try:
        with _opened(folder) as fd:
            quota.set_limits(fd, project, space, inodes or 0)
        for name in parts:
            with _opened(f"{folder}/{name}") as fd:
                if quota.project_of(fd) != project:
                    quota.set_project(fd, project)
    except OSError as error:
        raise durable.failed(folder, "set the project quota", error) from error


def begin(other: str, project: int, space: int, inodes: int | None) -> None:
    """Limit a project, and have all that is made in the directory `other` belong to it."""
    try:
        with _opened(other) as fd:
            quota.set_limits(fd, project, space, inodes or 0)
            quota.set_project(fd, project)
    except OSError as error:
        raise durable.failed(other, "set the project quota", error) from error


def leave(other: str) -> None:
    """Take back what `begin` has set; what was made in the directory keeps its project.

    A directory that inherits a project takes in only what belongs to it; rename(2), EXDEV.
    """
    try:
        with _opened(other) as fd:
            if quota.project_of(fd):
                quota.set_project(fd, 0)
    except OSError as error:
        raise durable.failed(other, "remove the project", error) from error


def find(folder: str, part: str = UPPER) -> int:
    """The project of a server or a volume; 0 if it has none, or has lost that part."""
    try:
        with _opened(f"{folder}/{part}") as fd:
            return quota.project_of(fd)
    except OSError as error:
        if error.errno in _NO_FOLDER:
            return 0
        raise durable.failed(f"{folder}/{part}", "read its project", error) from error


def free(folder: str) -> int:
    """A project that nobody has, for what has no range of ids. It is odd, so it never is that of a server."""
    try:
        with _opened(folder) as fd:
            project = os.fstat(fd).st_ino & _MOST | 1
            while _find(fd, project) != quota.Quota(0, 0):
                project = (project + 2) & _MOST
            return project
    except OSError as error:
        raise durable.failed(folder, "choose a project", error) from error


def release(servers: str, project: int) -> None:
    """Remove the limits of a project whose server was removed."""
    try:
        with _opened(servers) as fd:
            quota.set_limits(fd, project, 0, 0)
    except OSError as error:
        if error.errno != errno.ESRCH:  # mounted without quotas meanwhile
            raise durable.failed(servers, "remove the project quota", error) from error


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = quota.open_folder(path)
    try:
        yield fd
    finally:
        os.close(fd)
