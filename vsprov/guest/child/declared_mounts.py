"""The mounts of the manifest, made by a server's first process at paths inside its root, and that of its boot
ID.
"""

from __future__ import annotations

import os
from errno import EEXIST, ENOENT
from struct import pack

from ..mounts import BOOT_ID, attributes_of, hidden
from ..sys_calls import (
    AT_EMPTY_PATH,
    AT_SYMLINK_NOFOLLOW,
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_STRING,
    FSMOUNT_CLOEXEC,
    FSOPEN_CLOEXEC,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
)
from .mount_check import record_mount, record_target
from .program import ANYWHERE, EMPTY, ON_LINK, PLAIN, ChildProgram, Program, add_part, ask_for_path

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from ..wire import File, Mount, Tmpfs

BOOT_ID_FILE = "proc/sys/kernel/random/boot_id"
# Targets of mounts that all servers have: the calls that open them are written once.
SHARED = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/machine-id")


def write_declared_mounts(
    p: ChildProgram, mounts: list[Mount], dev: int, free: int, directories: list[bool]
) -> None:
    """Make the mounts of the request, in their order; `dev` is the fd of /dev, before those of the binds."""
    bind = dev + 1
    for entry in mounts:
        p.step = f"mount {entry['target']}"
        if entry["type"] == "bind":
            if entry.get("over_kernel", False):
                _replace(p, bind, free, entry["target"])
            else:
                over_link = entry.get("over_link", False)
                _attach(p, bind, free, entry["target"], directories[bind - dev - 1], over_link)
            bind += 1
        elif entry["type"] == "file":
            _file(p, dev, free, entry)
        else:
            _tmpfs(p, free, entry)


def _file(p: ChildProgram, dev: int, fd: int, entry: File) -> None:
    """Attach the file that the spawner has created in /dev."""
    _clone_file(p, dev, fd, hidden(entry), attributes_of(entry))
    _attach(p, fd, fd + 1, entry["target"], False)
    p.call("close", fd)


def write_boot_id(p: Program, dev: int, fd: int) -> None:
    """Mount the ID of this run of the server over that of the host's boot: a journal tells by it which
    messages are of one boot, and others would learn by it which servers share a host. systemd-nspawn does it
    too.
    """
    p.step = f"mount /{BOOT_ID_FILE}"
    flags = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
    _clone_file(p, dev, fd, BOOT_ID, flags)
    _replace(p, fd, fd + 1, BOOT_ID_FILE)
    p.call("close", fd)


def _clone_file(p: Program, dev: int, fd: int, name: bytes, flags: int) -> None:
    """Make `fd` a detached mount of a file in /dev, with these attributes.

    The child clones its mount, because before 6.15 the kernel clones only what is attached.
    """
    p.call("open_tree", dev, name, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW, want=fd)
    attributes = pack("4Q", flags, 0, 0, 0)  # struct mount_attr
    p.call("mount_setattr", fd, EMPTY, AT_EMPTY_PATH, attributes, len(attributes))


def _replace(p: Program, tree: int, fd: int, path: str) -> None:
    """Attach a detached mount over a file of the kernel; nothing if this kernel has no such file.

    There is no link of the image on the way: /proc and /sys are the child's own mounts on plain directories.
    """
    p.open_inside(fd, os.fsencode(path), ANYWHERE, on=((ENOENT, 3),))
    p.move_mount(tree, fd)
    p.call("close", fd)


def _attach(p: ChildProgram, tree: int, fd: int, path: str, directory: bool, over_link: bool = False) -> None:
    """Attach a detached mount at a path inside the root, which is created if absent."""
    open_or_create(p, fd, path, directory, over_link)
    record_target(p, fd, path)
    record_mount(p, tree)
    p.move_mount(tree, fd)
    p.call("close", fd)


def open_or_create(p: ChildProgram, fd: int, path: str, directory: bool, over_link: bool = False) -> None:
    """Open a path inside the root as `fd`; create what is absent. `over_link`: open a link itself.

    Absent directories are created one by one from "/". mkdir(2) does not follow a dangling link on the way
    (CVE-2024-45310): then the spawner creates the path, see `absent`. An absent path with ".." in it is not
    created.
    """
    step, question = p.step, len(p.absent)

    def write(q: Program) -> None:
        q.step = step
        _open_or_create(q, fd, path, directory, over_link, question)

    if path in SHARED:
        add_part(p, ("open", step, fd, path, directory, over_link, question), write)
    else:
        write(p)
    if ".." not in path.split("/"):
        p.absent.append((p.step, path, directory))


def _open_or_create(p: Program, fd: int, path: str, directory: bool, over_link: bool, question: int) -> None:
    target = os.fsencode(path)
    parts = [name for name in target.split(b"/") if name not in (b"", b".")]
    if b".." in parts:
        p.open_inside(fd, target, ANYWHERE)
        return
    start = len(p.calls)
    p.open_inside(fd, target, ON_LINK if over_link else ANYWHERE, on=((ENOENT, 1),))
    p.open_inside(fd, b"/", ANYWHERE)
    dangling = len(p.calls) + 5 * len(parts) + (not directory)
    for depth, name in enumerate(parts, 1):
        part = b"/".join(parts[:depth])
        reported = "/" + os.fsdecode(part)
        if directory or depth < len(parts):
            p.open_inside(fd + 1, part, ANYWHERE, on=((ENOENT, 1),), skip=3)
            ask = ((EEXIST, dangling - len(p.calls)),)
            p.call("mkdirat", fd, name, 0o755, on=ask, path=reported)
        else:
            p.open_inside(fd + 1, part, ANYWHERE, on=((ENOENT, 1),), skip=4)
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            ask = ((EEXIST, dangling - len(p.calls)),)
            p.call("openat", fd, name, flags, 0o644, want=fd + 1, on=ask, path=reported)
            p.call("close", fd + 1)
        p.open_inside(fd + 1, name, PLAIN, base=fd)
        p.call("dup3", fd + 1, fd, os.O_CLOEXEC)
        p.call("close", fd + 1)
    done = len(p.calls) - 1
    p.call("close", fd)
    ask_for_path(p, question)
    p.open_inside(fd, target, ANYWHERE)
    for position in (start, done):
        p.skip_to_end(position)


def _tmpfs(p: ChildProgram, fd: int, entry: Tmpfs) -> None:
    """Mount a new tmpfs."""
    options = [(b"mode", b"%o" % entry["mode"])]
    if entry["size"] is not None:
        options.append((b"size", b"%d" % entry["size"]))
    p.call("fsopen", b"tmpfs", FSOPEN_CLOEXEC, want=fd)
    for key, value in options:
        p.call("fsconfig", fd, FSCONFIG_SET_STRING, key, value, 0)
    p.call("fsconfig", fd, FSCONFIG_CMD_CREATE, None, None, 0)
    p.call("fsmount", fd, FSMOUNT_CLOEXEC, attributes_of(entry), want=fd + 1)
    p.call("dup3", fd + 1, fd, os.O_CLOEXEC)
    p.call("close", fd + 1)
    _attach(p, fd, fd + 1, entry["target"], True)
    p.call("close", fd)
