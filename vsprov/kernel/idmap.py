"""Whether a file system supports idmapped mounts; mount_setattr(2)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from vsprov.kernel import syscall

_MAP = "0 524288 65536"


@contextmanager
def _mapped_process() -> Iterator[int]:
    """The pid of a child process in a user namespace of its own with mapped ids, until the context exits."""
    ready, ready_end = os.pipe()
    gate, gate_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(gate_end)
            syscall.unshare(syscall.CLONE_NEWUSER)
            os.write(ready_end, b"1")
            os.read(gate, 1)
        finally:
            os._exit(0)
    os.close(ready_end)
    os.close(gate)
    try:
        if not os.read(ready, 1):
            raise OSError(errno.EPERM, "no user namespace")
        for kind in ("uid", "gid"):
            with open(f"/proc/{pid}/{kind}_map", "w") as file:
                file.write(_MAP)
        yield pid
    finally:
        os.close(gate_end)
        os.close(ready)
        os.waitpid(pid, 0)


def refuse_unmappable(path: str) -> None:
    """Raise OSError if mounts of the file system of a path cannot be idmapped, tested with a detached mount:
    EINVAL if it is the file system that does not support it.
    """
    with _mapped_process() as pid:
        users = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            tree = syscall.open_tree(syscall.AT_FDCWD, path, syscall.OPEN_TREE_CLONE)
            try:
                syscall.mount_setattr(tree, "", syscall.MOUNT_ATTR_IDMAP, userns=users)
            finally:
                os.close(tree)
        finally:
            os.close(users)
