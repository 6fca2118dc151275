"""The host's side of a server's mounts: detached mounts, made with the host's rights, for the child to
attach.

A user namespace may not create them itself. All paths here are the host's; no path of a guest is followed.
"""

from __future__ import annotations

import os
from errno import EINVAL, ENOSPC
from stat import S_ISDIR

from .sys_calls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_FD,
    FSCONFIG_SET_STRING,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    MS_REC,
    OPEN_TREE_CLONE,
    SIGKILL,
    fsconfig,
    fsmount,
    fsopen,
    mount,
    mount_setattr,
    move_mount,
    open_tree,
    set_file_user,
    setns,
    unshare,
)

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .wire import Bind, File, IdMap, Mount, Root

O_PATH = os.O_PATH | os.O_CLOEXEC
BOOT_ID = b".boot_id"  # its name in /dev
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

# How overlayfs accepts lower layers, best first: an fd each (6.13), a path each (6.7), all in one string.
BY_FD, BY_PATH, JOINED = 0, 1, 2
_lower_by = BY_FD


def probe_overlay() -> None:
    """Find out how this kernel's overlayfs accepts lower layers."""
    global _lower_by
    context, root = fsopen(b"overlay"), os.open("/", O_PATH)
    try:
        fsconfig(context, FSCONFIG_SET_FD, b"lowerdir+", None, root)
    except OSError:
        _lower_by = BY_PATH
    finally:
        os.close(context)
        os.close(root)


def layers_to_attach(root: Root) -> int:
    """The number of layers that `make_root` leaves for the child to attach, with the one that is written to
    if that is a mount of its own.
    """
    alone = root["upper"] is None and len(root["lower"]) == 1
    return 0 if alone or _lower_by != BY_FD else len(root["lower"]) + (root["disk"] is not None)


def with_idmap(tree: int, recursive: bool, attributes: int, userns: int | None) -> bool:
    """Set attributes on a detached mount, make it private, and idmap it to `userns`; False if it cannot be
    idmapped.
    """
    if userns is not None:
        try:
            mount_setattr(tree, recursive, attributes | MOUNT_ATTR_IDMAP, userns)
        except OSError as error:
            if error.errno != EINVAL:
                raise
        else:
            return True
    mount_setattr(tree, recursive, attributes)
    return userns is None


def make_root(root: Root, base: int, userns: int | None, unmapped: list[str]) -> tuple[int, list[int]]:
    """Create the detached root mount: its fd, and those of the layers it consists of.

    overlayfs writes with the credentials of whoever created the mount, and ext4 lets user 0 have the blocks
    that it reserves (mke2fs(8), -m). So it is created as host id `base`, the root of the server.

    The child attaches the layers where it detaches the host's mounts. Closing a mount that was never attached
    waits for an RCU grace period; that way one wait serves for all. Paths of lower layers that cannot be
    idmapped are added to `unmapped`.
    """
    attributes = MOUNT_ATTR_NODEV  # the child makes it read-only after creating absent mount points
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
        layers = trees[:]
        if root["disk"] is not None:
            trees.append(os.open(root["disk"], O_PATH | os.O_DIRECTORY))
        if _lower_by == BY_FD:
            return _overlay(layers, root, base, attributes), trees
        made = _overlay_of_attached(trees, layers, root, base, attributes)
    except OSError:
        for tree in trees:
            os.close(tree)
        raise
    for tree in trees:
        os.close(tree)
    return made, []


def _overlay_of_attached(trees: list[int], layers: list[int], root: Root, base: int, attributes: int) -> int:
    """As `_overlay`, for kernels that accept layers by path only: with all `trees` attached in a temporary
    namespace.
    """
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
            return _overlay(layers, root, base, attributes)
        except OSError as error:
            # An unknown option; some kernels only report it when the mount is created.
            if error.errno != EINVAL or _lower_by == JOINED:
                raise
        _lower_by = JOINED
        return _overlay(layers, root, base, attributes)
    finally:
        setns(home, CLONE_NEWNS)
        os.close(home)


def _overlay(lower: list[int], root: Root, base: int, attributes: int) -> int:
    """Mount an overlay of the lower trees, topmost first; by fd, so that nothing in a path is parsed."""
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
        # With an index, a write to one hard link of a file in the layers shows in the others too, but dedupe
        # has linked files that are independent of each other (overlayfs.rst, "Non-standard behavior").
        fsconfig(context, FSCONFIG_SET_STRING, b"index", b"off")
        if root["to_layer"]:
            # Both are on by default in some kernels, and make the upper layer refer to the layers below it.
            for option in (b"redirect_dir", b"metacopy"):
                fsconfig(context, FSCONFIG_SET_STRING, option, b"off")
        for key, path in ((b"upperdir", root["upper"]), (b"workdir", root["work"])):
            if path is not None:
                held.append(os.open(path, O_PATH | os.O_DIRECTORY))
                fsconfig(context, FSCONFIG_SET_STRING, key, b"/proc/self/fd/%d" % held[-1])
        set_file_user(base)
        try:
            fsconfig(context, FSCONFIG_CMD_CREATE)
        finally:
            set_file_user(0)
        return fsmount(context, attributes)
    finally:
        for fd in held:
            os.close(fd)


