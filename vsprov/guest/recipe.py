"""What a child does between clone and execve, as lists of system calls.

A server's child has its end of the channel as fd 3, its reaper's program as fd 4; 5 becomes the place the
root is mounted at, from 6 on come the mounts the host has made: the root, what it was made from, /dev, the
binds. Whatever else is opened takes the next fd and is closed again, so that every fd is foreseen; a call
that returns another one fails.
"""

from __future__ import annotations

import os
from errno import ENOENT, ENOTDIR
from struct import pack

from .confine import CHANNEL, Recipe, add_part, ask, write_confinement, write_execution
from .layers import attributes_of, layers_to_attach
from .places import note_mount, note_place
from .program import EMPTY, Program, how
from .sys_calls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    CAP_SYS_ADMIN,
    CLONE_NEWCGROUP,
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_STRING,
    FSMOUNT_CLOEXEC,
    FSOPEN_CLOEXEC,
    LARGEST_FD,
    MNT_DETACH,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    PR_SET_DUMPABLE,
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    SIG_SETMASK,
)

TYPE_CHECKING = False  # importing typing would double the heap every child copies
if TYPE_CHECKING:
    from typing import Any

    from .confine import Ids

PLACE, FIRST_MOUNT = 5, 6
PIDFD, TERMINAL = 4, 5
FDS_PER_MESSAGE = 200
PRIVATE = MS_NOSUID | MS_NODEV | MS_NOEXEC
AF_INET, SOCK_DGRAM, MSG_CMSG_CLOEXEC, SIOCSIFFLAGS, IFF_UP = 2, 2, 0x40000000, 0x8914, 1
TIOCSCTTY = 0x540E
READ_ONLY = pack("4Q", MOUNT_ATTR_RDONLY, 0, 0, 0)  # struct mount_attr

