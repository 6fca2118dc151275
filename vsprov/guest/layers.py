"""Host side of a server's mounts: detached trees, made with the host's rights, for the child to attach.

A user namespace may not create these itself. Paths given here are the host's; nothing of a guest is looked
up.
"""

from __future__ import annotations

import os
from errno import EINVAL
from stat import S_ISDIR, S_ISREG

from .sys_calls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    CLONE_NEWNS,
    F_ADD_SEALS,
    F_SEALS_ALL,
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_FD,
    FSCONFIG_SET_STRING,
    MFD_ALLOW_SEALING,
    MFD_CLOEXEC,
    MFD_EXEC,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    MS_REC,
    OPEN_TREE_CLONE,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    fsconfig,
    fsmount,
    fsopen,
    mount,
    mount_setattr,
    move_mount,
    open_tree,
    openat2,
    setns,
    unshare,
)

TYPE_CHECKING = False  # importing typing would double the heap every child copies
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

O_PATH = os.O_PATH | os.O_CLOEXEC
NODES = tuple(
    (name, os.makedev(major, minor))
    for name, major, minor in (
        (b"null", 1, 3),
        (b"zero", 1, 5),
        (b"full", 1, 7),
        (b"random", 1, 8),
        (b"urandom", 1, 9),
        (b"tty", 5, 0),
    )
)

# How an overlay takes lower layers, best first: an fd each (6.13), a path each (6.7), all in one string.
BY_FD, BY_PATH, JOINED = 0, 1, 2
_lower_by = BY_FD


def learn() -> None:
    """Find out how this kernel's overlay takes lower layers."""
    global _lower_by
    context, root = fsopen(b"overlay"), os.open("/", O_PATH)
    try:
        fsconfig(context, FSCONFIG_SET_FD, b"lowerdir+", None, root)
    except OSError:
        _lower_by = BY_PATH
    finally:
        os.close(context)
        os.close(root)


def layers_to_attach(root: dict[str, Any]) -> int:
    """How many layers `make_root` will leave for the child to attach."""
    alone = root["upper"] is None and len(root["lower"]) == 1
    return 0 if alone or _lower_by != BY_FD else len(root["lower"])


def with_idmap(tree: int, recursive: bool, attributes: int, userns: int | None) -> bool:
    """Set the attributes on a detached tree, idmapped to `userns`; False if its file system refuses that."""
    if userns is not None:
        try:
            mount_setattr(tree, recursive, attributes | MOUNT_ATTR_IDMAP, userns)
        except OSError as error:
            if error.errno != EINVAL:
                raise
        else:
            return True
    if attributes:
        mount_setattr(tree, recursive, attributes)
    return userns is None


def make_root(root: dict[str, Any], userns: int | None, unmapped: list[str]) -> tuple[int, list[int]]:
    """The fds of the server's detached root mount, and of the layers it was made from.

    The latter are to be attached by the child where it drops the host's mounts: to close a mount that was
    never attached costs a wait for all processors (an RCU grace period), and there one wait serves for all.
    Names of lower layers that could not be idmapped go to `unmapped`.
    """
    attributes = MOUNT_ATTR_NODEV  # the child makes it read-only, when it has made absent mount points
    lower, upper = root["lower"], root["upper"]
    alone = upper is None and len(lower) == 1
    trees: list[int] = []
    try:
        for path in lower:
            trees.append(open_tree(AT_FDCWD, os.fsencode(path), OPEN_TREE_CLONE))
            wanted = attributes | MOUNT_ATTR_RDONLY if alone else 0
            if not with_idmap(trees[-1], False, wanted, userns):
                unmapped.append(path)
        if alone:
            return trees.pop(), trees
        if _lower_by == BY_FD:
            return _overlay(trees, root, attributes), trees
        made = _overlay_of_attached(trees, root, attributes)
    except OSError:
        for tree in trees:
            os.close(tree)
        raise
    for tree in trees:
        os.close(tree)
    return made, []


def _overlay_of_attached(trees: list[int], root: dict[str, Any], attributes: int) -> int:
    """As `_overlay`, where layers are told by path: attached in a mount namespace made for it."""
    global _lower_by
    home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    unshare(CLONE_NEWNS)
    try:
        mount(b"", b"/", None, MS_REC | MS_PRIVATE)
        place = os.open(root["mount_at"], O_PATH | os.O_DIRECTORY)
        try:
            for tree in trees:
                move_mount(tree, place)
        finally:
            os.close(place)
        try:
            return _overlay(trees, root, attributes)
        except OSError as error:
            # What a kernel says, some only when the mount is made, to an option it does not know.
            if error.errno != EINVAL or _lower_by == JOINED:
                raise
        _lower_by = JOINED
        return _overlay(trees, root, attributes)
    finally:
        setns(home, CLONE_NEWNS)
        os.close(home)


