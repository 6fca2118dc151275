"""Starting the guest programs, and the client of the spawner; vsprov/guest/wire.py describes the messages."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from vsprov import PACKAGE
from vsprov.engine.run import outcome
from vsprov.errors import EXHAUSTED, FailedError, StepError, reason
from vsprov.guest import wire
from vsprov.kernel import proc, syscall

if TYPE_CHECKING:
    from vsprov.guest.wire import Event, Guest, Release, Spawn

PROGRAM = os.path.join(PACKAGE, "guest", "main.py")
SECONDS_TO_LEAVE = 10.0
SECONDS_TO_ANSWER = 60.0  # a spawner that takes longer was stopped by a signal, or the host is overloaded
_BUFFER = 4 << 20


def start(verb: str, fd: int, *, session: bool, stdio: Sequence[int | None]) -> tuple[int, int]:
    """Start a guest program, `spawner` or `enter`: its pid, and a descriptor to close, for which the kernel
    takes 10 ms. OSError as open_tree(2) and posix_spawn(3).

    `fd` is its socket, `stdio` its fds 0, 1 and 2 (None: /dev/null). With VSPROV_MACHINE_CODE=0 in our
    environment it makes the system calls of its children in Python; see vsprov/guest/syscall_list.py.

    The interpreter is run from a detached read-only mount: a guest whose program is "#!/proc/self/exe" could
    otherwise write to the host's interpreter (CVE-2019-5736).
    """
    options = ["python"] if os.environ.get("VSPROV_MACHINE_CODE") == "0" else []
    flags = ["-I", "-S", "-X", "utf8"] + (["-B"] if sys.dont_write_bytecode else [])
    interpreter = os.path.realpath(sys.executable)
    tree = syscall.open_tree(syscall.AT_FDCWD, interpreter, syscall.OPEN_TREE_CLONE)
    try:
        syscall.mount_setattr(tree, "", syscall.MOUNT_ATTR_RDONLY)
        actions: list[tuple[Any, ...]] = []
        for number, given in enumerate(stdio):
            if given is None:
                actions.append((os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0))
            elif given != number:
                actions.append((os.POSIX_SPAWN_DUP2, given, number))
        os.set_inheritable(fd, True)
        words = [sys.executable, *flags, PROGRAM, verb, str(fd), *options]
        path = f"/proc/self/fd/{tree}"
        return os.posix_spawn(path, words, {}, file_actions=actions, setsid=session), tree
    except BaseException:
        os.close(tree)
        raise


@contextmanager
def starting(what: str) -> Iterator[None]:
    """Turn OSError into a FailedError that says what could not be started, with a hint about limits."""
    try:
        yield
    except OSError as error:
        raise FailedError(
            f"{what}: start: {reason(error)}", hint=EXHAUSTED.get(error.errno or 0, "")
        ) from error


def _ends(pid: int) -> bool:
    """Whether a child of ours ends within SECONDS_TO_LEAVE."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:  # no fd is left
        return False
    try:
        return syscall.is_ready(pidfd, SECONDS_TO_LEAVE)
    finally:
        os.close(pidfd)


class Connection:
    """A client's end of a spawner's control socket; `fileno()` becomes readable when there are events."""

    def __init__(self, control: socket.socket) -> None:
        control.setblocking(False)
        self._socket = control
        self._ids = 0
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._ended = False

    def fileno(self) -> int:
        """The fd to wait on."""
        return self._socket.fileno()

    def request(self, guest: Guest) -> int:
        """Ask for a guest; the id that its events will have."""
        self._ids += 1
        self._send({"cmd": "spawn", "id": self._ids, "guest": guest})
        return self._ids

    def release(self, number: int) -> None:
        """Open the gate of a guest that is `ready`."""
        self._send({"cmd": "release", "id": number})

    def events(self) -> list[Event]:
        """The events since the last call, in order; does not wait. FailedError when the spawner has died."""
        self._receive()
        events: list[Event] = wire.decode(self._incoming)
        for event in events:
            if event["event"] == "failed" and event["id"] == 0:
                hint = EXHAUSTED.get(event["errno"], "")
                raise FailedError(f"spawner: start: {outcome.explain(event)}", hint=hint)
        return events

    def close(self) -> None:
        """End every guest at its gate; released ones live on. May be called twice."""
        self._socket.close()

    def _send(self, message: Spawn | Release) -> None:
        self._outgoing += wire.encode(message)
        while self._outgoing:
            try:
                sent = self._socket.send(self._outgoing, socket.MSG_NOSIGNAL)
                del self._outgoing[:sent]
            except BlockingIOError:
                # Read meanwhile, because the spawner may wait for that.
                if not syscall.is_ready(self.fileno(), SECONDS_TO_ANSWER, select.POLLIN | select.POLLOUT):
                    error = f"spawner: send a request: it did not read for {SECONDS_TO_ANSWER:g} s"
                    raise FailedError(error) from None
                self._receive()
            except (BrokenPipeError, ConnectionResetError):
                raise FailedError("spawner: died before it took a request") from None

    def _receive(self) -> None:
        while True:
            try:
                part = self._socket.recv(1 << 18)
            except BlockingIOError:
                return
            except ConnectionResetError:  # it died with requests unread
                part = b""
            if not part:
                if self._incoming and not self._ended:
                    self._ended = True  # its last event may give the reason
                    return
                raise FailedError("spawner: died", hint="its messages are on standard error")
            self._incoming += part


@contextmanager
def ahead() -> Iterator[Spawner | None]:
    """A spawner that gets ready while the caller loads and plans what it is for, which takes as long; for
    commands that most probably start servers. None if it cannot be started: what needs one then says why.
    """
    try:
        spawner = Spawner()
    except FailedError:
        yield None
        return
    with spawner:
        yield spawner


class Spawner(Connection):
    """A spawner of our own, which ends with this connection. A context manager."""

    def __init__(self) -> None:
        self._silent: StepError | None = None
        with starting("spawner"), ExitStack() as undo:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            undo.enter_context(ours)
            with theirs:
                for end in (ours, theirs):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
                self._pid, tree = start("spawner", theirs.fileno(), session=True, stdio=(None, None, 2))
            undo.pop_all()
        super().__init__(ours)
        self._closing = threading.Thread(target=os.close, args=(tree,), name="close program")
        self._closing.start()

    @property
    def pid(self) -> int:
        return self._pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def request(self, guest: Guest) -> int:
        """As `Connection.request`; fails at once after `give_up`."""
        if self._silent:
            raise self._silent
        return super().request(guest)

    def give_up(self, seconds: float) -> StepError:
        """The error for an answer that did not come in time; every later request fails with it at once."""
        state = " ".join((proc.read(f"/proc/{self._pid}/stat") or "").rpartition(")")[2].split()[:1])
        self._silent = StepError(
            f"spawner: wait for its answer: none within {seconds:g} s (pid {self._pid}, state {state})",
            hint="state T: stopped by SIGSTOP or a debugger; D: blocked in the kernel, see /proc/PID/stack",
        )
        return self._silent

    def close(self) -> None:
        """End the spawner and wait until it is gone; it ends by itself, unless it is stopped."""
        if self.fileno() >= 0:
            super().close()
            self._closing.join()
            os.kill(self._pid, signal.SIGCONT)  # a stopped one can then end
            if not _ends(self._pid):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
