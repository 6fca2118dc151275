"""Probes that the prober makes by itself: TCP connections and HTTP requests, without ever blocking.

A socket belongs to the network namespace in which it is made, so that the prober is in the server's only for
the moment in which it makes one.
"""

from __future__ import annotations

import os
from _socket import AF_INET, AF_INET6, MSG_DONTWAIT, MSG_NOSIGNAL, SO_ERROR, SOCK_STREAM, SOL_SOCKET, socket
from errno import EAFNOSUPPORT, ECONNREFUSED, EINPROGRESS
from select import EPOLLIN, EPOLLOUT

from .guests import enter, sys_calls

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from typing import Any

LOOPBACK = ((AF_INET, "127.0.0.1"), (AF_INET6, "::1"))
HEADERS = ("Host: localhost", "User-Agent: vsprov", "Connection: close")
LONGEST_STATUS_LINE = 1024


class Failure(Exception):
    """A probe has failed; the text says why."""


class NotMade(Exception):
    """A probe could not be made, through no fault of the server; the text says why."""


class Connection:
    """A TCP connection to a port of a server, by IPv4 or else by IPv6; then an HTTP request, if one is asked.

    `fd` is to be polled for `events`; call `ready` then, until it returns True. OSError and Failure if the
    probe has failed.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        self.path: str | None = request.get("path")
        self.port: int = request["port"]
        self.answer = b""
        self.sockets = sockets(request["pid"], request["start"])
        self.addresses = [dict(LOOPBACK)[one.family] for one in self.sockets]
        self.connect()

    def connect(self) -> None:
        """Begin to connect to the next address that does not refuse at once. OSError if there is none."""
        error = ECONNREFUSED
        while self.sockets:
            self.current = self.sockets.pop(0)
            self.fd, self.events = self.current.fileno(), EPOLLOUT
            error = self.current.connect_ex((self.addresses.pop(0), self.port))
            if error in (0, EINPROGRESS):
                return
            self.current.close()
        raise OSError(error, os.strerror(error))

    def ready(self) -> bool:
        """Go on; whether the probe has succeeded."""
        if self.events == EPOLLOUT:
            if error := self.current.getsockopt(SOL_SOCKET, SO_ERROR):
                self.current.close()
                if not self.sockets:
                    raise OSError(error, os.strerror(error))
                self.connect()
                return False
            if self.path is None:
                return True
            lines = (f"GET {self.path} HTTP/1.1", *HEADERS, "", "")
            self.current.send("\r\n".join(lines).encode(), MSG_NOSIGNAL | MSG_DONTWAIT)
            self.events = EPOLLIN
            return False
        return self.read_status()

    def read_status(self) -> bool:
        """Read the status line of the answer."""
        try:
            part = self.current.recv(LONGEST_STATUS_LINE, MSG_DONTWAIT)
        except BlockingIOError:
            return False
        self.answer += part
        line, newline, _ = self.answer.partition(b"\n")
        if not newline and part and len(self.answer) < LONGEST_STATUS_LINE:
            return False
        words = line.split(None, 2)
        if len(words) < 2 or not line.startswith(b"HTTP/") or not words[1].isdigit():
            raise Failure("the answer is not HTTP" if line else "closed without an answer")
        if not 200 <= int(words[1]) <= 399:
            raise Failure(f"status {line[len(words[0]) :].strip().decode('latin-1')[:80]}")
        return True

    def expire(self) -> str:
        """Why there is no success at the end of the time."""
        return "no answer" if self.events == EPOLLIN else "no connection"

    def close(self) -> None:
        """Close everything."""
        for one in (self.current, *self.sockets):
            one.close()


def sockets(pid: int, start: int) -> list[socket]:
    """A socket for each address, in the network namespace of a process. OSError if the process has ended."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    pidfd, made = -1, []
    try:
        pidfd = enter.open_pidfd(pid, start)
        sys_calls.setns(pidfd, sys_calls.CLONE_NEWNET)
        try:
            for family, _ in LOOPBACK:
                try:
                    made.append(socket(family, SOCK_STREAM))
                except OSError as error:
                    if error.errno != EAFNOSUPPORT:  # a kernel without IPv6
                        raise
        finally:
            sys_calls.setns(own, sys_calls.CLONE_NEWNET)
    finally:
        os.close(own)
        if pidfd >= 0:
            os.close(pidfd)
    for one in made:
        one.setblocking(False)
    return made
