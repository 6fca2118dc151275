"""The prober: makes the probes that the keeper asks for, and ends with it.

A SEQPACKET socket carries marshalled dicts. A request has an `id`, the `pid` and `start` time of the
server's init, the `subject`, the `check` to make with its parameters, and `seconds` for it; with one for
`exec` comes a memfd with the request to join the server. The answer has the `id`; a `message` if the probe
has failed; and whether it was `made`, for otherwise the message says what the host had not enough of.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, MSG_NOSIGNAL, SOCK_SEQPACKET, socket
from errno import EMFILE
from heapq import heappop, heappush
from marshal import dumps, loads
from select import EPOLLIN, epoll
from time import monotonic

from .. import packets
from ..processes import SHORTAGES
from ..timers import LONGEST
from .checks import Connection, Failure, NotMade
from .guests import sys_calls
from .workers import SECONDS_TO_DIE, Command, File, Worker

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from typing import Any

    Probe = Connection | Worker

LARGEST, LONGEST_MESSAGE = 1 << 17, 300  # bytes of a request, characters of a message
MOST_WORKERS = 16  # that work at a time
NOT_ENDED = "the previous probe has not ended"


class Prober:
    """Waits for requests and probes. A probe is known by the `id` of its request."""

    def __init__(self, control: int) -> None:
        self.control = socket(AF_UNIX, SOCK_SEQPACKET, 0, control)
        self.poller = epoll()
        self.poller.register(control, EPOLLIN)
        self.probes: dict[int, tuple[Probe, dict[str, Any]]] = {}
        self.by_fd: dict[int, int] = {}
        self.outputs: dict[int, Command] = {}  # by the fd of what they write
        self.answered: set[int] = set()  # workers that are stopped, because their time was over
        self.workers: set[tuple[int, str]] = set()  # the pid and the subject of each
        self.queue: list[tuple[dict[str, Any], int]] = []
        self.deadlines: list[tuple[float, int]] = []
        sys_calls.name_process(b"vsprov-prober")

    def serve(self) -> None:
        """Work until the keeper has gone."""
        while True:
            timeout = min(max(self.deadlines[0][0] - monotonic(), 0), LONGEST) if self.deadlines else -1
            ready = [fd for fd, _ in self.poller.poll(timeout, 64)]
            for fd in ready:
                if fd in self.outputs:
                    self.read_output(fd)
                elif fd in self.by_fd:
                    self.go_on(self.by_fd[fd])
            # At the end, because a new probe may reuse a number that an old one has just closed.
            if self.control.fileno() in ready and not self.receive():
                return
            self.expire()
            while self.queue and len(self.workers) - len(self.answered) < MOST_WORKERS:
                self.begin(*self.queue.pop(0))

    def receive(self) -> bool:
        """Take one request; False if the keeper has gone."""
        data, fds = packets.receive(self.control, LARGEST, 1, wait=True)
        if not data:
            return False
        request, given = loads(data), fds[0] if fds else -1
        if request["check"] in ("tcp", "http"):
            self.begin(request, given)
        else:
            self.queue.append((request, given))
        return True

    def begin(self, request: dict[str, Any], given: int) -> None:
        """Begin a probe; `given` is the descriptor that came with the request, -1 for none."""
        worker = (request["pid"], request["subject"])
        if worker in self.workers:
            return self.answer(request, NOT_ENDED)
        try:
            probe = make(request, given)
        except OSError as error:
            return self.answer(request, explain(error), made=error.errno not in SHORTAGES)
        except NotMade as why:
            return self.answer(request, str(why), made=False)
        finally:
            if given >= 0:
                os.close(given)
        self.probes[request["id"]] = (probe, request)
        self.watch(probe, request["id"])
        if isinstance(probe, Worker):
            self.workers.add(worker)
        if isinstance(probe, Command):
            self.outputs[probe.output] = probe
            self.poller.register(probe.output, EPOLLIN)
        heappush(self.deadlines, (monotonic() + request["seconds"], request["id"]))

    def watch(self, probe: Probe, number: int) -> None:
        """Wait for what a probe waits for."""
        self.by_fd[probe.fd] = number
        self.poller.register(probe.fd, probe.events)

    def read_output(self, fd: int) -> None:
        """Read what a command has written."""
        if not self.outputs[fd].read_output():
            self.poller.unregister(fd)
            del self.outputs[fd]

    def go_on(self, number: int) -> None:
        """Let a probe go on, and answer if it has a result."""
        probe, request = self.probes[number]
        self.poller.unregister(probe.fd)
        del self.by_fd[probe.fd]
        message: str | None = None
        made = True
        try:
            if probe.ready():
                message = ""
        except OSError as error:
            message, made = explain(error), error.errno not in SHORTAGES
        except (Failure, NotMade) as failure:
            message, made = str(failure), isinstance(failure, Failure)
        if message is None:
            return self.watch(probe, number)
        self.release(number)
        if number in self.answered:
            self.answered.discard(number)
        else:
            self.answer(request, message, made=made)

    def expire(self) -> None:
        """Answer for the probes whose time is over. Their workers are stopped, and killed a while later."""
        while self.deadlines and self.deadlines[0][0] <= monotonic():
            _, number = heappop(self.deadlines)
            if number not in self.probes:
                continue
            probe, request = self.probes[number]
            if number in self.answered:
                assert isinstance(probe, Worker)
                probe.kill()
                continue
            self.answer(request, f"{probe.expire()} within {request['seconds']:g} s")
            if isinstance(probe, Worker):
                self.answered.add(number)
                probe.stop()
                heappush(self.deadlines, (monotonic() + SECONDS_TO_DIE, number))
            else:
                self.poller.unregister(probe.fd)
                del self.by_fd[probe.fd]
                self.release(number)

    def release(self, number: int) -> None:
        """Close a probe, which is not watched any more."""
        probe, request = self.probes.pop(number)
        if isinstance(probe, Worker):
            self.workers.discard((request["pid"], request["subject"]))
        if isinstance(probe, Command) and probe.output in self.outputs:
            del self.outputs[probe.output]
            self.poller.unregister(probe.output)
        probe.close()

    def answer(self, request: dict[str, Any], message: str, *, made: bool = True) -> None:
        """Tell the keeper a result; no message means success."""
        result = {"id": request["id"], "message": message[:LONGEST_MESSAGE], "made": made}
        try:
            self.control.send(dumps(result), MSG_NOSIGNAL)
        except OSError:  # it has gone, as the next read will show
            return


def make(request: dict[str, Any], given: int) -> Probe:
    """Begin the probe that a request asks for."""
    check = request["check"]
    if check == "exec" and given < 0:  # recvmsg(2) drops descriptors for which there is no room
        raise OSError(EMFILE, os.strerror(EMFILE))
    if check == "exec":
        return Command(request, given)
    return File(request) if check == "file" else Connection(request)


def explain(error: OSError) -> str:
    """What the kernel said."""
    return error.strerror or str(error)
