"""What the keeper and the holder of terminals have in common: they sleep in epoll(7) until a descriptor is
ready, and serve clients of root.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SO_PEERCRED, SOCK_SEQPACKET, SOL_SOCKET, socket
from marshal import dumps, loads
from select import EPOLLIN, epoll

from . import packets
from .processes import SHORTAGES

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MOST_EVENTS = 64  # of one turn
PAUSE = 1.0  # seconds until clients are accepted again


class Service:
    """An event loop with clients on a listening socket. A class derived from it sets how its messages differ.

    The first message of each client's connection is ours, `hello`, with `format`, that of the messages.
    """

    format = 0
    largest = 1 << 17  # bytes of a message
    most_fds = 16  # that come with a message

    def __init__(self, listener: int) -> None:
        os.set_inheritable(listener, False)  # a command that outlives us must not seem to be us
        self.poller = epoll()
        self.watched: dict[int, Callable[[], object]] = {}
        self.clients: dict[int, socket] = {}
        self.listener = socket(AF_UNIX, SOCK_SEQPACKET, 0, listener)
        self.paused = False  # clients have to wait, because there was no room for another
        self.watch(listener, self.accept)

    def turn(self, seconds: float = -1) -> None:
        """Wait until something is ready, for so many seconds at most, and handle it."""
        if self.paused:
            seconds = PAUSE if seconds < 0 else min(seconds, PAUSE)
        ready = self.poller.poll(seconds, MOST_EVENTS)
        if self.paused:
            self.paused = False
            self.watch(self.listener.fileno(), self.accept)
        for fd, call in [(fd, self.watched[fd]) for fd, _ in ready]:
            if self.watched.get(fd) is call:  # an earlier call may have closed it, and reused its number
                call()

    def watch(self, fd: int, call: Callable[[], object], events: int = EPOLLIN) -> None:
        """Call whenever a descriptor is ready."""
        self.poller.register(fd, events)
        self.watched[fd] = call

    def forget(self, fd: int) -> None:
        """Do not watch a descriptor any more; call this before it is closed."""
        del self.watched[fd]
        self.poller.unregister(fd)

    # -- clients

    def accept(self) -> None:
        """Take a new client, if it is root's."""
        try:
            fd, _ = self.listener._accept()  # type: ignore[attr-defined]
        except OSError as error:
            if error.errno not in SHORTAGES:
                raise
            self.paused = True
            return self.forget(self.listener.fileno())
        client = socket(AF_UNIX, SOCK_SEQPACKET, 0, fd)
        uid = int.from_bytes(client.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)[4:8], "little")
        if uid == 0:
            self.greet(client)
        else:
            client.close()

    def begin(self, client: int) -> None:
        """Serve the client that has started us."""
        os.set_inheritable(client, False)
        self.greet(socket(AF_UNIX, SOCK_SEQPACKET, 0, client))

    def greet(self, client: socket) -> None:
        """Begin to serve a client."""
        self.clients[client.fileno()] = client
        self.watch(client.fileno(), lambda: self.receive(client))
        self.send(client, {"event": "hello", "format": self.format, "pid": os.getpid()})

    def receive(self, client: socket) -> None:
        """Read one message and handle it. A client that has closed its end is dropped, as is one that sends
        a message that is too long, which none of this version does.
        """
        try:
            data, fds = packets.receive(client, self.largest, self.most_fds)
        except BlockingIOError:
            return
        if data:
            self.handle(client, loads(data), fds)
        else:
            self.drop(client)

    def handle(self, client: socket, request: Any, fds: list[int]) -> None:
        """Do what a client asks for; what comes with it is ours to close."""
        raise NotImplementedError

    def send(self, client: socket, message: Any) -> None:
        """Answer; in a memfd if that is too long for a packet. A client that has closed its end, or does not
        read, is dropped.
        """
        if self.clients.get(client.fileno()) is not client:
            return  # it was dropped meanwhile
        data, fds = dumps(message), []
        if len(data) > self.largest // 2:
            fds = [os.memfd_create("answer", os.MFD_CLOEXEC)]
            os.pwrite(fds[0], data, 0)
            data = b"-"
        try:
            packets.send(client, data, *fds)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            self.drop(client)
        finally:
            packets.close(*fds)

    def drop(self, client: socket) -> None:
        """Forget a client."""
        if self.clients.pop(client.fileno(), None):
            self.forget(client.fileno())
            client.close()
