"""The event loop of the keeper, in one thread, asleep in epoll(7) while nothing happens."""

from __future__ import annotations

import os
from _signal import SIG_IGN, SIGPIPE, SIGTERM, set_wakeup_fd, signal  # type: ignore[import-not-found]
from _socket import (
    AF_UNIX,
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    SCM_RIGHTS,
    SO_PEERCRED,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socket,
)
from errno import EMFILE
from resource import RLIMIT_NOFILE, getrlimit
from select import EPOLLIN, epoll, poll

from . import ends
from .connector import Exits
from .log import Console
from .protocol import FORMAT, LARGEST, decode, encode

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from .protocol import Hello, Keep, Settle, Settled

MOST_FDS = 4
RESERVED = 12  # descriptors, for clients and the console of the last server


class Kept:
    """A server that is kept. `console` is None for one that writes its log itself, of an earlier version."""

    __slots__ = ("console", "counters", "folder", "home", "kills", "name", "pid", "pidfd", "start")

    def __init__(self, request: Keep, fds: list[int]) -> None:
        self.name, self.pid, self.start = request["name"], request["pid"], request["start"]
        self.folder, self.home, self.pidfd, self.counters = (*fds, -1)[:MOST_FDS]
        self.kills = ends.oom_kills(self.counters)
        self.console: Console | None = None
        try:
            self.console = Console(self.folder)
        except FileNotFoundError:
            return

    def close(self) -> None:
        """Close everything."""
        if self.console:
            self.console.close()
        close(*(fd for fd in (self.folder, self.home, self.pidfd, self.counters) if fd >= 0))


def close(*fds: int) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


def open_exits() -> Exits | None:
    """The other source of exit statuses; None if this kernel has none, so that they stay unknown."""
    try:
        return Exits()
    except OSError:  # ENOENT, EPROTONOSUPPORT: not in this kernel; EPERM: no CAP_NET_ADMIN
        return None


