"""The files and directories of the host that servers mount: how they are opened, checked and idmapped.

We open them because a server or a user of the host could exchange what a path leads to. The spawner gets our
descriptors, as paths in /proc.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from errno import EACCES, ENOENT, ENOTDIR, ENOTSUP, EPERM, EROFS
from typing import Any

from msgspec import Struct

from vsprov.errors import EXHAUSTED, Problem, StepError, reason
from vsprov.kernel import paths, proc, syscall
from vsprov.kernel.paths import UnsafePathError, walk_host
from vsprov.model.kinds.sections.mounts import Mount
from vsprov.model.kinds.server import Server
from vsprov.store.hostimage import Bind as HostBind
from vsprov.store.instance import Instance
from vsprov.store.space.disks import has_image, has_subvolume

SECONDS_TO_ANSWER = 5.0  # of a file system whose server may be gone
# File systems that another process or host serves: a system call may wait for it for ever.
_SERVED = frozenset("9p afs ceph cifs fuse fuseblk lustre ncpfs nfs nfs4 smb3 virtiofs".split())
# statvfs(3) asks each time: the kernel may know the status of a file from an earlier answer.
_PROBE = """
import os, sys
for path in sys.argv[1:]:
    try:
        os.statvfs(path)
    except OSError:
        pass
    os.write(1, b'.')
"""


class IdMap(Struct, frozen=True):
    """How a mount maps ids.

    `host`: ids in the server are those of the host. `owner`: the (uid, gid) of the host that is the server's
    root. With neither, ids are those of the server's range.
    """

    host: bool = False
    owner: tuple[int, int] | None = None


class Opened(Struct, frozen=True):
    """An open source of a bind: where the spawner finds it, and how ids are mapped."""

    path: str
    id_map: IdMap


class OpenSources:
    """The sources of a server, by their path; open until `close`."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        self._held = ExitStack()
        self._names: dict[str, str] = {}
        self._ready: dict[str, str] = {}
        self.disk: str | None = None  # the file system that holds what the server writes, if it has its own

    def image(self, bind: HostBind) -> str:
        """Where the spawner finds a folder of an image that consists of the host's own files."""
        try:
            return self.keep(walk_host(bind.source, links=False, owners=False).fd, bind.source)
        except OSError as error:
            raise _refused(_cannot_open(bind.source, error)) from error

    def mount(self, mount: Mount) -> Opened:
        """The source of a bind. StepError if it cannot be opened, or is refused."""
        assert mount.source is not None
        # The plan has asked, but images may have been imported since. It has also asked behind links.
        if _is_served(mount.source) and unanswered([mount.source]):
            raise _refused(no_answer(mount.source))
        try:
            found = walk_host(mount.source)
            path = self.keep(found.fd, mount.source)
            status = os.fstat(found.fd)
            if why := refusal(mount, status, found.private):
                raise _refused(why)
            if not mount.read_only and stat.S_ISDIR(status.st_mode):
                _mark(path)
        except OSError as error:
            raise _refused(_cannot_open(mount.source, error)) from error
        return Opened(path, id_map(mount, status))

    def volume(self, instance: Instance, name: str) -> str:
        """Where the spawner finds a mount of a volume, whose ids are those that servers see.

        Each use of it is a mount of its own. If the volume has a file system of its own, that is mounted now.
        """
        from vsprov.store.volumes import directory

        if ready := self._ready.pop(name, None):
            return ready
        try:
            return self.keep(directory.tree(instance, name), f"volume {name}")
        except OSError as error:
            raise _refused(_cannot_open(f"volume {name}", error)) from error

    def mount_volumes(self, instance: Instance, spec: Server) -> None:
        """Mount the volumes of a server ahead whose file system may keep us waiting."""
        for name in images_of(instance, spec):
            self._ready[name] = self.volume(instance, name)

    def attach_disk(self, folder: str, base: int) -> None:
        """Mount what the server with this directory writes to, if that has a file system of its own. Its last
        user may not be done yet. If it is a subvolume that is full, it has some room until `mounted`.
        """
        if has_image(folder):
            from vsprov.store.space import image, image_state

            self.disk = self.keep(image.attach(folder, base), image_state.path(folder))
        elif has_subvolume(folder):
            from vsprov.store.space import subvolume

            try:
                self._held.enter_context(subvolume.room_to_start(folder))
            except OSError as error:
                raise _refused(_cannot_open(subvolume.path(folder), error)) from error

    def name(self, path: str) -> str:
        """The source that the spawner knows by `path`."""
        return self._names.get(path, path)

    def mounted(self) -> None:
        """The server has its root: its disk is limited again as it was."""
        self._held.close()

    def close(self) -> None:
        self.mounted()
        while self._fds:
            os.close(self._fds.pop())

    def keep(self, fd: int, source: str) -> str:
        """Take over the fd of a source; the path where the spawner finds it."""
        self._fds.append(fd)
        path = f"/proc/{os.getpid()}/fd/{fd}"
        self._names[path] = source
        return path


def images_of(instance: Instance, spec: Server) -> list[str]:
    """The volumes of a server that have a file system of their own."""
    names = {mount.source for mount in spec.mounts if mount.type == "volume" and mount.source}
    if not names:
        return []
    from vsprov.store.volumes import directory

    return sorted(name for name in names if directory.has_image(instance, name))


