"""Running a command in a server from the caller's terminal or pipes."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import sys
import termios
import tty as terminal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import EACCES, EIO, ENODEV, ENOENT, ESRCH
from marshal import dumps, loads
from typing import Any

from vsprov.engine.run.spawn import start, starting
from vsprov.errors import FailedError

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_CHUNK = 1 << 16
_KILLED = "something on the host has ended vsprov-enter; the command was ended with it"


class EnterError(FailedError):
    """The command could not be started. Exit code: 127 when it was not found, 126 when not executable."""

    def __init__(self, event: Mapping[str, Any], server: str = "") -> None:
        step, path = event["step"], event["path"]
        said = event["message"] or os.strerror(event["errno"])
        words = [f"Server/{server}"] if server else []
        words += [step, *([path] if path and path not in step else []), said]
        super().__init__(": ".join(words))
        if step.startswith("exec "):
            self.exit_code = {ENOENT: 127, EACCES: 126}.get(event["errno"], 126)


def ended(server: str) -> FailedError:
    """The error of a server whose first process, or group, went while it was about to be joined."""
    return FailedError(f"Server/{server}: it has ended", hint="if it is being restarted, try again")


def enter(request: Mapping[str, Any], tty: bool) -> int:
    """Run a command in a running server; its exit code, 128 + N when signal N ended it.

    The request: `pid` and `start` of the server's init, and of the keys that `spawn` describes `cgroup`,
    `argv`, `env`, `cwd`, `user`, `umask`, `capabilities`, `rlimits`, `no_new_privs`, and `seccomp` and
    `oom_score_adj` if any. With `tty` the command gets a terminal of the server's own, of which ours shows
    the other side; without, our standard input, output and error. The signals sent to us go on to it, and two
    seconds after one that is meant to end it SIGKILL does. `server`, if there, names the server in messages.
    EnterError when it could not be started.
    """
    who = request.get("server", "")
    what = f"Server/{who}: enter" if who else "enter"
    with starting(what):
        ours, theirs = socket.socketpair()
    rows, columns = _size() if tty else (0, 0)
    with ours, theirs:
        stdio = (None, None, 2) if tty else (0, 1, 2)
        with starting(what):
            pid = start("enter", theirs.fileno(), session=True, stdio=stdio)
        theirs.close()
        try:
            client = _Client(ours, what)
            client.send({**request, "tty": tty, "rows": rows, "cols": columns})
            event = client.terminal() if tty else client.pipes()
        finally:
            ours.close()
            os.waitpid(pid, 0)
    if event["event"] == "failed":
        gone = event["errno"] in (ENOENT, ENODEV, ESRCH) and event["step"].startswith(("join", "cgroup"))
        raise ended(who) if who and gone else EnterError(event, who)
    code: int = event["code"]
    return code


class _Client:
    """The conversation with the program that joins the server."""

    def __init__(self, channel: socket.socket, name: str) -> None:
        self._channel = channel
        self._name = name
        self._incoming = b""
        self._fds: list[int] = []

    def send(self, message: Mapping[str, Any]) -> None:
        body = dumps(dict(message))
        self._channel.sendall(len(body).to_bytes(4, "little") + body)

    def event(self) -> dict[str, Any]:
        """The next event; a received fd is kept. FailedError when the program has died."""
        while True:
            end = 4 + int.from_bytes(self._incoming[:4], "little")
            if 4 < end <= len(self._incoming):
                event: dict[str, Any] = loads(self._incoming[4:end])
                self._incoming = self._incoming[end:]
                return event
            part, fds, _flags, _address = socket.recv_fds(self._channel, _CHUNK, 1)
            if not part:
                raise FailedError(f"{self._name}: died before the command ended", hint=_KILLED)
            self._incoming += part
            self._fds += fds

    def pipes(self) -> dict[str, Any]:
        """Wait for the end while the command uses our standard fds; signals to us go to it."""
        with _handlers(dict.fromkeys(_FORWARDED, self._forward)):
            return self.event()

    def terminal(self) -> dict[str, Any]:
        """Copy between our terminal and the server's until the command ends."""
        event = self.event()
        if event["event"] != "terminal":
            return event
        master = self._fds.pop()

        def resize(_number: int, _frame: object) -> None:
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", *_size(), 0, 0))

        try:
            handlers = {**dict.fromkeys(_FORWARDED, self._forward), signal.SIGWINCH: resize}
            with _handlers(handlers), _raw_input():
                resize(signal.SIGWINCH, None)  # it may have changed since the request
                return self._copy(master)
        finally:
            os.close(master)

    def _forward(self, number: int, _frame: object) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended already; the event tells
            self.send({"cmd": "signal", "number": number})

    def _copy(self, master: int) -> dict[str, Any]:
        os.set_blocking(master, False)
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(master, select.POLLIN)
        poll.register(self._channel, select.POLLIN)
        typed, shows = b"", True
        while True:
            ready = dict(poll.poll())
            if ready.get(master, 0) & select.POLLOUT:
                typed = typed[_write_some(master, typed) :]
            if ready.get(master, 0) & ~select.POLLOUT and not _show(master):
                poll.unregister(master)
                shows = False
            if 0 in ready:
                part = os.read(0, _CHUNK)
                typed += part or b"\x04"  # end of input: what ^D would be
                if not part:
                    poll.unregister(0)
            if shows:
                poll.modify(master, select.POLLIN | (select.POLLOUT if typed else 0))
            if self._channel.fileno() in ready:
                event = self.event()
                if shows:
                    _show(master)
                return event


def _write_some(fd: int, content: bytes) -> int:
    try:
        return os.write(fd, content)
    except BlockingIOError:
        return 0
    except OSError as error:
        if error.errno != EIO:
            raise
        return len(content)  # nobody holds the other side: as with a real terminal, input is lost


def _show(master: int) -> bool:
    """Copy what the server's terminal has to show to our output; False when nobody holds its other side."""
    for _ in range(64):  # something left behind in the server may write without end
        try:
            part = os.read(master, _CHUNK)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno != EIO:
                raise
            return False
        while part:
            part = part[os.write(1, part) :]
    return True


@contextmanager
def _raw_input() -> Iterator[None]:
    """Our terminal in raw mode, and as it was afterwards; nothing when standard input is none."""
    if not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    terminal.setraw(0, termios.TCSADRAIN)  # what was typed ahead is for the command
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextmanager
def _handlers(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _size() -> tuple[int, int]:
    """(rows, columns) of our terminal; 24 by 80 when there is none."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        try:
            size = os.get_terminal_size(stream.fileno())
        except (OSError, ValueError):
            continue
        return size.lines, size.columns
    return 24, 80
