"""Run a command in a running server: join its namespaces and cgroups, confine the command, report how it
ends.

`wire` describes the messages. With a terminal the client gets the master of a pty of the server's own;
without, the command's standard input, output and error are pipes that come with the request.
"""

from __future__ import annotations

import os
import resource
import select
from _socket import (
    AF_UNIX,
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    MSG_NOSIGNAL,
    SCM_RIGHTS,
    SOCK_CLOEXEC,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
    socketpair,
)
from errno import EACCES, ENXIO, ESRCH
from stat import S_ISCHR, S_ISFIFO
from struct import pack, unpack
from time import monotonic

from .child import program
from .child.command import FIRST_STREAM, LAST_STREAM, PIDFD, write_command
from .child.program import CHANNEL, GO
from .inherited import reset_inherited
from .mounts import O_PATH
from .report import at, describe, exited, failed
from .sys_calls import (
    CLONE_INTO_CGROUP,
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    PR_SET_DUMPABLE,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_SYMLINKS,
    SIGKILL,
    close_others,
    ioctl,
    move_high,
    name_process,
    open_peer,
    openat2,
    prctl,
    reset_signals,
    set_signal_mask,
    setns,
)
from .syscall_list import start
from .users import home, known, resolve
from .wire import decode, encode

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from typing import Any

    from .child.program import ChildProgram
    from .wire import Enter, Event

NAMESPACES = {
    "user": CLONE_NEWUSER,
    "mnt": CLONE_NEWNS,
    "net": CLONE_NEWNET,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "time": CLONE_NEWTIME,
    "cgroup": CLONE_NEWCGROUP,
}
SIGHUP, SIGINT, SIGTERM = 1, 2, 15
SECONDS_TO_END = 2.0
TIOCSPTLCK, TIOCSWINSZ = 0x40045431, 0x5414


def main(fd: int, in_python: bool) -> None:
    """Serve one request; this program ends with its command, and the command with its client."""
    prctl(PR_SET_DUMPABLE, 0)
    name_process(b"vsprov-enter")
    reset_signals()
    set_signal_mask()
    close_others(fd)
    client = Client(socket(AF_UNIX, SOCK_STREAM, 0, move_high(fd, LAST_STREAM + 1)))
    null = move_high(os.open("/dev/null", os.O_RDONLY), LAST_STREAM + 1)
    for reserved in range(CHANNEL, LAST_STREAM + 1):
        os.dup2(null, reserved, False)
    request = client.read_request()
    if request is None:
        return
    try:
        code = run(client, request, in_python)
    except Exception as error:
        client.send(failed(0, describe(error)))
    else:
        client.send(exited(0, code))


