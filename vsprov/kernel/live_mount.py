"""Mount a file of the host in a server that runs, over a file of its own."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, suppress
from threading import Thread

from vsprov.kernel import syscall

# As mounts at the start: a link at the target is replaced, not followed; one on the way is, inside the root.
_IN_ROOT = syscall.RESOLVE_IN_ROOT | syscall.RESOLVE_NO_MAGICLINKS
_TARGET, _PARENT = os.O_PATH | os.O_NOFOLLOW, os.O_PATH | os.O_DIRECTORY
_ATTRIBUTES = syscall.MOUNT_ATTR_NOSUID | syscall.MOUNT_ATTR_NODEV


def mount_file(pid: int, source: str, target: str, owner: int, *, read_only: bool = False) -> None:
    """Make the file `source` visible at the path `target` in the mount namespace of `pid`.

    A target that is absent is created, for this host id; its directory must exist. OSError with the path that
    failed. open_tree(2), move_mount(2).
    """
    failure: list[OSError] = []

    def attach() -> None:
        try:
            _attach(pid, source, target, owner, read_only)
        except OSError as error:
            failure.append(error)

    # A process that shares its working directory and root with others cannot change its mount namespace
    # (setns(2)), so this is done by a thread that gets its own and never comes back.
    thread = Thread(target=attach)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def _attach(pid: int, source: str, target: str, owner: int, read_only: bool) -> None:
    with ExitStack() as opened:

        def held(fd: int) -> int:
            opened.callback(os.close, fd)
            return fd

        tree = held(syscall.open_tree(syscall.AT_FDCWD, source, syscall.OPEN_TREE_CLONE))
        syscall.mount_setattr(tree, "", _ATTRIBUTES | (syscall.MOUNT_ATTR_RDONLY if read_only else 0))
        namespace = held(os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
        syscall.unshare(syscall.CLONE_FS)
        syscall.setns(namespace, syscall.CLONE_NEWNS)
        root = held(os.open("/", _PARENT | os.O_CLOEXEC))
        try:
            place = held(syscall.openat2(root, target, _TARGET, _IN_ROOT))
        except FileNotFoundError:
            place = held(_create(root, target, owner))
        syscall.move_mount(tree, place, path=target)


def _create(root: int, target: str, owner: int) -> int:
    """Create the file for this host id, in a directory that exists, and open it as a target."""
    folder, name = os.path.split(target)
    parent = syscall.openat2(root, folder, _PARENT, _IN_ROOT)
    try:
        with suppress(FileExistsError):
            made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent)
            try:
                os.fchown(made, owner, owner)
            finally:
                os.close(made)
        return os.open(name, _TARGET | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror, target) from error
    finally:
        os.close(parent)