# Inside the root, whatever links the image holds; a component itself and no link; an existing directory.
ANYWHERE = how(os.O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
PLAIN = how(os.O_PATH | os.O_NOFOLLOW, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
PLAIN_DIRECTORY = how(os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)


def write_server(p: Recipe, spawn: dict[str, Any], console: int, ids: Ids | None) -> None:
    """Everything a server's first process does; `console`: an fd or -1; `ids`: None to ask for them later.

    Of binds, `directory` tells what their source is.
    """
    root = spawn["root"]
    layers = layers_to_attach(root)
    bind = FIRST_MOUNT + 2 + layers
    free = bind + sum(entry["type"] == "bind" for entry in spawn["mounts"])
    p.step = "console"
    if console >= 0:
        p.call("dup3", console, 1, 0)
        p.call("dup3", console, 2, 0)
    add_part(p, "begin", _begin)
    for group in spawn["cgroup"]["attach"]:
        p.step = f"cgroup {group}"
        p.write_file(PLACE, f"{group}/cgroup.procs", b"0")
    p.step, place = "mount root", root["mount_at"]
    p.call(
        "openat",
        AT_FDCWD,
        os.fsencode(place),
        os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC,
        0,
        want=PLACE,
        path=place,
    )
    _receive(p, free - FIRST_MOUNT)
    mapped = spawn["id_map"] is not None
    # The kernel lets only the owner of a network namespace mount its /sys and change its links.
    network = not spawn.get("host_network")
    add_part(p, ("namespaces", mapped, network, free), lambda q: _namespaces(q, mapped, network, free))
    p.step, hostname = "hostname", os.fsencode(spawn["hostname"])
    p.call("sethostname", hostname, len(hostname), path=spawn["hostname"])
    add_part(p, ("root", layers, network, free), lambda q: _root(q, layers, network, free))
    if mapped and CAP_SYS_ADMIN not in spawn["capabilities"]:
        add_part(p, ("alone", free), lambda q: _forbid_user_namespaces(q, free))
    dev, silent = FIRST_MOUNT + 1 + layers, console < 0
    groups = network and spawn["cgroup"]["payload"] is not None
    add_part(p, ("dev", dev, free, groups), lambda q: _dev(q, dev, free, groups))
    add_part(p, ("stdin", silent, dev, free), lambda q: _stdin(q, silent, dev, free))
    # Before the manifest's mounts: what these are made over, the server may have chosen.
    masks, read_only = tuple(spawn["masks"]), tuple(spawn["read_only_paths"])
    if len(masks) + len(read_only) < 100:
        add_part(p, ("hide", masks, read_only, dev, free), lambda q: _hide(q, masks, read_only, dev, free))
    else:
        _hide(p, masks, read_only, dev, free)
    note_mount(p, FIRST_MOUNT)
    note_mount(p, dev, b"shm")
    for entry in spawn["mounts"]:
        p.step = f"mount {entry['target']}"
        if entry["type"] == "bind":
            _attach(p, bind, free, entry, entry["directory"])
            bind += 1
        else:
            _tmpfs(p, free, entry)
    if root["read_only"]:
        p.step = "make the root read-only"
        p.call("mount_setattr", FIRST_MOUNT, EMPTY, AT_EMPTY_PATH, READ_ONLY, len(READ_ONLY))
    if ids is None:
        p.step = f"user {spawn['user']}"
        ask(p, b"u")
    write_confinement(p, spawn, free, ids or (0, 0, []))
    p.step = "gate"
    ask(p, b"r")
    write_execution(p, spawn)


def _begin(p: Program) -> None:
    p.step = "start"
    p.call("close_range", PLACE, LARGEST_FD, 0)
    p.call("rt_sigprocmask", SIG_SETMASK, bytes(8), None, 8)
    p.call("setsid")


def _receive(p: Program, count: int) -> None:
    """Receive so many fds."""
    p.step = "wait for the host"
    text = p.memory.text
    vector = text(pack("2Q", text(bytes(1)), 1))
    while count > 0:
        space = 16 + 8 * ((min(count, FDS_PER_MESSAGE) + 1) // 2)  # CMSG_SPACE
        header = pack("7Q", 0, 0, vector, 1, text(bytes(space)), space, 0)
        p.call("recvmsg", CHANNEL, header, MSG_CMSG_CLOEXEC, want=1)
        count -= FDS_PER_MESSAGE


def _namespaces(p: Program, mapped: bool, network: bool, free: int) -> None:
    """Become the root of the user namespace and finish the others."""
    p.step = "user namespace"
    if mapped:
        p.call("setresgid", 0, 0, 0)
        p.call("setresuid", 0, 0, 0)
        p.call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)  # with fs.suid_dumpable = 1 that has changed it
    p.call("setgroups", 0, None)
    p.step = "cgroup namespace"
    p.call("unshare", CLONE_NEWCGROUP)
    if not network:
        return
    p.step = "loopback"
    p.call("socket", AF_INET, SOCK_DGRAM | os.O_CLOEXEC, 0, want=free)
    p.call("ioctl", free, SIOCSIFFLAGS, pack("16sH22x", b"lo", IFF_UP))
    p.call("close", free)


def _root(p: Program, layers: int, network: bool, free: int) -> None:
    """Make the first mount the root, with /proc and /sys, and drop the host's mounts.

    /proc and /sys come before the drop: the kernel gives a user namespace new ones only while it still sees
    the old.
    """
    p.step = "mount root"
    p.call("mount", EMPTY, b"/", None, MS_REC | MS_PRIVATE, None, path="/")
    for layer in range(FIRST_MOUNT + 1, FIRST_MOUNT + 1 + layers):  # where they go with the host's mounts
        p.move_mount(layer, PLACE)
    p.move_mount(FIRST_MOUNT, PLACE)
    p.call("fchdir", FIRST_MOUNT)
    kinds = ((b"proc", b"proc", PRIVATE), (b"sys", b"sysfs", PRIVATE | MS_RDONLY))
    for name, kind, flags in kinds if network else kinds[:1]:
        p.step = f"mount /{os.fsdecode(name)}"
        _plain_directory(p, name, free)
        p.call("fchdir", free)
        p.call("close", free)
        p.mount(kind, b".", flags)
        p.call("fchdir", FIRST_MOUNT)
    p.step = "pivot_root"
    p.call("pivot_root", b".", b".")
    p.call("umount2", b".", MNT_DETACH)
    p.call("chdir", b"/")


def _forbid_user_namespaces(p: Program, free: int) -> None:
    """No user namespace below the server's, in which its users would have all capabilities (CVE-2024-1086).

    The limit is each user namespace's own (namespaces(7), /proc/sys/user): ours must be the server's by now.
    """
    p.step, path, content = "forbid user namespaces", "/proc/sys/user/max_user_namespaces", b"0\n"
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    p.call("openat", AT_FDCWD, os.fsencode(path), flags, 0, want=free, on=((ENOENT, 3),), path=path)
    p.call("write", free, content, len(content), want=len(content), path=path)
    p.call("close", free)


def _plain_directory(p: Program, name: bytes, fd: int) -> None:
    """Open a directory of the working directory, made if absent; a symbolic link there is refused."""
    p.open_inside(fd, name, PLAIN_DIRECTORY, on=((ENOENT, 1),), skip=3)
    p.call("mkdirat", AT_FDCWD, name, 0o755, path=os.fsdecode(name))
    p.open_inside(fd, name, PLAIN_DIRECTORY)


def _dev(p: Program, tree: int, free: int, cgroup: bool) -> None:
    """Attach the tmpfs of device nodes, with the usual links and mounts; mount the cgroup file system."""
    p.step = "mount /dev"
    _plain_directory(p, b"dev", free)
    p.move_mount(tree, free)
    p.call("close", free)
    p.call("fchdir", tree)
    p.call("umask", 0)
    for content, name in (
        (b"/proc/self/fd", b"fd"),
        (b"/proc/self/fd/0", b"stdin"),
        (b"/proc/self/fd/1", b"stdout"),
        (b"/proc/self/fd/2", b"stderr"),
        (b"pts/ptmx", b"ptmx"),
    ):
        p.call("symlinkat", content, AT_FDCWD, name)
    for name, kind, flags, options in (
        (b"pts", b"devpts", MS_NOSUID | MS_NOEXEC, b"newinstance,ptmxmode=0666,mode=0620,gid=5,max=1024"),
        (b"shm", b"tmpfs", PRIVATE, b"mode=1777,size=64M"),
        (b"mqueue", b"mqueue", PRIVATE, None),
    ):
        p.step = f"mount /dev/{os.fsdecode(name)}"
        p.call("mkdirat", AT_FDCWD, name, 0o755)
        p.mount(kind, name, flags, options)
    p.call("chdir", b"/")
    p.call("umask", 0o022)
    if cgroup:
        p.step = "mount /sys/fs/cgroup"
        p.mount(b"cgroup2", b"/sys/fs/cgroup", PRIVATE)


def _attach(p: Recipe, tree: int, fd: int, entry: dict[str, Any], directory: bool) -> None:
    """Attach a detached mount inside the root, whatever links the image holds; make an absent mount point.

    It is made step by step from "/"; a dangling link in the way is an error, never followed
    (CVE-2024-45310). A missing one that is named with ".." is not made.
    """
    target = os.fsencode(entry["target"])
    parts = [name for name in target.split(b"/") if name not in (b"", b".")]
    if not entry.get("create", True) or b".." in parts:
        p.open_inside(fd, target, ANYWHERE)
    else:
        start = len(p.calls)
        p.open_inside(fd, target, ANYWHERE, on=((ENOENT, 1),))
        p.open_inside(fd, b"/", ANYWHERE)
        for depth, name in enumerate(parts, 1):
            path = b"/".join(parts[:depth])
            told = "/" + os.fsdecode(path)
            if directory or depth < len(parts):
                p.open_inside(fd + 1, path, ANYWHERE, on=((ENOENT, 1),), skip=3)
                p.call("mkdirat", fd, name, 0o755, path=told)
            else:
                p.open_inside(fd + 1, path, ANYWHERE, on=((ENOENT, 1),), skip=4)
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
                p.call("openat", fd, name, flags, 0o644, want=fd + 1, path=told)
                p.call("close", fd + 1)
            p.open_inside(fd + 1, name, PLAIN, base=fd)
            p.call("dup3", fd + 1, fd, os.O_CLOEXEC)
            p.call("close", fd + 1)
        p.skip_to_end(start)
    note_place(p, fd, entry["target"])
    note_mount(p, tree)
    p.move_mount(tree, fd)
    p.call("close", fd)


def _tmpfs(p: Recipe, fd: int, entry: dict[str, Any]) -> None:
    """Mount a new tmpfs."""
    options = [(b"mode", b"%o" % entry.get("mode", 0o1777))]
    if entry.get("size") is not None:
        options.append((b"size", b"%d" % entry["size"]))
    p.call("fsopen", b"tmpfs", FSOPEN_CLOEXEC, want=fd)
    for key, value in options:
        p.call("fsconfig", fd, FSCONFIG_SET_STRING, key, value, 0)
    p.call("fsconfig", fd, FSCONFIG_CMD_CREATE, None, None, 0)
    p.call("fsmount", fd, FSMOUNT_CLOEXEC, attributes_of(entry), want=fd + 1)
    p.call("dup3", fd + 1, fd, os.O_CLOEXEC)
    p.call("close", fd + 1)
    _attach(p, fd, fd + 1, entry, True)
    p.call("close", fd)


def _hide(p: Program, masks: tuple[str, ...], read_only: tuple[str, ...], dev: int, fd: int) -> None:
    """Put /dev/null over files and an empty directory over directories; bind others read-only on themselves.

    Those that do not exist are passed over. `dev`: the tree /dev was made of, for no path may tell which
    null device is meant (CVE-2025-31133).
    """
    absent = (ENOENT, ENOTDIR)
    p.step = "mask"
    p.open_inside(fd, b"null", PLAIN, base=dev)
    null, fd = b"/proc/self/fd/%d" % fd, fd + 1
    for path in masks:
        p.step = f"mask {path}"
        p.open_inside(fd, os.fsencode(path), ANYWHERE, on=[(number, 6) for number in absent])
        p.call("mount", null, b"/proc/self/fd/%d" % fd, None, MS_BIND, None, on=((ENOTDIR, 1),), skip=4)
        p.call("fchdir", fd)
        p.mount(b"tmpfs", b".", PRIVATE | MS_RDONLY, b"mode=555,size=4k,nr_inodes=2")
        p.call("chdir", b"/")
        p.call("close", fd)
    for path in read_only:
        p.step = f"make read-only {path}"
        p.open_inside(fd, os.fsencode(path), ANYWHERE, on=[(number, 6) for number in absent])
        flags = AT_EMPTY_PATH | AT_RECURSIVE
        p.call("open_tree", fd, EMPTY, flags | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC, want=fd + 1)
        p.call("mount_setattr", fd + 1, EMPTY, flags, READ_ONLY, len(READ_ONLY))
        p.move_mount(fd + 1, fd)
        p.call("close", fd + 1)
        p.call("close", fd)
    p.call("close", fd - 1)


def _stdin(p: Program, output_too: bool, dev: int, fd: int) -> None:
    """Standard input from /dev/null, and with no console the output to it."""
    p.step = "console"
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    p.call("openat", dev, b"null", flags, 0, want=fd, path="/dev/null")
    for number in (0, 1, 2) if output_too else (0,):
        p.call("dup3", fd, number, 0)
    p.call("close", fd)


def write_command(
    p: Recipe, spec: dict[str, Any], namespaces: int, raised: list[tuple[int, int, int]], ids: Ids
) -> None:
    """All that a command does which joins a running server; `raised`: hard limits to raise first."""
    free = TERMINAL + 1 if spec["tty"] else TERMINAL
    p.call("close_range", free, LARGEST_FD, 0)
    p.call("setsid")
    for group in spec["cgroup"]["attach"]:
        p.step = f"cgroup {group}"
        p.write_file(free, f"{group}/cgroup.procs", b"0")
    for number, soft, hard in raised:
        p.step = f"rlimit {number}"
        p.call("prlimit64", 0, number, pack("2q", soft, hard), None)
    if spec.get("oom_score_adj") is not None:
        p.step = "oom_score_adj"
        p.write_file(free, "/proc/self/oom_score_adj", b"%d" % spec["oom_score_adj"])
    p.step = "join"
    p.call("setns", PIDFD, namespaces)
    p.call("setresgid", 0, 0, 0)
    p.call("setresuid", 0, 0, 0)
    p.call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    p.call("setgroups", 0, None)
    p.call("chdir", b"/")
    if spec["tty"]:
        p.step = "terminal"
        for number in (0, 1, 2):
            p.call("dup3", TERMINAL, number, 0)
        p.call("ioctl", 0, TIOCSCTTY, 0)
    write_confinement(p, spec, free, ids)
    p.step = "start"
    ask(p, b"r")
    write_execution(p, spec)
