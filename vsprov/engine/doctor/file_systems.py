"""What the file systems of the host support: overlays, idmapped mounts, attributes of files."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from vsprov.engine.doctor.finding import Finding, attempt, in_child
from vsprov.kernel import overlay, paths, syscall
from vsprov.store.instance import Instance


def file_systems(instance: Instance) -> Iterator[Finding]:
    """Overlays, and the file systems of the state root and of /usr."""
    folder = paths.existing(instance.root)
    yield _overlay()
    yield _lower_layers()
    yield _idmap("state root", folder)
    yield _idmap("/usr", "/usr")
    yield _trusted(folder)
    yield _upper(folder)


def _overlay() -> Finding:
    """Mount an overlay on a tmpfs, in a mount namespace that ends with the probe."""

    def work() -> None:
        syscall.unshare(syscall.CLONE_NEWNS)
        syscall.mount("none", "/", None, syscall.MS_REC | syscall.MS_PRIVATE)
        syscall.mount("tmpfs", "/tmp", "tmpfs", 0)
        for name in ("lower", "upper", "work", "root"):
            os.mkdir(f"/tmp/{name}")
        syscall.mount(
            "overlay", "/tmp/root", "overlay", 0, "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work"
        )

    return attempt("overlay", lambda: in_child(work), "servers cannot use images; try modprobe overlay")


def _lower_layers() -> Finding:
    def probe() -> None:
        context = syscall.fsopen("overlay")
        try:
            syscall.fsconfig(context, syscall.FSCONFIG_SET_STRING, "lowerdir+", b"/usr")
        finally:
            os.close(context)

    cost = "images of more than about 60 layers cannot be mounted"
    return attempt("overlay lowerdir+", probe, cost, "degraded")


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
                file.write("0 524288 65536")
        yield pid
    finally:
        os.close(gate_end)
        os.close(ready)
        os.waitpid(pid, 0)


def _idmap(what: str, path: str) -> Finding:
    """Whether the file system of a path supports idmapped mounts, tested with a detached mount."""
    kind = overlay.file_system(path)

    def probe() -> None:
        with _mapped_process() as pid:
            users = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            tree = syscall.open_tree(syscall.AT_FDCWD, path, syscall.OPEN_TREE_CLONE)
            try:
                syscall.mount_setattr(tree, "", syscall.MOUNT_ATTR_IDMAP, userns=users)
            finally:
                os.close(tree)
                os.close(users)

    finding = attempt(
        f"idmapped mounts of {what}", probe, f"{path}: files appear as owned by nobody in servers", "degraded"
    )
    return Finding(finding.feature, finding.state, f"{kind} {finding.found}".strip(), finding.cost)


def _trusted(folder: str) -> Finding:
    """Whether files can have trusted.* extended attributes, tested with an unnamed file."""

    def probe() -> None:
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.setxattr(fd, "trusted.vsprov.probe", b"1")
        finally:
            os.close(fd)

    cost = f"{folder}: required for owner marks and overlay; choose another --root"
    return attempt("trusted attributes of state root", probe, cost)


def _upper(folder: str) -> Finding:
    """Whether the upper layers of servers can be in the file system of the state root."""
    cost = f"{folder}: required for what servers write; choose another --root"
    finding = attempt("upper layers in state root", lambda: overlay.refuse_upper(folder), cost)
    return replace(finding, found=f"{overlay.file_system(folder)} {finding.found}".strip())
