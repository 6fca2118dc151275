"""The prober as the keeper sees it: a child that is started with the first probe, and again if it dies."""

from __future__ import annotations

import os
import sys
from _socket import AF_UNIX, MSG_DONTWAIT, SOCK_CLOEXEC, SOCK_SEQPACKET, socketpair
from marshal import dumps, loads
from signal import SIGKILL

from .. import packets

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from ..loop import Loop

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "main.py")
LARGEST = 1 << 12  # bytes of an answer
STUCK = 60.0  # seconds without an answer, beyond those of the probe, after which the prober is killed


class Client:
    """Sends requests to the prober. `answered` gets its answers, `lost` is called when it has died."""

    def __init__(
        self, loop: Loop, answered: Callable[[dict[str, Any]], None], lost: Callable[[], None]
    ) -> None:
        self.loop, self.answered, self.lost = loop, answered, lost
        self.pid = 0

    def ask(self, request: dict[str, Any], *fds: int) -> bool:
        """Send a request; False if the prober has too many already. OSError if it cannot be started."""
        if not self.pid:
            self.start()
        try:
            packets.send(self.control, dumps(request), *fds)
        except BlockingIOError:
            return False
        if (self.loop.timers.seconds(self) or 0.0) < (most := STUCK + request["seconds"]):
            self.loop.timers.set(self, most, self.kill)
        return True

    def start(self) -> None:
        """Start the program."""
        self.control, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
        self.loop.watch(self.control.fileno(), self.receive)
        try:
            pid = os.fork()
        except OSError:
            self.loop.forget(self.control.fileno())
            self.control.close()
            theirs.close()
            raise
        if pid == 0:
            execute(theirs.fileno())
        self.pid = pid
        theirs.close()

    def receive(self) -> None:
        """Take an answer, or see that the prober has died."""
        try:
            text = self.control.recv(LARGEST, MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionResetError:
            text = b""
        self.loop.timers.cancel(self)
        if text:
            self.answered(loads(text))
        else:
            self.close()
            self.lost()

    def kill(self) -> None:
        """Kill it; `receive` sees that."""
        os.kill(self.pid, SIGKILL)

    def close(self) -> None:
        """End the prober. Its workers that have joined servers see that their socket is closed, and end."""
        if self.pid:
            self.loop.timers.cancel(self)
            self.loop.forget(self.control.fileno())
            self.control.close()
            self.kill()
            os.waitpid(self.pid, 0)
            self.pid = 0


def execute(fd: int) -> NoReturn:
    """Become the prober, in a fork.

    The interpreter is run from a detached read-only mount: a command in a server that is "#!/proc/self/exe"
    could otherwise write to the host's interpreter (CVE-2019-5736).
    """
    try:
        from .guests import sys_calls

        interpreter = os.fsencode(os.path.realpath(sys.executable))
        tree = sys_calls.open_tree(sys_calls.AT_FDCWD, interpreter, sys_calls.OPEN_TREE_CLONE)
        sys_calls.mount_setattr(tree, False, sys_calls.MOUNT_ATTR_RDONLY)
        os.set_inheritable(fd, True)
        words = [sys.executable, "-I", "-S", "-B", "-X", "utf8", PROGRAM, str(fd)]
        os.execve(f"/proc/self/fd/{tree}", words, {})
    finally:
        os._exit(1)
