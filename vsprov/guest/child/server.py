"""The program of a server's first process, from clone to execve.

Fds: the child finds its end of the channel as 3 and its reaper as 4. It opens the directory that the root is
mounted at as 5, and receives from 6 on the mounts made by the host: the root, the layers it consists of,
/dev, the binds. Anything else it opens becomes the next fd and is closed again, so every fd is known in
advance; a call that returns another one fails.
"""

from __future__ import annotations

import os
from errno import ENOENT, ENOTDIR
from struct import pack

from ..mounts import layers_to_attach
from ..sys_calls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    CAP_SYS_ADMIN,
    CLONE_NEWCGROUP,
    LARGEST_FD,
    MNT_DETACH,
    MS_BIND,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    PR_SET_DUMPABLE,
    SIG_SETMASK,
)
from .cgroups import write_cgroups, write_systemd_cgroups
from .confinement import write_confinement, write_execution
from .declared_mounts import open_or_create, write_boot_id, write_declared_mounts
from .mount_check import record_mount
from .program import (
    ANYWHERE,
    CHANNEL,
    EMPTY,
    PLAIN,
    PLAIN_DIRECTORY,
    PRIVATE,
    READ_ONLY,
    READY,
    WHO,
    ChildProgram,
    Program,
    add_part,
)
from .system import share_mounts, write_kernel_mounts, write_terminal

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from ..wire import Guest
    from .confinement import Ids

MOUNT_AT, FIRST_MOUNT = 5, 6
FDS_PER_MESSAGE = 200
AF_INET, SOCK_DGRAM, MSG_CMSG_CLOEXEC, SIOCSIFFLAGS, IFF_UP = 2, 2, 0x40000000, 0x8914, 1
LARGEST_GROUP = (1 << 31) - 1  # that ping_group_range takes


def write_server(
    p: ChildProgram, guest: Guest, console: int, ids: Ids | None, directories: list[bool]
) -> None:
    """Everything that a server's first process does.

    `console`: the fd of its log; `ids`: None to ask the spawner for them once the root is mounted;
    `directories`: for each bind whether its source is a directory.
    """
    layers = layers_to_attach(guest["root"])
    dev = FIRST_MOUNT + 1 + layers
    free = dev + 1 + len(directories)
    _write_beginning(p, guest, console)
    _receive(p, free - FIRST_MOUNT)
    _write_namespaces(p, guest, layers, free)
    free = _write_system(p, guest, dev, free)
    # Before the declared mounts, because the server may have chosen what those are made on.
    _write_hiding(p, guest, dev, free)
    add_part(p, ("boot id", dev, free), lambda q: write_boot_id(q, dev, free))
    record_mount(p, FIRST_MOUNT)
    record_mount(p, dev, b"shm")
    write_declared_mounts(p, guest["mounts"], dev, free, directories)
    _finish_root(p, guest["cwd"], guest["root"]["read_only"], free)
    if guest["system"]:
        share_mounts(p)
    if ids is None:
        p.step = f"user {guest['user']}"
        p.ask(WHO)
    write_confinement(p, guest, free, ids or (0, 0, []))
    p.step = "gate"
    p.ask(READY)
    write_execution(p, guest, guest["reaper"])


def _write_beginning(p: ChildProgram, guest: Guest, console: int) -> None:
    """Connect the log, join the groups of cgroup v1, open the directory that the root is mounted at."""
    p.step = "console"
    p.call("dup3", console, 1, 0)
    p.call("dup3", console, 2, 0)
    add_part(p, "begin", _begin)
    for group in guest["cgroup"]["attach"]:
        p.step = f"cgroup {group}"
        p.write_file(MOUNT_AT, f"{group}/cgroup.procs", b"0")
    p.step, path = "mount root", guest["root"]["mount_at"]
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    p.call("openat", AT_FDCWD, os.fsencode(path), flags, 0, want=MOUNT_AT, path=path)