def make_dev(base: int) -> int:
    """Create the detached tmpfs for /dev, with the standard device nodes, owned by host id `base`; its fd.

    Device nodes only work on a file system that was mounted outside the user namespace. They are created by
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


def write_file(dev: int, name: bytes, content: bytes, base: int) -> None:
    """Create a file to be mounted, owned by host id `base`, in the tmpfs of /dev for the child to bind.

    It is a hidden one there, which costs neither an inode on a disk nor a file system. It keeps its name: the
    kernel attaches nothing that was unlinked, and servers may bind it again.
    """
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444, dir_fd=dev)
    try:
        os.write(fd, content)
        os.fchown(fd, base, base)
    finally:
        os.close(fd)


def hidden(entry: File) -> bytes:
    """The name in /dev of the file of a mount."""
    return b".%s" % os.fsencode(os.path.basename(entry["target"]))


def new_boot_id() -> bytes:
    """A random UUID, as the kernel shows one that it chose when it booted; random(4), RFC 9562 version 4."""
    number = int.from_bytes(os.urandom(16), "big")
    number = number & ~(0xF << 76 | 3 << 62) | 4 << 76 | 2 << 62
    digits = b"%032x" % number
    return b"-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])) + b"\n"


def make_tmpfs(options: Iterable[tuple[bytes, bytes]], attributes: int) -> int:
    """Create a detached tmpfs with these options; its fd."""
    context = fsopen(b"tmpfs")
    try:
        for key, value in options:
            fsconfig(context, FSCONFIG_SET_STRING, key, value)
        fsconfig(context, FSCONFIG_CMD_CREATE)
        return fsmount(context, attributes)
    finally:
        os.close(context)


def attributes_of(entry: Mount) -> int:
    """The attributes of a mount of the request; mount_setattr(2)."""
    return (
        (MOUNT_ATTR_RDONLY if entry["read_only"] else 0)
        | (MOUNT_ATTR_NOSUID if entry["nosuid"] else 0)
        | (MOUNT_ATTR_NODEV if entry["nodev"] else 0)
    )


def open_source(entry: Bind) -> int:
    """An O_PATH fd of a bind's source, which the client has opened safely and holds open."""
    return os.open(entry["source"], O_PATH)


def is_directory(fd: int) -> bool:
    """Whether an fd stands for a directory."""
    return S_ISDIR(os.fstat(fd).st_mode)


def make_bind(source: int, entry: Bind, userns: int | None, ids: IdMap | None, unmapped: list[str]) -> int:
    """Create a detached bind of the source with the entry's attributes, which apply to its submounts too; its
    fd.

    mount(2) with MS_BIND | MS_RDONLY would ignore the latter flag. `userns` is that of the guest, `ids` its
    range. A source that cannot be idmapped is added to `unmapped`. One that is a detached mount already is
    used itself, as Linux before 6.15 does not copy those.
    """
    recursive = entry["recursive"]
    clone = 0 if entry.get("tree") else OPEN_TREE_CLONE | (AT_RECURSIVE if recursive else 0)
    tree = open_tree(source, b"", AT_EMPTY_PATH | clone)
    owned = None
    try:
        if ids and entry["owner"]:
            owned = owner_userns(ids, *entry["owner"])
        mapped = userns if entry["idmap"] else owned
        if not with_idmap(tree, recursive, attributes_of(entry), mapped):
            unmapped.append(entry["source"])
    except OSError:
        os.close(tree)
        raise
    finally:
        if owned is not None:
            os.close(owned)
    return tree


def owner_userns(ids: IdMap, uid: int, gid: int) -> int | None:
    """The fd of a user namespace for an idmapped mount in which these ids of the host are the guest's root,
    and the other ids of the guest's range are stored as they are; None if both ids are in that range.

    Files of all other ids belong to nobody. A short-lived child makes the namespace, since only its parent
    has the privilege to write such a map; user_namespaces(7).
    """
    base, size = ids["base"], ids["size"]
    if uid in range(base, base + size) and gid in range(base, base + size):
        return None
    child_end, end = os.pipe2(os.O_CLOEXEC)
    ready, ready_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            unshare(CLONE_NEWUSER)
            os.write(ready_end, b".")
            os.close(end)
            os.read(child_end, 1)  # until our parent has the namespace, or is dead
        finally:
            os._exit(0)
    try:
        os.close(ready_end)
        if not os.read(ready, 1):
            raise OSError(ENOSPC, "no user namespace: user.max_user_namespaces?")
        for name, own in (("uid_map", uid), ("gid_map", gid)):
            at_root = base if own in range(base, base + size) else own
            write(
                f"/proc/{pid}/{name}", b"%d %d 1\n%d %d %d\n" % (at_root, base, base + 1, base + 1, size - 1)
            )
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(pid, SIGKILL)
        os.waitpid(pid, 0)
        for fd in (child_end, end, ready):
            os.close(fd)


def write(path: str, content: bytes) -> None:
    """Write a file of /proc by one write(2)."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)