class Loop:
    """Waits for output, ends of servers and clients. One turn copies at most a part of each console."""

    def __init__(self, listener: int, client: int) -> None:
        self.poller = epoll()
        self.kept: dict[str, Kept] = {}
        self.consoles: dict[int, Console] = {}  # by FIFO
        self.inits: dict[int, Kept] = {}  # by pidfd
        self.clients: dict[int, socket] = {}
        self.problems: dict[str, str] = {}  # {server: why it is not kept, or its exit not recorded}
        self.ending = False
        self.most_fds = getrlimit(RLIMIT_NOFILE)[0]
        self.exits = None if ends.pidfds_keep_status() else open_exits()
        self.listener = socket(AF_UNIX, SOCK_SEQPACKET, 0, listener)
        self.poller.register(listener, EPOLLIN)
        signal(SIGPIPE, SIG_IGN)
        signal(SIGTERM, lambda *_: None)
        self.wakeup, end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        set_wakeup_fd(end)
        self.poller.register(self.wakeup, EPOLLIN)
        self.greet(socket(AF_UNIX, SOCK_SEQPACKET, 0, client))

    def serve(self) -> None:
        """Work until no server and no client is left, or SIGTERM comes."""
        while (self.kept or self.clients) and not self.ending:
            ready = [fd for fd, _ in self.poller.poll(-1, 64)]
            for fd in ready:
                if fd in self.consoles:
                    self.consoles[fd].copy()
            for fd in ready:
                if fd in self.inits:
                    self.finish(self.inits[fd])
            for fd in ready:  # last, because their requests reuse the numbers of descriptors
                if fd in self.clients:
                    self.receive(self.clients[fd])
                elif fd == self.listener.fileno():
                    self.accept()
                elif fd == self.wakeup:
                    self.ending = True

    # -- clients

    def accept(self) -> None:
        """Take a new client, if it is root's."""
        fd, _ = self.listener._accept()  # type: ignore[attr-defined]
        client = socket(AF_UNIX, SOCK_SEQPACKET, 0, fd)
        uid = int.from_bytes(client.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)[4:8], "little")
        if uid == 0:
            self.greet(client)
        else:
            client.close()

    def greet(self, client: socket) -> None:
        """Begin to serve a client."""
        self.clients[client.fileno()] = client
        self.poller.register(client.fileno(), EPOLLIN)
        self.send(client, {"event": "hello", "format": FORMAT, "pid": os.getpid()})

    def receive(self, client: socket) -> None:
        """Read one message and handle it."""
        try:
            text, ancillary, _, _ = client.recvmsg(
                LARGEST, CMSG_SPACE(4 * MOST_FDS), MSG_DONTWAIT | MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except ConnectionResetError:
            text, ancillary = b"", []
        fds = [
            int.from_bytes(data[at : at + 4], "little")
            for level, kind, data in ancillary
            if (level, kind) == (SOL_SOCKET, SCM_RIGHTS)
            for at in range(0, len(data) - 3, 4)
        ]
        if not text:
            close(*fds)
            return self.drop(client)
        request = decode(text)
        if request["cmd"] == "keep":
            self.keep(request, fds)
        elif request["cmd"] == "settle":
            self.settle(client, request)

    def send(self, client: socket, message: Hello | Settled) -> None:
        """Answer. A client that has closed its end, or does not read, is dropped."""
        try:
            client.send(encode(dict(message)), MSG_NOSIGNAL | MSG_DONTWAIT)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            self.drop(client)

    def drop(self, client: socket) -> None:
        """Forget a client."""
        if self.clients.pop(client.fileno(), None):
            self.poller.unregister(client.fileno())
            client.close()

    # -- servers

    def keep(self, request: Keep, fds: list[int]) -> None:
        """Begin to keep a server; one of this name that was kept before has ended, or is the same."""
        name = request["name"]
        before = self.kept.get(name)
        if before and (before.pid, before.start) == (request["pid"], request["start"]):
            return close(*fds)
        if before:
            self.finish(before)
        self.problems.pop(name, None)
        # recvmsg(2) has installed as many as there was room for; without room for clients we could not go on.
        if len(fds) < MOST_FDS - 1 or max(fds) >= self.most_fds - RESERVED:
            close(*fds)
            self.problems[name] = f"keep it: {os.strerror(EMFILE)}"
            return
        try:
            new = Kept(request, fds)
        except OSError as error:
            close(*fds)
            self.problems[name] = f"open its console: {error.strerror}"
            return
        ends.forget(new.home)
        self.kept[name] = self.inits[new.pidfd] = new
        self.watch_exits()
        self.poller.register(new.pidfd, EPOLLIN)
        if new.console:
            self.consoles[new.console.fifo] = new.console
            self.poller.register(new.console.fifo, EPOLLIN)

    def settle(self, client: socket, request: Settle) -> None:
        """Copy what has been written, record what has ended, and answer."""
        name = request["name"]
        chosen = [one for one in self.kept.values() if name in (None, one.name)]
        over = poll()
        for one in chosen:
            over.register(one.pidfd, EPOLLIN)
        ended = {fd for fd, _ in over.poll(0)}
        for one in chosen:
            if one.pidfd in ended:
                self.finish(one)
            elif one.console:
                one.console.copy_rest()
        problems = [f"Server/{server}: {why}" for server, why in self.problems.items()]
        for one in self.kept.values():
            if one.console and one.console.problem:
                problems.append(f"Server/{one.name}: write its console log: {one.console.problem}")
        self.send(client, {"event": "settled", "kept": list(self.kept), "problems": problems})

    def finish(self, one: Kept) -> None:
        """Copy the last output of a server, record its exit, and release it."""
        if one.console:
            one.console.copy_rest()
            del self.consoles[one.console.fifo]
            self.poller.unregister(one.console.fifo)
        try:
            oom = ends.oom_kills(one.counters) > one.kills
            status = ends.status(one.pidfd, one.pid, one.start)
            if status is None and self.exits:
                status = self.exits.take(one.pid)
            ends.record(one.home, status, oom)
        except OSError as error:
            self.problems[one.name] = f"record its exit: {error.strerror}"
        del self.kept[one.name], self.inits[one.pidfd]
        self.poller.unregister(one.pidfd)
        one.close()
        self.watch_exits()

    def watch_exits(self) -> None:
        """Watch the exits of all inits, where pidfds do not keep their status."""
        if self.exits:
            self.exits.watch(tuple(one.pid for one in self.kept.values()))
