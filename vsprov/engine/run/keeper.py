"""The client of the keeper, which drains the consoles of servers and sees them end; vsprov/keeper/protocol.py
describes the messages.

One keeper serves an instance, in a control group of its own below the instance's, so that it does not end
with the login session that started it. Killing it harms no server: the next command that changes something
starts another, which takes over all servers. It ends by itself after the last server.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from typing import Any

from vsprov import PACKAGE
from vsprov.errors import FailedError, reason
from vsprov.keeper import protocol
from vsprov.kernel import cgroup, process, syscall
from vsprov.kernel.cgroup import Hierarchies
from vsprov.kernel.paths import FOLDER
from vsprov.plan.observed import Process
from vsprov.store.disk import marks
from vsprov.store.instance import Instance

PROGRAM = os.path.join(PACKAGE, "keeper", "main.py")
# The programs; each has a group of its name after a dot, with which no name of a server or pool begins.
KEEPER, TERMINALS = "keeper", "terminals"
FORMATS = {KEEPER: protocol.FORMAT, TERMINALS: 1}  # of their messages
ROLE, ACT = "keeper", "act"
SECONDS = 5.0  # for an answer
MOST_CONSOLES = 128  # held open at a time
_ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_FIFO = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class KeeperGone(FailedError):
    """The keeper has ended, or does not answer."""


def address(instance: Instance, program: str = KEEPER) -> str:
    """The path of its socket."""
    return f"{instance.run}/{program}"


def connect(instance: Instance, seconds: float = SECONDS, program: str = KEEPER) -> Keeper | None:
    """A connection to the running keeper; None if there is none, it is of another version, or it does not
    answer within `seconds`. `program`: the keeper, or the holder of terminals.
    """
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        control.settimeout(seconds)
        control.connect(address(instance, program))
    except (
        FileNotFoundError,
        ConnectionRefusedError,
        TimeoutError,
        BlockingIOError,
    ):  # EAGAIN: too many wait
        control.close()
        return None
    keeper = Keeper(control)
    try:
        if keeper.hello(seconds)["format"] == FORMATS[program]:
            return keeper
    except KeeperGone:
        pass  # it was just ending
    keeper.close()
    return None


def start(instance: Instance, hierarchies: Hierarchies, program: str = KEEPER) -> Keeper:
    """Start a keeper, under the lock; one that `connect` could not reach is killed first."""
    group = f"{hierarchies.directory('', instance.name)}/.{program}"
    path = address(instance, program)
    try:
        _end(group)
        with ExitStack() as undo:
            listener = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(theirs.close)
            with suppress(FileNotFoundError):
                os.unlink(path)
            listener.bind(path)
            os.chmod(path, 0o600)
            listener.listen(64)
            pid = _run(instance, program, listener.fileno(), theirs.fileno())
    except OSError as error:
        raise FailedError(f"{program}: start: {reason(error)}") from error
    groups = (group, *set(hierarchies.v1.values()))
    return Keeper(ours, pid, groups, acts=program == KEEPER)


def _end(group: str) -> None:
    """Kill a program and what it uses. What it runs, in a group below, goes on: that may be this command.

    A process that is blocked in the kernel, as one that a server holds up may be, does not go on when that
    ends, so it is not waited for longer.
    """
    found = [(pid, start) for pid in cgroup.processes(group) if (start := process.start_time(pid))]
    for pid, start in found:
        process.kill(pid, start, 0)
    deadline = time.monotonic() + SECONDS
    for pid, start in found:
        process.kill(pid, start, max(0.0, deadline - time.monotonic()))


def _run(instance: Instance, program: str, *fds: int) -> int:
    """Run the program; the pid of a process that ends as soon as it has made the keeper by a fork."""
    for fd in fds:
        os.set_inheritable(fd, True)
    words = [sys.executable, "-I", "-S", "-B", "-X", "utf8", PROGRAM]
    words += [instance.name, instance.root, *map(str, fds)]
    words += [program] if program != KEEPER else []
    null = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in range(3)]
    return os.posix_spawn(sys.executable, words, {}, file_actions=null)


def sealed(data: bytes) -> int:
    """A memfd with these bytes, which nobody can change."""
    fd = os.memfd_create("spec", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, data)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _ALL_SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Keeper:
    """A connection to the keeper.

    One that we have just started has a `parent` to wait for, and goes into `groups`: the first, which is
    created, and existing ones.
    """

    def __init__(
        self, control: socket.socket, parent: int = 0, groups: tuple[str, ...] = (), *, acts: bool = True
    ) -> None:
        self._socket = control
        self._parent = parent
        self._groups = groups
        self._acts = acts  # runs commands itself, in a group of their own
        self._hello: protocol.Hello | None = None
        # What is in a FIFO is lost when nobody has it open any more (pipe(7)). A server may have ended before
        # the keeper opens its console, so we hold it open until the keeper has answered.
        self._consoles: list[int] = []

    def hello(self, seconds: float = SECONDS) -> protocol.Hello:
        """Its first message; waits until it runs."""
        if self._hello is None:
            self._hello = self._receive(seconds)
        return self._hello

    def keep(
        self,
        name: str,
        init: Process,
        spec: Mapping[str, Any],
        *,
        folder: str,
        home: str,
        memory: str,
        more: Mapping[str, int],
    ) -> bool:
        """Have a server kept by this spec (`fields.kept`): its directory, its home group, and its group of
        the memory controller. `more` are further descriptors by name, which the caller closes. False if it
        has ended.
        """
        self._move()
        if len(self._consoles) >= MOST_CONSOLES:
            self.settle()
        with ExitStack() as opened:
            fds: dict[str, int] = {}

            def hold(name: str, fd: int) -> None:
                opened.callback(os.close, fd)
                fds[name] = fd

            try:
                hold("folder", os.open(folder, FOLDER))
                hold("home", os.open(home, FOLDER))
                pidfd = process.open_pidfd(init.pid, init.start)
                if pidfd is None:
                    return False
                hold("pidfd", pidfd)
                hold("spec", sealed(protocol.encode(dict(spec))))
                with suppress(FileNotFoundError):  # a server of an earlier version has none
                    self._consoles.append(os.open(f"{folder}/{protocol.FIFO}", _FIFO))
                for file in cgroup.OOM_COUNTERS:
                    with suppress(FileNotFoundError):
                        hold("counters", os.open(f"{memory}/{file}", os.O_RDONLY | os.O_CLOEXEC))
                        break
            except OSError as error:
                raise FailedError(f"Server/{name}: keep: {reason(error)}") from error
            fds.update(more)
            about = {"name": name, "pid": init.pid, "start": init.start, "fds": list(fds)}
            self._send({"cmd": "keep", **about}, fds.values())
            return True

    def ended(
        self, name: str, init: Process, spec: Mapping[str, Any], status: int | None, *, folder: str, home: str
    ) -> None:
        """Tell it of a server that has ended, by itself, while there was no keeper; its wait status, if that
        is known.
        """
        self._move()
        with ExitStack() as opened:
            fds: list[int] = []
            try:
                for fd in (
                    os.open(folder, FOLDER),
                    os.open(home, FOLDER),
                    sealed(protocol.encode(dict(spec))),
                ):
                    opened.callback(os.close, fd)
                    fds.append(fd)
            except OSError as error:
                raise FailedError(f"Server/{name}: keep: {reason(error)}") from error
            about = {"name": name, "pid": init.pid, "start": init.start, "status": status}
            self._send({"cmd": "ended", **about}, fds)

    def allow(self, seconds: float) -> None:
        """Have it let `keeper act`, which we are, take so many seconds longer than usual, from now on."""
        self._send({"cmd": "allow", "seconds": seconds})

    def status(self, seconds: float = SECONDS) -> protocol.Status:
        """What it does at the moment."""
        self.hello(seconds)
        self._send({"cmd": "status"})
        status: protocol.Status = self._receive(seconds)
        return status

    def hold(self, name: str, master: int, fifo: int, pidfd: int) -> None:
        """Have the terminal of a server held under a unique name, if this is the holder of terminals;
        vsprov/keeper/terminals.py describes its messages.
        """
        self._move()
        self._send({"cmd": "hold", "name": name}, (master, fifo, pidfd))
        self._receive(SECONDS)

    def terminals(self, seconds: float = SECONDS) -> list[str]:
        """The names under which terminals are held, if this is the holder of terminals."""
        self.hello(seconds)
        self._send({"cmd": "list"})
        names: list[str] = self._receive(seconds)["names"]
        return names

    def settle(self, name: str | None = None, seconds: float = SECONDS) -> protocol.Settled:
        """Wait until logs and exits are complete: of one server, or of all."""
        self.hello()
        self._send({"cmd": "settle", "name": name})
        settled: protocol.Settled = self._receive(seconds)
        self._close_consoles()
        return settled

    def fileno(self) -> int:
        """The descriptor of the connection."""
        return self._socket.fileno()

    def is_gone(self) -> bool:
        """Whether it has ended."""
        try:
            return syscall.is_ready(self._socket.fileno(), 0) and not self._socket.recv(1, socket.MSG_PEEK)
        except ConnectionResetError:
            return True

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
            for directory in (own, f"{own}/{ACT}") if self._acts else (own,):
                with suppress(FileExistsError):
                    os.mkdir(directory, 0o755)
            marks.write_mark(own, marks.OWNER, f"{ROLE} {os.path.basename(os.path.dirname(own))}/keeper")
            for directory in self._groups:
                cgroup.write(f"{directory}/cgroup.procs", str(pid))
        except OSError as error:
            raise FailedError(f"keeper: move to {own}: {reason(error)}") from error
        self._groups = ()
        if not self._acts:
            return
        procs = os.open(f"{own}/{ACT}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            self._send({"cmd": "group"}, (procs,))
        finally:
            os.close(procs)

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
            text, fds, _, _ = socket.recv_fds(self._socket, protocol.LARGEST, 1)
        except ConnectionResetError:
            text, fds = b"", []
        except TimeoutError:
            raise KeeperGone(
                f"keeper: no answer after {seconds:g} s", hint="the next apply replaces it"
            ) from None
        if not text:
            raise KeeperGone("keeper: died")
        if fds:  # the answer is too long for a packet
            with open(fds[0], "rb") as file:
                text = file.read()
        return protocol.decode(text)