def _overlay(lower: list[int], root: dict[str, Any], attributes: int) -> int:
    """Overlay over the lower trees, topmost first; by fds, so that no `:` `,` or backslash is parsed."""
    context = fsopen(b"overlay")
    held = [context]
    try:
        if _lower_by == JOINED:
            joined = b":".join(b"/proc/self/fd/%d" % tree for tree in lower)
            fsconfig(context, FSCONFIG_SET_STRING, b"lowerdir", joined)
        for tree in lower if _lower_by != JOINED else ():
            if _lower_by == BY_FD:
                fsconfig(context, FSCONFIG_SET_FD, b"lowerdir+", None, tree)
            else:
                fsconfig(context, FSCONFIG_SET_STRING, b"lowerdir+", b"/proc/self/fd/%d" % tree)
        # With an index, writing to one name of a file that has several in the layers changes all of them, and
        # files made one to save space are no links of each other (overlayfs.rst, "Non-standard behavior").
        fsconfig(context, FSCONFIG_SET_STRING, b"index", b"off")
        if root.get("to_layer"):
            # What these leave in the upper layer refers to what is below, and some kernels have them on.
            for key in (b"redirect_dir", b"metacopy"):
                fsconfig(context, FSCONFIG_SET_STRING, key, b"off")
        for key, path in ((b"upperdir", root["upper"]), (b"workdir", root["work"])):
            if path is not None:
                held.append(os.open(path, O_PATH | os.O_DIRECTORY))
                fsconfig(context, FSCONFIG_SET_STRING, key, b"/proc/self/fd/%d" % held[-1])
        fsconfig(context, FSCONFIG_CMD_CREATE)
        return fsmount(context, attributes)
    finally:
        for fd in held:
            os.close(fd)


def make_dev(base: int) -> int:
    """The fd of a detached tmpfs for /dev holding the standard nodes.

    A file system made by the host may hold working nodes; one made in a user namespace may not. Made by
    number, so that no node of an image is ever trusted (CVE-2025-31133).
    """
    owner = b"%d" % base
    options = ((b"mode", b"755"), (b"size", b"64M"), (b"uid", owner), (b"gid", owner))
    tree = make_tmpfs(options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)
    umask = os.umask(0)
    try:
        for name, device in NODES:
            os.mknod(name, 0o020666, device, dir_fd=tree)
    except OSError:
        os.close(tree)
        raise
    finally:
        os.umask(umask)
    return tree


def make_tmpfs(options: Iterable[tuple[bytes, bytes]], attributes: int) -> int:
    """The fd of a detached tmpfs with these options."""
    context = fsopen(b"tmpfs")
    try:
        for key, value in options:
            fsconfig(context, FSCONFIG_SET_STRING, key, value)
        fsconfig(context, FSCONFIG_CMD_CREATE)
        return fsmount(context, attributes)
    finally:
        os.close(context)


def attributes_of(entry: dict[str, Any]) -> int:
    """The mount attributes a mount of the request asks for; `nodev` unless it says otherwise."""
    return (
        (MOUNT_ATTR_RDONLY if entry.get("read_only") else 0)
        | (MOUNT_ATTR_NOSUID if entry.get("nosuid") else 0)
        | (MOUNT_ATTR_NODEV if entry.get("nodev", True) else 0)
        | (MOUNT_ATTR_NOEXEC if entry.get("noexec") else 0)
    )


def open_source(entry: dict[str, Any]) -> int:
    """An O_PATH fd of a bind's source; sets `directory` in the entry.

    `nofollow` refuses a source with a symbolic link anywhere in it: for sources that lie where a guest can
    write.
    """
    resolve = RESOLVE_NO_MAGICLINKS | (RESOLVE_NO_SYMLINKS if entry.get("nofollow") else 0)
    fd = openat2(AT_FDCWD, os.fsencode(entry["source"]), os.O_PATH, resolve)
    entry["directory"] = S_ISDIR(os.fstat(fd).st_mode)
    return fd


def make_bind(source: int, entry: dict[str, Any], userns: int | None, unmapped: list[str]) -> int:
    """The fd of a detached copy of the source's mount, read-only all the way down when asked.

    Plain MS_BIND | MS_RDONLY is not even read-only at the top.
    """
    recursive = bool(entry.get("recursive"))
    tree = open_tree(source, b"", AT_EMPTY_PATH | OPEN_TREE_CLONE | (AT_RECURSIVE if recursive else 0))
    try:
        if not with_idmap(tree, recursive, attributes_of(entry), userns if entry.get("idmap") else None):
            unmapped.append(entry["source"])
    except OSError:
        os.close(tree)
        raise
    return tree


def open_console(path: str, base: int) -> int:
    """The log file, open for appending, owned by the guest's root so that it may reopen /dev/stdout."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    fd = os.open(path, flags, 0o600)
    status = os.fstat(fd)
    if not S_ISREG(status.st_mode):
        os.close(fd)
        raise OSError(EINVAL, "not a regular file", path)
    if (status.st_uid, status.st_gid) != (base, base):
        os.fchown(fd, base, base)
    os.set_blocking(fd, True)
    return fd


_sealed: dict[str, int] = {}


def sealed_copy(path: str) -> int:
    """The fd of a sealed copy of a static program, made once; no user can change it (CVE-2019-5736)."""
    if path not in _sealed:
        import fcntl

        with open(path, "rb") as file:
            content = file.read()
        name = os.path.basename(path)
        try:
            fd = os.memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC)
        except OSError:  # MFD_EXEC came with 6.3
            fd = os.memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING)
        os.write(fd, content)
        fcntl.fcntl(fd, F_ADD_SEALS, F_SEALS_ALL)
        # A program that someone holds open for writing is refused by execve (ETXTBSY).
        _sealed[path] = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        os.close(fd)
    return _sealed[path]
