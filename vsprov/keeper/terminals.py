"""The holder of terminals: a process that keeps the consoles of system servers open, and copies what they
write to the FIFO that the keeper drains.

The console of a system server is a pty, because its programs need a terminal there. When nobody has its
master any more, the kernel hangs up: all that have the console open lose it. So it is a process of its own
that has it, apart from the keeper, and with a twin: a copy of itself that does nothing but hold all
descriptors too, and takes over when the other one is killed. A console that nobody reads blocks the server,
so output that has no room in the FIFO is dropped.

Run as `main.py INSTANCE ROOT LISTENER CLIENT terminals`. A client sends `hold`, with descriptors: the master,
the FIFO, a pidfd of the server's init. The answer is `held`. `list` is answered by `listed`, with the `names`
that are held. It ends with the last server. The messages do not change from one version of vsprov to the
next, for a new one must not end the holder of another; one that does not know a message drops the client.
"""

from __future__ import annotations

import os
from _signal import SIG_IGN, SIGCHLD, SIGPIPE, signal  # type: ignore[import-not-found]
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socket, socketpair
from errno import EIO
from marshal import dumps, loads
from select import EPOLLET, EPOLLIN, epoll

from . import packets
from .processes import SHORTAGES
from .service import PAUSE, Service

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from typing import Any

FORMAT = 1  # of the messages
NAME = b"vsprov-terminal"
FDS = 3
LARGEST = 4096  # bytes of a message
PART = 1 << 14
PARTS = 16  # that are copied in one turn
MISSING = b"\n[vsprov: output is missing here: the keeper did not read it]\n"
DROP = "drop"


class Terminal:
    """The console of a server."""

    __slots__ = ("dropping", "fifo", "master", "name", "pidfd", "returned")

    def __init__(self, name: str, master: int, fifo: int, pidfd: int) -> None:
        self.name, self.master, self.fifo, self.pidfd = name, master, fifo, pidfd
        self.dropping = False
        self.returned = b""  # a carriage return at the end of the last part
        for fd in (master, fifo):
            os.set_blocking(fd, False)

    def copy(self) -> bool:
        """Copy some parts; False if nothing is left. EIO: no process has the terminal open now."""
        for _ in range(PARTS):
            try:
                part = os.read(self.master, PART)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno != EIO:
                    raise
                return False
            self.write(part)
        return True

    def write(self, part: bytes) -> None:
        """Write lines to the FIFO without the carriage returns that a terminal ends them with."""
        part = self.returned + part
        self.returned = b"\r" if part.endswith(b"\r") else b""
        part = part.removesuffix(self.returned).replace(b"\r\n", b"\n")
        if self.dropping:
            part = MISSING + part
        try:
            self.dropping = os.write(self.fifo, part) < len(part)
        except BlockingIOError:
            self.dropping = True

    def close(self) -> None:
        """Close everything."""
        for fd in (self.master, self.fifo, self.pidfd):
            os.close(fd)


class Loop(Service):
    """Waits for output, ends of servers, clients, and the end of the twin."""

    format, largest, most_fds = FORMAT, LARGEST, FDS

    def __init__(self, _instance: str, _root: str, listener: int, client: int) -> None:
        super().__init__(listener)
        signal(SIGPIPE, SIG_IGN)
        signal(SIGCHLD, SIG_IGN)  # so that nobody has to wait for a twin
        self.terminals: dict[str, Terminal] = {}
        self.twin: socket | None = None
        self.begin(client)

    def serve(self) -> None:
        """Work until no terminal and no client is left."""
        while self.terminals or self.clients:
            self.ensure_twin()
            self.turn(PAUSE if self.twin is None and self.terminals else -1)

    # -- the twin

    def ensure_twin(self) -> None:
        """Have a twin if there are terminals. Without processes or descriptors for it, the next turn tries it
        again: the terminals would end with us now.
        """
        while self.twin is None and self.terminals:
            try:
                self.fork()
            except OSError as error:
                if error.errno not in SHORTAGES:
                    raise
                return

    def fork(self) -> None:
        """Make a twin. It returns from here when we have died, in our place, without a twin of its own."""
        ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
        if os.fork() == 0:
            ours.close()
            self.poller.close()
            for client in self.clients.values():
                client.close()
            self.follow(theirs)
            theirs.close()
            self.clients, self.watched, self.twin, self.poller = {}, {}, None, epoll()
            self.watch(self.listener.fileno(), self.accept)
            for terminal in self.terminals.values():
                self.hold(terminal)
            return
        theirs.close()
        self.twin = ours
        self.watch(ours.fileno(), self.lost)

    def follow(self, channel: socket) -> None:
        """As the twin, hold what the other one holds, until that has died."""
        while True:
            data, fds = packets.receive(channel, LARGEST, FDS, wait=True)
            if not data:
                return
            word, name = loads(data)
            if word == DROP:
                self.terminals.pop(name).close()
            elif not name:
                os._exit(0)
            else:
                self.terminals[name] = Terminal(name, *fds)

    def lost(self) -> None:
        """Forget a twin that was killed; the next turn makes another."""
        if self.twin:
            self.forget(self.twin.fileno())
            self.twin.close()
            self.twin = None

    def tell(self, word: str, name: str, *fds: int) -> None:
        """Have the twin do the same."""
        if self.twin:
            try:
                packets.send(self.twin, dumps((word, name)), *fds, wait=True)
            except OSError:
                self.lost()

    # -- clients

    def handle(self, client: socket, request: dict[str, Any], fds: list[int]) -> None:
        """Hold a terminal, or list those that are held; a client that asks for anything else is dropped."""
        if request.get("cmd") == "list":
            return self.send(client, {"event": "listed", "names": list(self.terminals)})
        if request.get("cmd") != "hold" or len(fds) != FDS:
            packets.close(*fds)
            return self.drop(client)
        name = request["name"]
        if name in self.terminals:
            self.end(self.terminals[name])
        terminal = self.terminals[name] = Terminal(name, *fds)
        self.hold(terminal)
        self.tell("hold", name, *fds)
        self.ensure_twin()
        self.send(client, {"event": "held"})

    # -- terminals

    def hold(self, terminal: Terminal) -> None:
        """Copy what comes, until the server ends.

        Edge-triggered: while no process has the terminal open, its master is always ready.
        """
        self.watch(terminal.master, lambda: self.copy(terminal), EPOLLIN | EPOLLET)
        self.watch(terminal.pidfd, lambda: self.end(terminal))

    def copy(self, terminal: Terminal) -> None:
        """Copy some, and come back if there is more."""
        if terminal.copy():
            self.poller.modify(terminal.master, EPOLLIN | EPOLLET)

    def end(self, terminal: Terminal) -> None:
        """Copy the last output of a server that has ended, and release its terminal."""
        terminal.copy()
        self.forget(terminal.master)
        self.forget(terminal.pidfd)
        del self.terminals[terminal.name]
        self.tell(DROP, terminal.name)
        if not self.terminals:
            self.tell("end", "")
        terminal.close()
