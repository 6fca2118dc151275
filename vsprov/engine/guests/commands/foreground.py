"""Running a command in a server in the foreground: on a terminal of the server's, or through pipes."""

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from errno import EACCES, EIO, ENODEV, ENOENT, ESRCH
from typing import TYPE_CHECKING, Any

from vsprov.engine.guests.commands.relay import Relay
from vsprov.engine.run import outcome
from vsprov.engine.run.spawn import start, starting
from vsprov.errors import FailedError
from vsprov.guest import wire

if TYPE_CHECKING:
    from vsprov.guest.wire import Enter, Event, Exited, Failed, Request

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_CHUNK = 1 << 16
_KILLED = "vsprov-enter was killed, and the command with it"


class EnterError(FailedError):
    """The command could not be started. Exit code: 127 when it was not found, 126 when not executable."""

    def __init__(self, event: Failed, server: str = "") -> None:
        message = outcome.explain(event)
        super().__init__(f"Server/{server}: {message}" if server else message)
        if event["step"].startswith("exec "):
            self.exit_code = {ENOENT: 127, EACCES: 126}.get(event["errno"], 126)


def ended(server: str) -> FailedError:
    """The error for a server whose first process or group disappeared while a command was joining it."""
    return FailedError(f"Server/{server}: has exited", hint="if it is being restarted, try again")


def run(request: Enter, server: str = "") -> int:
    """Run a command in a running server; its exit code, 128 + N when signal N ended it.

    With a tty the command gets a terminal of the server's own, which we copy to and from ours; without, it
    gets pipes, copied to and from our standard input, output and error. Signals sent to us are forwarded;
    after one that asks the command to end it has two seconds until SIGKILL. `server` is its name, for
    messages. EnterError when it cannot be started.
    """
    rows, columns = _size() if request["tty"] else (0, 0)
    with ExitStack() as held:
        with starting(_what(server)):
            relay = None if request["tty"] else held.enter_context(Relay())
        with _joining(server) as client:
            client.send({**request, "rows": rows, "cols": columns}, relay.given if relay else ())
            event = client.pipes(relay) if relay else client.terminal()
        if relay:
            relay.finish()
    return _code(event, server)


def collect(request: Enter, server: str) -> tuple[int, str]:
    """Run a command in a running server, without terminal and input: its exit code, as of `run`, and what it
    wrote, up to 64 KiB. EnterError when it cannot be started.
    """
    with ExitStack() as held:
        with starting(_what(server)):
            empty, source = os.pipe()
            held.callback(os.close, empty)
            os.close(source)
            output, sink = os.pipe()
            held.callback(os.close, output)
            held.callback(os.close, sink)
        with _joining(server) as client:
            client.send(request, (empty, sink, sink))
            event = client.last_event()
        os.set_blocking(output, False)
        said = b""
        with suppress(BlockingIOError):  # it wrote nothing
            said = os.read(output, _CHUNK)
    return _code(event, server), said.decode(errors="replace")


def _what(server: str) -> str:
    return f"Server/{server}: enter" if server else "enter"


def _code(event: Exited | Failed, server: str) -> int:
    """The exit code of a command, if it was executed."""
    if event["event"] == "failed":
        gone = event["errno"] in (ENOENT, ENODEV, ESRCH) and event["step"].startswith(("join", "cgroup"))
        raise ended(server) if server and gone else EnterError(event, server)
    return outcome.exit_code(event)


@contextmanager
def _joining(server: str) -> Iterator[_Client]:
    """The program that joins a server, for one command; after that both have ended."""
    with ExitStack() as held:
        with starting(_what(server)):
            ours, theirs = map(held.enter_context, socket.socketpair())
            pid, tree = start("enter", theirs.fileno(), session=True, stdio=(None, None, 2))
        theirs.close()
        os.close(tree)  # while the program starts
        try:
            yield _Client(ours, _what(server))
        finally:
            ours.close()
            os.waitpid(pid, 0)


class _Client:
    """The conversation with the program that joins the server."""

    def __init__(self, channel: socket.socket, name: str) -> None:
        self._channel = channel
        self._name = name
        self._incoming = bytearray()
        self._events: list[Event] = []
        self._fds: list[int] = []

    def send(self, message: Request, fds: Sequence[int] = ()) -> None:
        content = wire.encode(message)
        sent = socket.send_fds(self._channel, [content], fds) if fds else 0
        self._channel.sendall(content[sent:])

    def event(self) -> Event:
        """The next event; an fd that comes with it is kept. FailedError when the program has died."""
        while not self._events:
            try:
                part, fds, _flags, _address = socket.recv_fds(self._channel, _CHUNK, 1)
            except ConnectionResetError:  # it died before it had read a signal that we have forwarded
                part = b""
            if not part:
                raise FailedError(f"{self._name}: died before the command ended", hint=_KILLED)
            self._fds += fds
            self._incoming += part
            self._events = wire.decode(self._incoming)
        return self._events.pop(0)

    def pipes(self, relay: Relay) -> Exited | Failed:
        """Copy the command's streams until it ends; forward signals to it."""
        with _handlers(dict.fromkeys(_FORWARDED, self._forward)):
            relay.start_output()
            return self.last_event(relay.start_input)

    def last_event(self, started: Callable[[], None] = lambda: None) -> Exited | Failed:
        """Wait until the command ends; `started` is called when it runs."""
        event = self.event()
        if event["event"] == "running":
            started()
            event = self.event()
        return _last(event)

    def terminal(self) -> Exited | Failed:
        """Copy between our terminal and the server's until the command ends."""
        event = self.event()
        if event["event"] == "failed":
            return event
        master = self._fds.pop()

        def resize(_number: int, _frame: object) -> None:
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", *_size(), 0, 0))

        try:
            handlers = {**dict.fromkeys(_FORWARDED, self._forward), signal.SIGWINCH: resize}
            with _handlers(handlers), _raw_input():
                resize(signal.SIGWINCH, None)  # the size may have changed since the request
                return self._copy(master)
        finally:
            os.close(master)

    def _forward(self, number: int, _frame: object) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended; the event follows
            self.send({"cmd": "signal", "number": number})

    def _copy(self, master: int) -> Exited | Failed:
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
                typed += part or b"\x04"  # end of input, as by ^D
                if not part:
                    poll.unregister(0)
            if shows:
                poll.modify(master, select.POLLIN | (select.POLLOUT if typed else 0))
            if self._channel.fileno() in ready:
                event = self.event()
                if event["event"] != "running":
                    if shows:
                        _show(master)
                    return _last(event)


def _last(event: Event) -> Exited | Failed:
    assert event["event"] == "exited" or event["event"] == "failed", event
    return event


def _write_some(fd: int, content: bytes) -> int:
    try:
        return os.write(fd, content)
    except BlockingIOError:
        return 0
    except OSError as error:
        if error.errno != EIO:
            raise
        return len(content)  # nobody has the slave open: input is lost, as on a real terminal


def _show(master: int) -> bool:
    """Copy the output of the server's terminal to ours; False when nobody has its slave open."""
    for _ in range(64):  # a process left behind in the server may write without end
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
    """Put our terminal in raw mode, and restore it afterwards; nothing if standard input is no terminal."""
    if not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    terminal.setraw(0, termios.TCSADRAIN)  # keeps what was typed ahead, for the command
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
    """(rows, columns) of our terminal; 24 by 80 if there is none."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        try:
            size = os.get_terminal_size(stream.fileno())
        except (OSError, ValueError):
            continue
        return size.lines, size.columns
    return 24, 80
