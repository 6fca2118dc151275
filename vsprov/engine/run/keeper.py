"""The client of the keeper, which drains the consoles of servers and sees them end; vsprov/keeper/protocol.py
describes the messages.

One keeper serves an instance, in a control group of its own below the instance's, so that it does not end
with the login session that started it. Killing it harms no server: the next command that changes something
starts another, which takes over all servers. It ends by itself after the last server.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from typing import Any

from vsprov import PACKAGE
from vsprov.errors import FailedError, reason
from vsprov.keeper import protocol
from vsprov.keeper.log import FIFO
from vsprov.kernel import cgroup, process
from vsprov.kernel.cgroup import Hierarchies
from vsprov.kernel.paths import FOLDER
from vsprov.plan.observed import Process
from vsprov.store.disk import marks
from vsprov.store.instance import Instance

PROGRAM = os.path.join(PACKAGE, "keeper", "main.py")
ROLE, GROUP = "keeper", ".keeper"  # names of servers and pools do not begin with a dot
SECONDS = 5.0  # for an answer
MOST_CONSOLES = 128  # held open at a time
_FIFO = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class KeeperGone(FailedError):
    """The keeper has ended, or does not answer."""


def address(instance: Instance) -> str:
    """The path of its socket."""
    return f"{instance.run}/keeper"


def connect(instance: Instance, seconds: float = SECONDS) -> Keeper | None:
    """A connection to the running keeper; None if there is none, it is of another version, or it does not
    answer within `seconds`.
    """
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        control.settimeout(seconds)
        control.connect(address(instance))
    except (FileNotFoundError, ConnectionRefusedError, TimeoutError):
        control.close()
        return None
    keeper = Keeper(control)
    try:
        if keeper.hello(seconds)["format"] == protocol.FORMAT:
            return keeper
    except KeeperGone:
        pass  # it was just ending
    keeper.close()
    return None


def start(instance: Instance, hierarchies: Hierarchies) -> Keeper:
    """Start a keeper, under the lock; one that `connect` could not reach is killed first."""
    group = f"{hierarchies.directory('', instance.name)}/{GROUP}"
    path = address(instance)
    try:
        cgroup.end(group, SECONDS)
        with ExitStack() as undo:
            listener = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(theirs.close)
            with suppress(FileNotFoundError):
                os.unlink(path)
            listener.bind(path)
            os.chmod(path, 0o600)
            listener.listen(64)
            pid = _run(instance.name, listener.fileno(), theirs.fileno())
    except OSError as error:
        raise FailedError(f"keeper: start: {reason(error)}") from error
    return Keeper(ours, pid, (group, *set(hierarchies.v1.values())))


def _run(name: str, *fds: int) -> int:
    """Run the program; the pid of a process that ends as soon as it has made the keeper by a fork."""
    for fd in fds:
        os.set_inheritable(fd, True)
    words = [sys.executable, "-I", "-S", "-B", "-X", "utf8", PROGRAM, name, *map(str, fds)]
    null = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in range(3)]
    return os.posix_spawn(sys.executable, words, {}, file_actions=null)


class Keeper:
    """A connection to the keeper.

    One that we have just started has a `parent` to wait for, and goes into `groups`: the first, which is
    created, and existing ones.
    """

    def __init__(self, control: socket.socket, parent: int = 0, groups: tuple[str, ...] = ()) -> None:
        self._socket = control
        self._parent = parent
        self._groups = groups
        self._hello: protocol.Hello | None = None
        # What is in a FIFO is lost when nobody has it open any more (pipe(7)). A server may have ended before
        # the keeper opens its console, so we hold it open until the keeper has answered.
        self._consoles: list[int] = []

    def hello(self, seconds: float = SECONDS) -> protocol.Hello:
        """Its first message; waits until it runs."""
        if self._hello is None:
            self._hello = self._receive(seconds)
        return self._hello

    def keep(self, name: str, init: Process, folder: str, home: str, memory: str) -> None:
        """Have a server kept: its directory, its home group, and its group of the memory controller."""
        self._move()
        if len(self._consoles) >= MOST_CONSOLES:
            self.settle()
        with ExitStack() as opened:

            def held(fd: int) -> int:
                opened.callback(os.close, fd)
                return fd

            try:
                fds = [held(os.open(folder, FOLDER)), held(os.open(home, FOLDER))]
                pidfd = process.open_pidfd(init.pid, init.start)
                if pidfd is None:
                    return  # it has ended
                fds.append(held(pidfd))
                with suppress(FileNotFoundError):  # a server of an earlier version has none
                    self._consoles.append(os.open(f"{folder}/{FIFO}", _FIFO))
                for file in cgroup.OOM_COUNTERS:
                    with suppress(FileNotFoundError):
                        fds.append(held(os.open(f"{memory}/{file}", os.O_RDONLY | os.O_CLOEXEC)))
                        break
            except OSError as error:
                raise FailedError(f"Server/{name}: keep: {reason(error)}") from error
            self._send({"cmd": "keep", "name": name, "pid": init.pid, "start": init.start}, fds)

    def settle(self, name: str | None = None, seconds: float = SECONDS) -> protocol.Settled:
        """Wait until logs and exits are complete: of one server, or of all."""
        self.hello()
        self._send({"cmd": "settle", "name": name})
        settled: protocol.Settled = self._receive(seconds)
        self._close_consoles()
        return settled

    def close(self) -> None:
        """End the connection; the keeper stays while there are servers."""
        self._socket.close()
        self._close_consoles()
        if self._parent:
            os.waitpid(self._parent, 0)
            self._parent = 0

    def _close_consoles(self) -> None:
        while self._consoles:
            os.close(self._consoles.pop())

    def _move(self) -> None:
        """Put a keeper that we have just started in its groups: its own, and the topmost of cgroup v1."""
        if not self._groups:
            return
        pid, own = self.hello()["pid"], self._groups[0]
        try:
            os.mkdir(own, 0o755)
            marks.write_mark(own, marks.OWNER, f"{ROLE} {os.path.basename(os.path.dirname(own))}/keeper")
            for directory in self._groups:
                cgroup.write(f"{directory}/cgroup.procs", str(pid))
        except OSError as error:
            raise FailedError(f"keeper: move to {own}: {reason(error)}") from error
        self._groups = ()

    def _send(self, message: Any, fds: Iterable[int] = ()) -> None:
        self._socket.settimeout(SECONDS)
        try:
            socket.send_fds(self._socket, [protocol.encode(message)], list(fds), socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            raise KeeperGone("keeper: died") from None
        except TimeoutError:
            raise KeeperGone(f"keeper: send a message: it did not read for {SECONDS:g} s") from None

    def _receive(self, seconds: float) -> Any:
        self._socket.settimeout(seconds)
        try:
            text = self._socket.recv(protocol.LARGEST)
        except ConnectionResetError:
            text = b""
        except TimeoutError:
            raise KeeperGone(
                f"keeper: no answer after {seconds:g} s", hint="the next apply replaces it"
            ) from None
        if not text:
            raise KeeperGone("keeper: died")
        return protocol.decode(text)