def _write_namespaces(p: ChildProgram, guest: Guest, layers: int, free: int) -> None:
    """Enter the namespaces, with the server's hostname, root and limits."""
    mapped = guest["id_map"] is not None
    # Only the owner of a network namespace may mount its /sys and configure its links.
    network = not guest["host_network"]
    add_part(p, ("namespaces", mapped, network, free), lambda q: _namespaces(q, mapped, network, free))
    p.step, hostname = "hostname", os.fsencode(guest["hostname"])
    p.call("sethostname", hostname, len(hostname), path=guest["hostname"])
    add_part(p, ("root", layers, network, free), lambda q: _root(q, layers, network, free))
    if mapped and CAP_SYS_ADMIN not in guest["capabilities"]:
        add_part(p, ("alone", free), lambda q: _forbid_user_namespaces(q, free))
    if network:
        last = guest["id_map"]["size"] - 1 if guest["id_map"] else LARGEST_GROUP
        add_part(p, ("ping", last, free), lambda q: _allow_ping(q, last, free))


def _write_system(p: ChildProgram, guest: Guest, dev: int, free: int) -> int:
    """Mount /dev and what else of the kernel a server has, and connect its standard input; the next free fd,
    as a terminal stays open.
    """
    shm, network = guest["shm_size"], not guest["host_network"]
    add_part(p, ("dev", dev, free, shm), lambda q: _dev(q, dev, free, shm))
    if guest["system"]:
        may = CAP_SYS_ADMIN in guest["capabilities"]
        add_part(p, ("kernel", dev, may, network), lambda q: write_kernel_mounts(q, dev, may, network))
    if network:
        v1 = tuple((tuple(each["controllers"]), each["own"]) for each in guest["hierarchies"])
        if guest["systemd"] and v1:
            p.cgroups = len(p.calls)
        write = write_systemd_cgroups if guest["systemd"] else write_cgroups
        add_part(p, ("cgroup", v1, guest["systemd"]), lambda q: write(q, v1))
    if guest["system"]:
        p.terminal = free
        add_part(p, ("terminal", dev, free), lambda q: write_terminal(q, dev, p.terminal))
        return free + 1
    add_part(p, ("stdin", dev, free), lambda q: _stdin(q, dev, free))
    return free


def _write_hiding(p: ChildProgram, guest: Guest, dev: int, free: int) -> None:
    """Mask files of the kernel and make others read-only."""
    masks, read_only = tuple(guest["masks"]), tuple(guest["read_only_paths"])
    if len(masks) + len(read_only) < 100:
        add_part(p, ("hide", masks, read_only, dev, free), lambda q: _hide(q, masks, read_only, dev, free))
    else:
        _hide(p, masks, read_only, dev, free)


def _finish_root(p: ChildProgram, cwd: str, read_only: bool, free: int) -> None:
    """Create the working directory, and make the root read-only if that is wanted."""
    if cwd.strip("/"):
        p.step = f"working directory {cwd}"
        open_or_create(p, free, cwd, True)
        p.call("close", free)
    if read_only:
        p.step = "make the root read-only"
        p.call("mount_setattr", FIRST_MOUNT, EMPTY, AT_EMPTY_PATH, READ_ONLY, len(READ_ONLY))


def _begin(p: Program) -> None:
    p.step = "start"
    p.call("close_range", MOUNT_AT, LARGEST_FD, 0)
    p.call("rt_sigprocmask", SIG_SETMASK, bytes(8), None, 8)
    p.call("setsid")