@contextmanager
def opening() -> Iterator[OpenSources]:
    """Sources that are closed at the end of the block, when the server has its mounts."""
    sources = OpenSources()
    try:
        yield sources
    finally:
        sources.close()


def problem(mount: Mount) -> Problem | None:
    """Why the source of a bind, which `unanswered` has checked, cannot be mounted now; None if it can."""
    assert mount.source is not None
    try:
        found = walk_host(mount.source)
    except OSError as error:
        return _cannot_open(mount.source, error)
    try:
        return refusal(mount, os.fstat(found.fd), found.private)
    finally:
        os.close(found.fd)


def id_map(mount: Mount, status: os.stat_result) -> IdMap:
    """How ids are mapped in the mount of a source with this status."""
    if mount.id_map == "none":
        return IdMap()
    if mount.id_map == "host" or status.st_uid == 0:
        return IdMap(host=True)
    return IdMap(owner=(status.st_uid, status.st_gid))


def refusal(mount: Mount, status: os.stat_result, private: bool) -> Problem | None:
    """Why a source must not be mounted with the ids of its owner; None if it may be.

    A setuid program, or one with capabilities, that the server creates there would give users of the host the
    rights of root.
    """
    kinds = (stat.S_IFDIR, stat.S_IFREG)
    if mount.id_map != "auto" or mount.read_only or private or stat.S_IFMT(status.st_mode) not in kinds:
        return None
    if status.st_uid and status.st_gid:
        return None
    whose = "root" if status.st_uid == 0 else f"uid {status.st_uid} and the group root"
    return Problem(
        f"{mount.source}: belongs to {whose} and is writable by the server, which could create setuid-root "
        "programs there that users of the host can run",
        hint=f"change its owner (chown USER:GROUP {mount.source}), move it below a directory that only root "
        "can enter (mode 0700), set readOnly: true, or set idMap to none or host",
    )


def unanswered(sources: Sequence[str]) -> list[str]:
    """Those of the paths whose file system does not answer within SECONDS_TO_ANSWER.

    A child process asks, because the kernel may not let it end before the file system answers: it can be left
    behind. There is no child on hosts without file systems that others serve.
    """
    if not sources or not _served_mounts():
        return []
    silent, left = [], list(dict.fromkeys(sources))
    while left:
        answers = _probe(left)
        if answers < len(left):
            silent.append(left[answers])
        left = left[answers + 1 :]
    return silent


def no_answer(source: str) -> Problem:
    """The problem of a source that `unanswered` has returned."""
    return Problem(
        f"{source}: open: its file system did not answer within {SECONDS_TO_ANSWER:g} s",
        hint="is its server running? umount -l detaches a file system that does not answer",
    )


def _probe(sources: Sequence[str]) -> int:
    """How many of the paths, from the first on, have answered."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    command = [sys.executable, "-I", "-S", "-c", _PROBE, *sources]
    # Not our own standard error: whoever reads that until its end would wait for the child.
    actions: list[tuple[Any, ...]] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, writer, 1),
        (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
    ]
    try:
        pid = os.posix_spawn(sys.executable, command, {}, file_actions=actions, setsigmask=())
    finally:
        os.close(writer)
    answers = 0
    try:
        deadline = time.monotonic() + SECONDS_TO_ANSWER
        while syscall.is_ready(reader, max(0.0, deadline - time.monotonic())):
            dots = len(os.read(reader, 4096))
            if not dots:
                break
            answers, deadline = answers + dots, time.monotonic() + SECONDS_TO_ANSWER
        return answers
    finally:
        os.close(reader)
        _leave(pid)


def _leave(pid: int) -> None:
    """Kill a child, and wait for its end only if that comes at once."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    pidfd = os.pidfd_open(pid)
    try:
        if syscall.is_ready(pidfd, 0.2):
            os.waitpid(pid, 0)
    finally:
        os.close(pidfd)


def _served_mounts() -> list[str]:
    """The mount points of file systems that others serve, escaped as in mountinfo."""
    return [one.point for one in proc.mounts() if one.kind in _SERVED or one.kind.startswith("fuse.")]


def _is_served(source: str) -> bool:
    """Whether the path is on a file system that others serve. Does not look at links in the path."""
    return any("\\" in point or f"{source}/".startswith(f"{point}/") for point in _served_mounts())


def _mark(path: str) -> None:
    """Mark a folder that a server may write, so that links in it are never followed.

    Does nothing if the file system has no such attributes.
    """
    try:
        os.setxattr(path, paths.WRITABLE_BY_SERVERS, b"1")
    except OSError as error:
        if error.errno not in (ENOTSUP, EROFS, EPERM, EACCES):
            raise


def _cannot_open(source: str, error: OSError) -> Problem:
    """The problem of a source for this error; names the component that was refused."""
    if not isinstance(error, UnsafePathError):
        absent = "create it on the host first" if error.errno in (ENOENT, ENOTDIR) else ""
        return Problem(f"{source}: {reason(error)}", hint=EXHAUSTED.get(error.errno or 0, absent))
    where = source if error.filename == source else f"{source}: {error.filename}"
    return Problem(f"{where}: {reason(error)}", hint=error.hint)


def _refused(why: Problem) -> StepError:
    return StepError(f"start: {why.message}", hint=why.hint)
