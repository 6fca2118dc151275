"""Probes that a server could hold up: each has a process of its own, which can be killed.

A command joins the server as `vsprov exec` does, by the same program. A file is looked up by a process that
does nothing else, for a server may mount file systems that do not answer.
"""

from __future__ import annotations

import os
from _socket import (
    AF_UNIX,
    MSG_NOSIGNAL,
    SCM_RIGHTS,
    SOCK_CLOEXEC,
    SOCK_STREAM,
    SOL_SOCKET,
    socketpair,
)
from errno import EAGAIN, EIO, EMFILE, ENFILE, ENOMEM
from select import EPOLLIN
from signal import SIGKILL
from struct import pack

from ..processes import SHORTAGES, fork
from .checks import Failure, NotMade
from .guests import enter, sys_calls, wire

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from typing import Any, NoReturn

SECONDS_TO_DIE = 2.0  # for a worker whose command was killed
OUTPUT = 512  # the last bytes of a command's output, of which the last line is shown
PART = 1 << 16
DIED = "the program that joins servers has died"


class Worker:
    """A process that makes one probe; see `checks.Connection` for the methods that both have."""

    def __init__(self) -> None:
        self.pid, self.fd, self.events = 0, -1, EPOLLIN

    def fork(self) -> bool:
        """Fork; whether we are the worker, which has to end by os._exit."""
        self.pid, self.fd = fork()
        return self.pid == 0

    def reap(self) -> int:
        """Wait for the worker, which has ended: its exit code, -N if signal N ended it."""
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def ready(self) -> bool:
        """Take the result: the worker has ended."""
        raise NotImplementedError

    def expire(self) -> str:
        """Why there is no success at the end of the time."""
        raise NotImplementedError

    def stop(self) -> None:
        """Have the worker end, which may take a moment."""
        self.kill()

    def kill(self) -> None:
        """Kill the worker."""
        if self.pid:
            os.kill(self.pid, SIGKILL)

    def close(self) -> None:
        """Close our descriptors."""
        if self.fd >= 0:
            os.close(self.fd)


class File(Worker):
    """Whether a file exists in a server."""

    def __init__(self, request: dict[str, Any]) -> None:
        super().__init__()
        self.path = request["path"]
        if self.fork():
            look_up(request)

    def ready(self) -> bool:
        code = self.reap()
        if code < 0:
            raise NotMade("the look-up was killed")
        if code in SHORTAGES:
            raise NotMade(os.strerror(code))
        if code:
            raise Failure(f"{self.path}: {os.strerror(code)}")
        return True

    def expire(self) -> str:
        """Why there is no success at the end of the time."""
        return "the file system did not answer"


def look_up(request: dict[str, Any]) -> NoReturn:
    """Look a file up, and end with the errno as exit code."""
    code = EIO
    try:
        sys_calls.close_range(3, sys_calls.LARGEST_FD)
        root = os.open(f"/proc/{request['pid']}/root", os.O_PATH | os.O_DIRECTORY)
        enter.open_pidfd(request["pid"], request["start"])  # the root was this very process's
        sys_calls.openat2(root, os.fsencode(request["path"]), os.O_PATH, sys_calls.RESOLVE_IN_ROOT)
        code = 0
    except OSError as error:
        code = error.errno or EIO
    finally:
        os._exit(code)


class Command(Worker):
    """A command in a server, run by the program of `vsprov exec` in a fork of ours."""

    def __init__(self, request: dict[str, Any], given: int) -> None:
        """`given` is a memfd with the request to that program, without the command."""
        super().__init__()
        self.incoming, self.text = bytearray(), b""
        asked = wire.loads(os.pread(given, os.fstat(given).st_size, 0))
        asked.update(argv=request["argv"], pid=request["pid"], start=request["start"])
        self.group: str = asked["cgroup"]["payload"]
        self.control, theirs = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        self.output, write = os.pipe2(os.O_CLOEXEC)
        null = -1
        try:
            os.set_blocking(self.output, False)
            # An input at its end. Not /dev/null: the command could change the mode of that of the host.
            null, end = os.pipe2(os.O_CLOEXEC)
            os.close(end)
            if self.fork():
                run(theirs.fileno())
            theirs.close()
            self.send(wire.encode(asked), null, write)
        except (OSError, NotMade):
            self.abandon()
            raise
        finally:
            os.close(write)
            if null >= 0:
                os.close(null)
        self.control.setblocking(False)

    def abandon(self) -> None:
        """End a worker that has not got its request."""
        if self.pid:
            self.kill()
            self.reap()
        self.close()

    def send(self, message: bytes, *streams: int) -> None:
        """Send the request to the worker, which reads it at once, with the streams of the command."""
        rights = [(SOL_SOCKET, SCM_RIGHTS, pack("3i", streams[0], streams[1], streams[1]))]
        try:
            sent = self.control.sendmsg([message], rights, MSG_NOSIGNAL)
            self.control.sendall(message[sent:], MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            raise NotMade(DIED) from None

    def read_output(self) -> bool:
        """Read a part of what the command writes, so that it can go on; False at its end."""
        try:
            part = os.read(self.output, PART)
        except BlockingIOError:
            return True
        self.text = (self.text + part)[-OUTPUT:]
        return bool(part)

    def ready(self) -> bool:
        self.reap()
        try:
            while part := self.control.recv(PART):
                self.incoming += part
        except ConnectionResetError:  # it has not read the whole request
            raise NotMade(DIED) from None
        events = wire.decode(self.incoming)
        last = events[-1] if events else {"event": "none"}
        if last["event"] == "exited" and last.get("code") == 0:
            return True
        raise Failure(self.explain(last))

    def explain(self, event: dict[str, Any]) -> str:
        """Why the command did not succeed. NotMade if the host is why it was not run."""
        if event["event"] == "failed":
            why = f"{event['step']}: {event['message'] or os.strerror(event['errno'])}"
            if is_shortage(event, self.group):
                raise NotMade(why)
            return why
        if event["event"] != "exited":
            raise NotMade(DIED)
        code, number = event.get("code"), event.get("signal")
        how = f"exit code {code}" if number is None else f"killed by signal {number}"
        self.read_output()
        lines = self.text.decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{how}: {said}" if said else how

    def expire(self) -> str:
        """Why there is no success at the end of the time."""
        return "the command did not end"

    def stop(self) -> None:
        message = wire.encode({"cmd": "signal", "number": int(SIGKILL)})
        try:
            self.control.send(message, MSG_NOSIGNAL)
        except OSError:  # it has just ended, or does not read
            self.kill()

    def close(self) -> None:
        super().close()
        self.control.close()
        os.close(self.output)


def is_shortage(event: dict[str, Any], group: str) -> bool:
    """Whether a command was not run because of the host. `group`: that of the commands in the server."""
    if event["errno"] in (EMFILE, ENFILE):
        return True
    if event["step"] != "join":  # what the command itself does has the limits of the server
        return False
    return event["errno"] == ENOMEM or (event["errno"] == EAGAIN and not has_no_processes_left(group))


def has_no_processes_left(group: str) -> bool:
    """Whether pids.max of a group, or of one above it, allows no more processes."""
    while True:
        try:
            with open(f"{group}/pids.max", "rb") as limit, open(f"{group}/pids.current", "rb") as current:
                most = limit.read().strip()
                if most != b"max" and int(current.read()) >= int(most):
                    return True
        except FileNotFoundError:  # the topmost has none, and one that was removed
            return False
        group = os.path.dirname(group)


def run(fd: int) -> NoReturn:
    """Be the program that joins servers."""
    try:
        enter.main(fd, False)
    finally:
        os._exit(0)