def _receive(p: Program, count: int) -> None:
    """Receive `count` fds from the spawner."""
    p.step = "wait for the host"
    text = p.memory.text
    vector = text(pack("2Q", text(bytes(1)), 1))
    while count > 0:
        space = 16 + 8 * ((min(count, FDS_PER_MESSAGE) + 1) // 2)  # CMSG_SPACE
        header = pack("7Q", 0, 0, vector, 1, text(bytes(space)), space, 0)
        p.call("recvmsg", CHANNEL, header, MSG_CMSG_CLOEXEC, want=1)
        count -= FDS_PER_MESSAGE


def _namespaces(p: Program, mapped: bool, network: bool, free: int) -> None:
    """Become root of the user namespace, enter a cgroup namespace, bring up the loopback device."""
    p.step = "user namespace"
    if mapped:
        p.call("setresgid", 0, 0, 0)
        p.call("setresuid", 0, 0, 0)
        p.call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)  # setresuid sets it where fs.suid_dumpable is 1
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
    """Make the first mount the root, with /proc and /sys, and detach the host's mounts.

    /proc and /sys come first: the kernel only lets a user namespace mount new ones while it still sees the
    host's.
    """
    p.step = "mount root"
    p.call("mount", EMPTY, b"/", None, MS_REC | MS_PRIVATE, None, path="/")
    for layer in range(FIRST_MOUNT + 1, FIRST_MOUNT + 1 + layers):  # to be detached with the host's mounts
        p.move_mount(layer, MOUNT_AT)
    p.move_mount(FIRST_MOUNT, MOUNT_AT)
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
    """Allow no user namespace below the server's: its users would have all capabilities there
    (CVE-2024-1086).

    Every user namespace has a limit of its own (namespaces(7), /proc/sys/user), so this comes after the child
    has entered the server's.
    """
    p.step = "forbid user namespaces"
    _write_sysctl(p, "/proc/sys/user/max_user_namespaces", b"0\n", free)


def _allow_ping(p: Program, last: int, free: int) -> None:
    """Let all groups of the server send echo requests, and nothing else, without NET_RAW (icmp(7)).

    A new network namespace allows it to no group.
    """
    p.step = "allow ping"
    _write_sysctl(p, "/proc/sys/net/ipv4/ping_group_range", b"0 %d\n" % last, free)


def _write_sysctl(p: Program, path: str, content: bytes, free: int) -> None:
    """Write a file that exists only if the kernel has what it controls."""
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    p.call("openat", AT_FDCWD, os.fsencode(path), flags, 0, want=free, on=((ENOENT, 3),), path=path)
    p.call("write", free, content, len(content), want=len(content), path=path)
    p.call("close", free)


def _plain_directory(p: Program, name: bytes, fd: int) -> None:
    """Open a directory below the working directory, created if absent; a symbolic link is refused."""
    p.open_inside(fd, name, PLAIN_DIRECTORY, on=((ENOENT, 1),), skip=3)
    p.call("mkdirat", AT_FDCWD, name, 0o755, path=os.fsdecode(name))
    p.open_inside(fd, name, PLAIN_DIRECTORY)


def _dev(p: Program, tree: int, free: int, shm: int | None) -> None:
    """Attach the tmpfs with the device nodes as /dev, and add the usual links and mounts."""
    shm_options = b"mode=1777" if shm is None else b"mode=1777,size=%d" % shm
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
        (b"pts", b"devpts", MS_NOSUID | MS_NOEXEC, b"newinstance,ptmxmode=0666,mode=0620,gid=5,max=256"),
        (b"shm", b"tmpfs", PRIVATE, shm_options),
        (b"mqueue", b"mqueue", PRIVATE, None),
    ):
        p.step = f"mount /dev/{os.fsdecode(name)}"
        p.call("mkdirat", AT_FDCWD, name, 0o755)
        p.mount(kind, name, flags, options)
    p.call("chdir", b"/")
    p.call("umask", 0o022)


def _stdin(p: Program, dev: int, fd: int) -> None:
    """Connect standard input to /dev/null."""
    p.step = "console"
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    p.call("openat", dev, b"null", flags, 0, want=fd, path="/dev/null")
    p.call("dup3", fd, 0, 0)
    p.call("close", fd)


def _hide(p: Program, masks: tuple[str, ...], read_only: tuple[str, ...], dev: int, fd: int) -> None:
    """Mount /dev/null over masked files and an empty directory over masked directories; make others
    read-only.

    Paths that do not exist are skipped. `dev` is the mount of /dev: a path to its null device could lead to
    something else (CVE-2025-31133).
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
