"""Run a command in a running server: join namespaces and cgroups, confine, execute, pass the exit code on.

The client writes one request to the socket (framed as in `loop`) and may later write {"cmd": "signal",
"number": N}. It reads {"event": "terminal"} with the pty's master as SCM_RIGHTS when it asked for a tty,
then `exited` or `failed`. Without a tty the caller's standard input, output and error are the command's.
"""

from __future__ import annotations

import os
import resource
import select
from _socket import (
    AF_UNIX,
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
from marshal import dumps, loads
from stat import S_ISCHR
from struct import pack
from time import monotonic

from .confine import CHANNEL, new_recipe
from .layers import O_PATH
from .machine import start
from .recipe import PIDFD, TERMINAL, write_command
from .report import at, describe
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
from .users import home, known, resolve

TYPE_CHECKING = False  # importing typing would double the heap every child copies
if TYPE_CHECKING:
    from typing import Any

    from .confine import Recipe

NAMESPACES = {
    "user": CLONE_NEWUSER,
    "mnt": CLONE_NEWNS,
    "net": CLONE_NEWNET,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "cgroup": CLONE_NEWCGROUP,
    "time": CLONE_NEWTIME,
}
SIGHUP, SIGINT, SIGTERM = 1, 2, 15
SECONDS_TO_END = 2.0
TIOCSPTLCK, TIOCSWINSZ = 0x40045431, 0x5414


def main(fd: int) -> None:
    """Serve one request; the command's end, or the client's, is this program's."""
    prctl(PR_SET_DUMPABLE, 0)
    name_process(b"vsprov-enter")
    reset_signals()
    set_signal_mask()
    close_others(fd)
    control = socket(AF_UNIX, SOCK_STREAM, 0, move_high(fd, TERMINAL + 1))
    nothing = move_high(os.open("/dev/null", os.O_RDONLY), TERMINAL + 1)
    for reserved in (CHANNEL, PIDFD, TERMINAL):
        os.dup2(nothing, reserved, False)
    request = read(control)
    if request is None:
        return
    try:
        code = run(control, request)
    except Exception as error:
        step, number, path, message = describe(error)
        send(control, {"event": "failed", "step": step, "errno": number, "path": path, "message": message})
    else:
        send(control, {"event": "exited", "code": code})


def read(control: socket) -> dict[str, Any] | None:
    """The next message of the client; None at its end."""
    content = b""
    length = 4
    while len(content) < length:
        part = control.recv(length - len(content))
        if not part:
            return None
        content += part
        if length == 4 == len(content):
            length += int.from_bytes(content, "little")
    message: dict[str, Any] = loads(content[4:])
    return message


def send(control: socket, event: dict[str, Any], fd: int | None = None) -> None:
    """Write an event, with an fd if there is one; a client that has gone needs none."""
    body = dumps(event)
    ancillary = [] if fd is None else [(SOL_SOCKET, SCM_RIGHTS, pack("i", fd))]
    try:
        control.sendmsg([len(body).to_bytes(4, "little") + body], ancillary, MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError):
        return


def run(control: socket, request: dict[str, Any]) -> int:
    """Run the command in the server's namespaces and cgroups: its exit code, 128 + N if signal N ended it."""
    at("join")
    pid = request["pid"]
    pidfd = open_pidfd(pid, request["start"])
    root = os.open(f"/proc/{pid}/root", O_PATH | os.O_DIRECTORY)
    namespaces = different_namespaces(pid)
    base = first_id(pid)
    if ended(pidfd):  # else all of the above was of that very process
        raise OSError(ESRCH, "the server's first process has ended", str(pid))
    at("user " + request["user"])
    ids = known(request["user"]) or resolve(request["user"], root)
    if request.get("home"):
        request["env"].setdefault("HOME", home(request["user"], root))
    if request["tty"]:
        at("terminal")
        master, slave = open_terminal(root, request["rows"], request["cols"], base + ids[0])
        os.dup2(slave, TERMINAL, False)
        send(control, {"event": "terminal"}, master)
        os.close(master)
        os.close(slave)
    at("cgroup")
    flags, cgroup = 0, 0
    if request["cgroup"]["payload"] is not None:
        cgroup = os.open(request["cgroup"]["payload"], O_PATH | os.O_DIRECTORY)
        flags = CLONE_INTO_CGROUP
    at("start")
    recipe = new_recipe(request)
    write_command(recipe, request, namespaces, raised_limits(request["rlimits"]), ids)
    recipe.finish()
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    os.dup2(theirs.fileno(), CHANNEL, False)
    os.dup2(pidfd, PIDFD, False)
    theirs.close()
    at("join")
    setns(pidfd, CLONE_NEWPID)  # of our children
    # Of its own: the server's OOM killer ends all that share one, and its processes may trace the child.
    child = start(flags, cgroup, recipe.memory, own=True)
    for fd in (CHANNEL, TERMINAL):
        os.close(fd)
    code = attend(control, ours, child, recipe, request["cwd"])
    failure = recipe.failure()
    if failure:
        step, number, path, message = failure
        at(step)
        raise OSError(number, message, path)
    return code


def open_pidfd(pid: int, start_time: int) -> int:
    """A pidfd of the process that has this pid and start time: a pid alone may have been given to another."""
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
    """The CLONE_ flags of the namespaces of `pid`, but for its pid namespace, that are not our own."""
    flags = 0
    for name, flag in NAMESPACES.items():
        try:
            theirs = os.stat(f"/proc/{pid}/ns/{name}")
        except FileNotFoundError:
            continue  # a kind this kernel does not have
        if theirs.st_ino != os.stat(f"/proc/self/ns/{name}").st_ino:
            flags |= flag
    return flags


def first_id(pid: int) -> int:
    """The id that is 0 in the user namespace of a process."""
    with open(f"/proc/{pid}/uid_map", "rb") as file:
        return int(file.read().split()[1])


def raised_limits(rlimits: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """What has to be set while the host's capabilities still count: hard limits above our own."""
    raised = []
    for number, _soft, hard in rlimits:
        own_soft, own_hard = resource.getrlimit(number)
        if own_hard != -1 and (hard == -1 or hard > own_hard):
            raised.append((number, own_soft, hard))
    return raised


def open_terminal(root: int, rows: int, columns: int, owner: int) -> tuple[int, int]:
    """A new pty of the server's own devpts: master and slave.

    The multiplexer is looked at before it is opened, and the slave comes from the master by TIOCGPTPEER,
    never by a path: the server may have put something else there (CVE-2025-52565).
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


def attend(control: socket, gate: socket, pid: int, recipe: Recipe, cwd: str) -> int:
    """Let a child through its gate and wait for its end: its exit code, 128 + N when signal N ended it.

    Signals the client asks for are sent on; its end is SIGKILL, and so is a signal meant to end the command
    that has not within SECONDS_TO_END: a stopped or traced process obeys no other.
    """
    pidfd = os.pidfd_open(pid)
    poller = select.poll()
    for fd in (pidfd, control.fileno(), gate.fileno()):
        poller.register(fd, select.POLLIN)
    asked, deadline = False, None
    signals: list[int] = []
    while True:
        left = None if deadline is None else max(0, 1000 * (deadline - monotonic()))
        ready = [fd for fd, _mask in poller.poll(left)]
        if pidfd in ready:
            break
        if gate.fileno() in ready:
            asked = open_gate(gate, pid, recipe, cwd)
            poller.unregister(gate.fileno())
        if control.fileno() in ready:
            message = read(control)
            if message is None:
                poller.unregister(control.fileno())
            signals.append(SIGKILL if message is None else message["number"])
            os.kill(pid, signals[-1])
            if deadline is None and is_insistent(signals):
                deadline = monotonic() + SECONDS_TO_END
        if not ready:
            os.kill(pid, SIGKILL)
            deadline = None
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0 and not asked and not signals:
        at("start")
        why = "the server is ending, or has no memory left"
        raise OSError(0, f"killed by signal {-code} before it could start: {why}")
    return code if code >= 0 else 128 - code


def open_gate(gate: socket, pid: int, recipe: Recipe, cwd: str) -> bool:
    """Let a child go on if its working directory is what was meant; False when it has died."""
    if not gate.recv(1):
        return False
    if recipe.outside():
        os.kill(pid, SIGKILL)
        raise OSError(EACCES, "the working directory is outside the server's root", cwd)
    try:
        gate.send(b"g", MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def is_insistent(signals: list[int]) -> bool:
    """Whether the last of these leaves no doubt that the command is to end."""
    return signals[-1] in (SIGTERM, SIGHUP) or signals.count(SIGINT) > 1