class Client:
    """The other end of the control socket."""

    def __init__(self, control: socket) -> None:
        self.control = control
        self.incoming = bytearray()
        self.fds: list[int] = []  # that came with messages

    def read_request(self) -> Enter | None:
        """Wait for the request; None if the client closes the socket without one."""
        while (messages := self.read()) is not None:
            if messages:
                request: Enter = messages[0]
                return request
        return None

    def read(self) -> list[Any] | None:
        """The messages completed by what can be read now; None at the end of the client."""
        try:
            part, ancillary, _, _ = self.control.recvmsg(1 << 16, CMSG_SPACE(3 * 4), MSG_CMSG_CLOEXEC)
        except ConnectionResetError:  # it was killed before it had read an event
            return None
        if not part:
            return None
        for _level, _kind, content in ancillary:
            self.fds += unpack(f"{len(content) // 4}i", content)
        self.incoming.extend(part)
        return decode(self.incoming)

    def send(self, event: Event, fd: int | None = None) -> None:
        """Write an event, with an fd if one is given; a client that has gone is no error."""
        ancillary = [] if fd is None else [(SOL_SOCKET, SCM_RIGHTS, pack("i", fd))]
        try:
            self.control.sendmsg([encode(event)], ancillary, MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            return


def run(client: Client, request: Enter, in_python: bool) -> int:
    """Run the command in the server's namespaces and cgroups: its exit code, -N if signal N ended it."""
    at("inherited")
    reset_inherited()
    at("join")
    pid = request["pid"]
    pidfd = open_pidfd(pid, request["start"])
    root = os.open(f"/proc/{pid}/root", O_PATH | os.O_DIRECTORY)
    namespaces = different_namespaces(pid)
    if request["own_root"]:
        namespaces &= ~CLONE_NEWCGROUP
    base = first_id(pid)
    if ended(pidfd):  # if not, everything above was read from that very process
        raise OSError(ESRCH, "the server's first process has ended", str(pid))
    at("user " + request["user"])
    ids = known(request["user"]) or resolve(request["user"], root)
    if request["home"]:
        request["env"].setdefault("HOME", home(request["user"], root))
    connect(client, request, root, base + ids[0])
    at("cgroup")
    cgroup = os.open(request["cgroup"]["payload"], O_PATH | os.O_DIRECTORY)
    at("start")
    calls = program.for_command(request)
    write_command(calls, request, namespaces, raised_limits(request["rlimits"]), ids)
    calls.finish()
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    os.dup2(theirs.fileno(), CHANNEL, False)
    os.dup2(pidfd, PIDFD, False)
    theirs.close()
    at("join")
    setns(pidfd, CLONE_NEWPID)  # for our children
    child = start(CLONE_INTO_CGROUP, cgroup, calls.memory, in_python, own=True)
    for fd in (CHANNEL, *range(FIRST_STREAM, LAST_STREAM + 1)):
        os.close(fd)  # the ends of pipes are the command's alone
    code = wait(client, ours, child, calls, request["cwd"])
    failure = calls.failure()
    if failure:
        step, number, path, message = failure
        at(step)
        raise OSError(number, message, path)
    return code


def connect(client: Client, request: Enter, root: int, owner: int) -> None:
    """Place the command's streams at their fds: those of the client, or a terminal of the server at `root`.

    `owner` is the user of the command, as the host sees it.
    """
    if request["tty"]:
        at("terminal")
        master, slave = open_terminal(root, request["rows"], request["cols"], owner)
        os.dup2(slave, FIRST_STREAM, False)
        client.send({"event": "terminal", "id": 0}, master)
        os.close(master)
        os.close(slave)
        return
    at("streams")
    for number, fd in enumerate(client.fds, FIRST_STREAM):
        if S_ISFIFO(os.fstat(fd).st_mode):  # what else there is may have a name on the host
            os.fchown(fd, owner, -1)  # so that it may open /dev/stdout
        os.dup2(fd, number, False)
        os.close(fd)


def open_pidfd(pid: int, start_time: int) -> int:
    """A pidfd of the process with this pid and start time; the pid alone may have been reused."""
    pidfd = os.pidfd_open(pid)
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    if int(fields[19]) != start_time:
        raise OSError(ESRCH, "the server's first process has ended", str(pid))
    return pidfd


def ended(pidfd: int) -> bool:
    """Whether the process of a pidfd has ended."""
    return bool(select.select([pidfd], [], [], 0)[0])


def different_namespaces(pid: int) -> int:
    """The CLONE_ flags of the namespaces in which a process differs from us, without its pid namespace."""
    flags = 0
    for name, flag in NAMESPACES.items():
        try:
            theirs = os.stat(f"/proc/{pid}/ns/{name}")
        except FileNotFoundError:
            continue  # a kind that this kernel does not have
        if theirs.st_ino != os.stat(f"/proc/self/ns/{name}").st_ino:
            flags |= flag
    return flags


def first_id(pid: int) -> int:
    """The host's id of the root of a process's user namespace."""
    with open(f"/proc/{pid}/uid_map", "rb") as file:
        return int(file.read().split()[1])


def raised_limits(rlimits: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """The limits to set while the child still has the host's capabilities: hard limits above our own."""
    raised = []
    for number, _soft, hard in rlimits:
        own_soft, own_hard = resource.getrlimit(number)
        if own_hard != -1 and (hard == -1 or hard > own_hard):
            raised.append((number, own_soft, hard))
    return raised


def open_terminal(root: int, rows: int, columns: int, owner: int) -> tuple[int, int]:
    """Open a new pty of the server's own devpts: master and slave.

    The multiplexer is checked before it is opened, and the slave is opened by TIOCGPTPEER instead of a path,
    because the server may have put something else there (CVE-2025-52565).
    """
    place = openat2(root, b"/dev/pts/ptmx", os.O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)
    status = os.fstat(place)
    if not S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(5, 2):
        raise OSError(ENXIO, "not the pty multiplexer", "/dev/pts/ptmx")
    master = os.open(f"/proc/self/fd/{place}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    os.close(place)
    ioctl(master, TIOCSPTLCK, pack("i", 0))
    ioctl(master, TIOCSWINSZ, pack("4H", rows, columns, 0, 0))
    slave = open_peer(master)
    os.fchown(slave, owner, -1)
    return master, slave


def wait(client: Client, gate: socket, pid: int, calls: ChildProgram, cwd: str) -> int:
    """Open the gate of a child and wait until it ends: its exit code, -N when signal N ended it.

    Signals that the client asks for are forwarded. SIGKILL follows when the client goes away, and when a
    signal that asks the command to end has not ended it within SECONDS_TO_END: a stopped or traced process
    ignores all others.
    """
    pidfd = os.pidfd_open(pid)
    poller = select.poll()
    control = client.control.fileno()
    for fd in (pidfd, control, gate.fileno()):
        poller.register(fd, select.POLLIN)
    asked, deadline = False, None
    signals: list[int] = []
    while True:
        left = None if deadline is None else max(0, 1000 * (deadline - monotonic()))
        ready = [fd for fd, _mask in poller.poll(left)]
        if pidfd in ready:
            break
        if gate.fileno() in ready:
            if asked:  # the end of the channel: it has executed the command, or failed
                poller.unregister(gate.fileno())
                if calls.failure() is None:
                    client.send({"event": "running", "id": 0})
            elif open_gate(gate, pid, calls, cwd):
                asked = True
            else:
                poller.unregister(gate.fileno())
        if control in ready:
            messages = client.read()
            if messages is None:
                poller.unregister(control)
            for number in [SIGKILL] if messages is None else [each["number"] for each in messages]:
                signals.append(number)
                os.kill(pid, number)
                if deadline is None and asks_to_end(signals):
                    deadline = monotonic() + SECONDS_TO_END
        if not ready:
            os.kill(pid, SIGKILL)
            deadline = None
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0 and not asked and not signals:
        at("start")
        why = "the server is ending, or has no memory left"
        raise OSError(0, f"killed by signal {-code} before it could start: {why}")
    return code


def open_gate(gate: socket, pid: int, calls: ChildProgram, cwd: str) -> bool:
    """Let a child execute, unless its working directory is outside its root; False if it has died."""
    if not gate.recv(1):
        return False
    if calls.is_outside_root():
        os.kill(pid, SIGKILL)
        raise OSError(EACCES, "the working directory is outside the server's root", cwd)
    try:
        gate.send(GO, MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def asks_to_end(signals: list[int]) -> bool:
    """Whether the last of these signals leaves no doubt that the command is to end."""
    return signals[-1] in (SIGTERM, SIGHUP) or signals.count(SIGINT) > 1
