"""What the spawner knows of its clients and of the children that it makes for them."""

from __future__ import annotations

import os
from _socket import MSG_NOSIGNAL, socket

from ..wire import encode

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from ..child.program import ChildProgram
    from ..report import Failure
    from ..wire import Event, Spawn


class Client:
    """The other end of a control socket, and its guests by the ids it has given them."""

    __slots__ = ("children", "control", "fd", "incoming", "outgoing", "queue")

    def __init__(self, control: socket) -> None:
        self.control: socket | None = control
        self.fd = control.fileno()
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.queue: list[Spawn] = []
        self.children: dict[int, Child] = {}

    def send(self, event: Event) -> None:
        """Queue an event, to be sent at the end of the turn."""
        if self.control:
            self.outgoing.extend(encode(event))


class Child:
    """A guest's first process, from clone3 until it is reaped."""

    __slots__ = ("channel", "client", "failure", "id", "pid", "program", "state", "unmapped", "user")

    def __init__(self, client: Client, number: int, user: str) -> None:
        self.client = client
        self.id = number
        self.user = user
        self.pid = 0
        self.channel: socket | None = None
        self.program: ChildProgram | None = None
        self.state = "preparing"  # then "ready", "released", "running"
        self.failure: Failure | None = None
        self.unmapped: list[str] = []


def send(channel: socket, message: bytes) -> None:
    """Write to a child; that it has died is no error here, because a signal reports it."""
    try:
        channel.send(message, MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError):
        return


def start_time(pid: int) -> int:
    """Field 22 of /proc/PID/stat: clock ticks after boot."""
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    text = os.read(fd, 1024)
    os.close(fd)
    return int(text[text.rindex(b")") + 2 :].split(b" ", 20)[19])
