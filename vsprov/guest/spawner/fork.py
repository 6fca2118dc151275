"""Creating the first process of a guest, and what it has open from the start: its console, its reaper."""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socketpair
from errno import EINVAL
from fcntl import F_GETPIPE_SZ, F_SETPIPE_SZ, fcntl
from stat import S_ISFIFO

from ..child import program
from ..child.program import CHANNEL, REAPER
from ..child.server import write_server
from ..mounts import O_PATH
from ..report import at
from ..sys_calls import (
    CLONE_INTO_CGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    F_ADD_SEALS,
    F_SEALS_ALL,
    MFD_ALLOW_SEALING,
    MFD_CLOEXEC,
    MFD_EXEC,
)
from ..users import known
from .namespace_owner import clone_as

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from ..wire import Guest
    from .children import Child

NAMESPACES = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET
STDIN = 0  # /dev/null
CONSOLE_SIZE = 1 << 18  # bytes that a guest can write before somebody reads them; pages are charged to it


def fork(
    child: Child, guest: Guest, directories: list[bool], held: list[int], in_python: bool, own: bool
) -> None:
    """Create the process in its new namespaces and its cgroup; fds to close later are added to `held`.

    `directories`: for each bind, whether its source is one. `in_python`, `own`: as in `syscall_list.start`.
    """
    flags, base = NAMESPACES | CLONE_INTO_CGROUP, 0
    if guest["id_map"]:
        base = guest["id_map"]["base"]
        flags |= CLONE_NEWUSER
    if guest["host_network"]:
        flags &= ~CLONE_NEWNET
    if guest["reaper"] is not None:
        at("reaper")
        os.dup2(sealed_copy(guest["reaper"]), REAPER, False)
    at("console")
    console = open_console(guest["console"], base)
    held.append(console)
    at("cgroup")
    cgroup = os.open(guest["cgroup"]["payload"], O_PATH | os.O_DIRECTORY)
    held.append(cgroup)
    at("user " + guest["user"])
    ids = known(guest["user"])
    if ids and ids[0] and guest["home"] and "HOME" not in guest["env"]:
        ids = None  # to be looked up later, together with the home directory
    at("start")
    child.program = program.for_server(guest)
    write_server(child.program, guest, console, ids, directories)
    child.program.finish()
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    os.dup2(theirs.fileno(), CHANNEL, False)
    theirs.close()
    at("clone3")
    try:
        own = own or guest["own_memory"]
        pid = clone_as(base, flags, cgroup, child.program.memory, in_python, own)
    finally:
        os.dup2(STDIN, CHANNEL, False)  # only the child may hold its end open
    child.pid, child.channel = pid, ours


def open_console(path: str, base: int) -> int:
    """The FIFO for a guest's output, which is created if there is none. Every user of the guest may open it
    for writing, as /dev/stdout.

    It is open for reading too: without a reader, a write would end in SIGPIPE and an open would block; see
    fifo(7).
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        try:
            os.mkfifo(path, 0o600)
        except OSError as error:  # without the path
            raise OSError(error.errno, error.strerror, path) from None
        fd = os.open(path, flags)
    status = os.fstat(fd)
    if not S_ISFIFO(status.st_mode):
        os.close(fd)
        raise OSError(EINVAL, "not a FIFO", path)
    if (status.st_uid, status.st_gid) != (base, base):
        os.fchown(fd, base, base)
    if status.st_mode & 0o777 != 0o622:
        os.fchmod(fd, 0o622)
    if fcntl(fd, F_GETPIPE_SZ) < CONSOLE_SIZE:
        try:
            fcntl(fd, F_SETPIPE_SZ, CONSOLE_SIZE)
        except PermissionError:
            pass  # fs.pipe-max-size is less
    os.set_blocking(fd, True)
    return fd


_sealed: dict[str, int] = {}


def sealed_copy(path: str) -> int:
    """The fd of a sealed copy of a static program, made once per path; immutable (CVE-2019-5736)."""
    if path not in _sealed:
        with open(path, "rb") as file:
            content = file.read()
        name = os.path.basename(path)
        try:
            fd = os.memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC)
        except OSError:  # MFD_EXEC came with 6.3
            fd = os.memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING)
        os.write(fd, content)
        fcntl(fd, F_ADD_SEALS, F_SEALS_ALL)
        # execve refuses a program that is open for writing (ETXTBSY).
        _sealed[path] = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        os.close(fd)
    return _sealed[path]
