"""Read-only mounts that a server with CAP_SYS_ADMIN cannot make writable.

The kernel locks the flags of mounts that it copies to a mount namespace of another user namespace
(mount_namespaces(7), "Restrictions on mount namespaces"). What a server's first process attaches was not
copied so: the root of the server could remount it, and write to /usr of the host as root. Therefore a
short-lived child has the mounts copied, and hands back copies of these copies, which keep the lock.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOCK_SEQPACKET, SOL_SOCKET, socketpair
from errno import EIO
from struct import iter_unpack, pack

from ..mounts import O_PATH, make_tmpfs
from ..sys_calls import (
    AT_FDCWD,
    AT_RECURSIVE,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MS_PRIVATE,
    MS_REC,
    OPEN_TREE_CLONE,
    mount,
    move_mount,
    open_tree,
    unshare,
)

AT_ONCE = 64  # fds of one message; the kernel allows 253


def lock(trees: list[int], directories: list[bool], mount_at: str) -> list[int]:
    """Copies of detached mounts whose flags are locked, in the same order; the mounts themselves are used up.

    `directories`: for each, whether it is one. `mount_at` is any directory.
    """
    locked: list[int] = []
    for first in range(0, len(trees), AT_ONCE):
        locked += _lock(trees[first : first + AT_ONCE], directories[first : first + AT_ONCE], mount_at)
    return locked


def _lock(trees: list[int], directories: list[bool], mount_at: str) -> list[int]:
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        message, fds = b"0", b""
        try:
            copies = _copies(trees, directories, mount_at)
            fds = pack(f"{len(copies)}i", *copies)
        except OSError as error:
            message = b"%d" % (error.errno or EIO)
        finally:
            theirs.sendmsg([message], [(SOL_SOCKET, SCM_RIGHTS, fds)] if fds else [])
            os._exit(0)
    theirs.close()
    try:
        message, received, _, _ = ours.recvmsg(16, 4 * AT_ONCE + 64, MSG_CMSG_CLOEXEC)
    finally:
        ours.close()
        os.waitpid(pid, 0)
    number = int(message or EIO)
    if number:
        raise OSError(number, os.strerror(number))
    return [fd for _, _, data in received for (fd,) in iter_unpack("i", data)]


def _copies(trees: list[int], directories: list[bool], mount_at: str) -> list[int]:
    """Attach the mounts in a namespace of the host's user namespace, have it copied, and copy them there."""
    unshare(CLONE_NEWNS)
    mount(b"", b"/", None, MS_REC | MS_PRIVATE)
    place = os.open(mount_at, O_PATH | os.O_DIRECTORY)
    top = make_tmpfs(((b"mode", b"700"),), 0)
    move_mount(top, place)
    os.fchdir(top)  # the working directory is what follows into the copy
    names = [str(number) for number in range(len(trees))]
    for name, tree, directory in zip(names, trees, directories, strict=True):
        if directory:
            os.mkdir(name)
        else:
            os.mknod(name)
        target = os.open(name, O_PATH)
        move_mount(tree, target)
        os.close(target)
    unshare(CLONE_NEWUSER | CLONE_NEWNS)
    return [open_tree(AT_FDCWD, name.encode(), OPEN_TREE_CLONE | AT_RECURSIVE) for name in names]
