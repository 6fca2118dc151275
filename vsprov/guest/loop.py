"""The spawner's one thread: requests in, children out, events back.

The control socket is a stream of messages: 4 bytes of length (little endian), then a marshalled dict.
Requests (`cmd` spawn, release, abort) and events (`event` ready, running, failed, exited, aborted) carry
the server's `id`.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
from _socket import (
    AF_UNIX,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    SOCK_CLOEXEC,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    socket,
    socketpair,
)
from errno import EACCES, EBUSY, EEXIST, EXDEV
from marshal import dumps, loads
from select import EPOLLIN, EPOLLOUT, epoll

from .confine import CHANNEL, REAPER, become, new_recipe, settle
from .equip import binds, equip
from .layers import O_PATH, learn, open_console, open_source, sealed_copy
from .machine import is_dumped_after_change, start
from .places import misplaced
from .recipe import write_server
from .report import at, describe
from .sys_calls import (
    CLONE_INTO_CGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    PR_SET_DUMPABLE,
    SIGKILL,
    close_others,
    move_high,
    name_process,
    prctl,
    reset_signals,
    sigchld_fd,
)
from .users import home, known, resolve

TYPE_CHECKING = False  # importing typing would double the heap every child copies
if TYPE_CHECKING:
    from typing import Any

    from .confine import Recipe
    from .report import Failure

NAMESPACES = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET
RECEIVE = 1 << 18
NOTHING = 0  # standard input, which is /dev/null


class Server:
    """A child from clone3 until it is reaped."""

    __slots__ = ("channel", "failure", "id", "pid", "recipe", "state", "unmapped", "user")

    def __init__(self, number: int) -> None:
        self.id = number
        self.pid = 0
        self.channel: socket | None = None
        self.recipe: Recipe | None = None
        self.state = "preparing"  # then ready, released, running; or aborted
        self.failure: Failure | None = None
        self.unmapped: list[str] = []
        self.user = ""


control: socket
poller: epoll
sigchld: int
nofile: tuple[int, int]
incoming = bytearray()
outgoing = bytearray()
waiting: list[dict[str, Any]] = []
servers: dict[int, Server] = {}
by_pid: dict[int, Server] = {}
by_channel: dict[int, Server] = {}
in_python = False
own_always = False


def main(fd: int) -> None:
    """Serve the control socket until the client closes it: guests at the gate end, running ones live on."""
    global control
    try:
        control = take_descriptors(fd)
        fd = control.fileno()
        prepare(fd)
    except OSError as error:
        step, number, path, message = describe(error)
        body = dumps({"event": "unable", "step": step, "errno": number, "path": path, "message": message})
        os.write(fd, len(body).to_bytes(4, "little") + body)
    else:
        serve(fd)


def prepare(fd: int) -> None:
    """All that is needed once."""
    global poller, sigchld, nofile, in_python, own_always
    in_python = "python" in sys.argv[3:]
    prctl(PR_SET_DUMPABLE, 0)
    name_process(b"vsprov-spawner")
    reset_signals()
    os.umask(0o022)
    sigchld = sigchld_fd()
    nofile = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (nofile[1], nofile[1]))
    own_always = is_dumped_after_change()
    at("probe overlay")
    learn()
    at("epoll")
    poller = epoll()
    poller.register(fd, EPOLLIN)
    poller.register(sigchld, EPOLLIN)
    gc.disable()  # a collection in a child would copy every page of the heap
    gc.freeze()


def serve(fd: int) -> None:
    """Take turns until the client is gone."""
    while True:
        for ready, mask in poller.poll(0 if waiting else -1, 64):
            if ready == fd:
                if mask & EPOLLOUT:
                    flush()
                if mask & ~EPOLLOUT and not receive():
                    return
            elif ready == sigchld:
                os.read(sigchld, 4096)
                reap()
            elif ready in by_channel:
                hear(by_channel[ready])
        if waiting:
            obey(waiting.pop(0))
        if outgoing:
            flush()


def take_descriptors(fd: int) -> socket:
    """The control socket, out of the way of the fds that every child finds at fixed numbers."""
    close_others(fd)
    kept = socket(AF_UNIX, SOCK_STREAM, 0, move_high(fd, REAPER + 1))
    kept.setblocking(False)
    for reserved in (CHANNEL, REAPER):
        os.dup2(NOTHING, reserved, False)
    return kept


def receive() -> bool:
    """Take in what the client sent; False at its end."""
    try:
        part = control.recv(RECEIVE)
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False
    incoming.extend(part)
    start = 0
    while len(incoming) >= start + 4:
        end = start + 4 + int.from_bytes(incoming[start : start + 4], "little")
        if len(incoming) < end:
            break
        request = loads(incoming[start + 4 : end])
        if request["cmd"] == "spawn":
            waiting.append(request)
        else:  # opening a gate costs nothing and must not queue behind a hundred forks
            obey(request)
        start = end
    del incoming[:start]
    return bool(part)


def send(event: dict[str, Any]) -> None:
    """Queue an event; it leaves at the end of the turn."""
    body = dumps(event)
    outgoing.extend(len(body).to_bytes(4, "little"))
    outgoing.extend(body)


def flush() -> None:
    """Write as much as the client takes; wait for it to take the rest without stopping for it."""
    try:
        sent = control.send(outgoing, MSG_NOSIGNAL | MSG_DONTWAIT)
    except BlockingIOError:
        sent = 0
    except OSError:
        outgoing.clear()  # the client is gone; the next turn reads its end and leaves
        return
    del outgoing[:sent]
    poller.modify(control.fileno(), EPOLLIN | EPOLLOUT if outgoing else EPOLLIN)


def obey(request: dict[str, Any]) -> None:
    """Do what one request asks."""
    if request["cmd"] == "spawn":
        spawn(request)
        return
    server = servers.get(request["id"])
    for position, spawn_request in enumerate(waiting):
        if spawn_request["id"] == request["id"]:
            del waiting[position]
            return send({"id": request["id"], "event": "aborted"})
    if server is None or server.state == "running":
        return  # too late; an event has told of its end, or of its running
    if request["cmd"] == "abort":
        server.state = "aborted"
        os.kill(server.pid, SIGKILL)
    elif server.state == "ready" and server.channel:
        server.state = "released"
        tell(server.channel, b"g")
    elif server.state == "preparing":
        # Its next word might be another question, of which this must not become the answer.
        give_up(server, OSError(EBUSY, "released before it was ready"))


def tell(channel: socket, message: bytes) -> None:
    """Send to a child; one that has died is heard of by its signal."""
    try:
        channel.send(message, MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError):
        return


def fail(number: int, step: str, error: int, path: str | None, message: str | None) -> None:
    """Report that a server was not made; of a forked one only when it is gone."""
    send({"id": number, "event": "failed", "step": step, "errno": error, "path": path, "message": message})


def spawn(request: dict[str, Any]) -> None:
    """Clone one server and make its host side; what goes wrong is reported and leaves nothing."""
    server = Server(request["id"])
    held: list[int] = []
    try:
        if server.id in servers:
            raise OSError(EEXIST, "a server of this id exists")
        at("start")
        if all(number != resource.RLIMIT_NOFILE for number, _soft, _hard in request["rlimits"]):
            request["rlimits"].append((resource.RLIMIT_NOFILE, *nofile))
        sources = []
        for entry in binds(request):
            at("mount " + entry["target"])
            sources.append(open_source(entry))
            held.append(sources[-1])
        fork(server, request, held)
        assert server.channel
        equip(server.pid, server.channel, request, sources, server.unmapped)
    except Exception as error:  # one server's trouble, even a malformed request, must not end the others
        if server.pid:
            give_up(server, error)
        else:
            fail(server.id, *describe(error))
    finally:
        for fd in held:
            os.close(fd)


def give_up(server: Server, error: Exception) -> None:
    """End a child that cannot be made a server; the failure is told when it is gone."""
    server.failure = describe(error)
    os.kill(server.pid, SIGKILL)


def fork(server: Server, request: dict[str, Any], held: list[int]) -> None:
    """Create the child in its new namespaces and its cgroup; `held` gets fds to be closed later."""
    base = request["id_map"]["base"] if request["id_map"] else 0
    flags, cgroup, console = NAMESPACES, 0, -1
    if request["id_map"]:
        flags |= CLONE_NEWUSER
    if request.get("host_network"):
        flags &= ~CLONE_NEWNET
    if request["reaper"] is not None:
        at("reaper")
        os.dup2(sealed_copy(request["reaper"]), REAPER, False)
    if request["console"] is not None:
        at("console")
        console = open_console(request["console"], base)
        held.append(console)
    if request["cgroup"]["payload"] is not None:
        at("cgroup")
        cgroup = os.open(request["cgroup"]["payload"], O_PATH | os.O_DIRECTORY)
        held.append(cgroup)
        flags |= CLONE_INTO_CGROUP
    at("user " + request["user"])
    ids = known(request["user"])
    if ids and ids[0] and request.get("home") and "HOME" not in request["env"]:
        ids = None  # to be asked for, with the home directory
    at("start")
    recipe = server.recipe = new_recipe(request)
    write_server(recipe, request, console, ids)
    recipe.finish()
    server.user = request["user"]
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    os.dup2(theirs.fileno(), CHANNEL, False)
    theirs.close()
    at("clone3")
    try:
        # Of processes that share memory the kernel sets all the oom_score_adj, and kills all if it kills one.
        own = own_always or request.get("own_memory") or request["oom_score_adj"] is not None
        pid = start(flags, cgroup, recipe.memory, in_python, own)
    finally:
        os.dup2(NOTHING, CHANNEL, False)  # only the child may hold its end open
    server.pid, server.channel = pid, ours
    servers[server.id] = by_pid[pid] = by_channel[ours.fileno()] = server
    poller.register(ours.fileno(), EPOLLIN)


def hear(server: Server) -> None:
    """Take in all a child says: whom to be, ready, or, by closing its end, that it has executed or ended."""
    while server.channel:
        try:
            message = server.channel.recv(1, MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionResetError:
            continue  # it closed its end with something unread; what it said first is still there
        assert server.recipe
        if message and (target := misplaced(server.recipe, server.pid)):
            at(f"mount {target}")
            give_up(server, OSError(EXDEV, "it lies on another file system of the server"))
        elif message == b"u":
            name_user(server)
        elif message == b"r":
            welcome(server)
        else:
            hang_up(server)
            if server.state == "released" and server.recipe.memory.failed() is None and not server.failure:
                server.state = "running"
                server.recipe.memory.release()
                server.recipe = None
                send({"id": server.id, "event": "running"})


def name_user(server: Server) -> None:
    """Tell a child that has all its mounts the ids of its user, by the files its root has now."""
    assert server.recipe and server.channel
    try:
        at("user " + server.user)
        root = os.open(f"/proc/{server.pid}/root", O_PATH | os.O_DIRECTORY)
        try:
            become(server.recipe, *resolve(server.user, root))
            settle(server.recipe, home(server.user, root))
        finally:
            os.close(root)
    except OSError as error:
        give_up(server, error)
    else:
        tell(server.channel, b"g")


def welcome(server: Server) -> None:
    """A child waits at its gate: tell the client, if its working directory is what was meant."""
    assert server.recipe
    if server.recipe.outside():
        at("working directory")
        return give_up(server, OSError(EACCES, "outside the server's root"))
    event = {"id": server.id, "event": "ready", "pid": server.pid, "start": start_time(server.pid)}
    if server.unmapped:
        event["unmapped"] = server.unmapped
    if server.state == "preparing":
        server.state = "ready"
    send(event)


def hang_up(server: Server) -> None:
    """Close our end of the channel."""
    assert server.channel
    fd = server.channel.fileno()
    poller.unregister(fd)
    del by_channel[fd]
    server.channel.close()
    server.channel = None


def start_time(pid: int) -> int:
    """Field 22 of /proc/PID/stat: clock ticks after boot."""
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    text = os.read(fd, 1024)
    os.close(fd)
    return int(text[text.rindex(b")") + 2 :].split(b" ", 20)[19])


def reap() -> None:
    """Collect the dead, each heard to its last word first, so that `running` precedes `exited`."""
    while by_pid:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        server = by_pid.pop(pid)
        hear(server)
        if server.channel:
            hang_up(server)
        if server.recipe:
            server.failure = server.failure or server.recipe.failure()
            server.recipe.memory.release()
        del servers[server.id]
        code = os.waitstatus_to_exitcode(status)
        ending = {"code": code} if code >= 0 else {"signal": -code}
        if server.failure:
            fail(server.id, *server.failure)
        elif server.state == "running":
            send({"id": server.id, "event": "exited", **ending})
        elif server.state == "aborted":
            send({"id": server.id, "event": "aborted"})
        else:
            how = f"killed by signal {-code}" if code < 0 else f"ended with {code}"
            fail(server.id, "gate", 0, None, how)
