"""Runs `vsprov keeper act`, which does what is due: one process for all servers, and one at a time."""

from __future__ import annotations

import os
import sys
from signal import SIGKILL, SIGTERM

from .processes import fork
from .timers import uptime

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from .loop import Loop

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FAILED, LOCKED, NOT_RUN = 1, 75, 127  # exit codes; LOCKED: another command held the lock for too long
SECONDS_AGAIN = 1.0  # until the next try if it could not be started
LONGEST = 600.0  # seconds until it is ended, beyond what it announces with `Allow`
SECONDS_TO_END = 30.0  # after SIGTERM
LONGEST_LINE = 500


class Runner:
    """The process that acts, if one is running. `count` is how many did so far, `group` is cgroup.procs of
    the group that they go into. `late`: it was ended, because it took too long.
    """

    def __init__(self, loop: Loop, instance: str, root: str) -> None:
        self.loop = loop
        self.command = [
            *(sys.executable, "-I", "-X", "utf8", "-m", "vsprov"),
            *("--instance", instance, "--root", root, "keeper", "act"),
        ]
        self.group = -1
        self.pid = 0
        self.began = 0.0
        self.count = 0
        self.allowed = 0.0  # seconds that the running one has announced
        self.late = False
        self.problem = ""  # what the last one said, if it failed

    def request(self) -> None:
        """Have what is due done: now, or if a process is at it, after that."""
        if not self.pid:
            self._start()

    def _start(self) -> None:
        self.began = uptime()
        said = -1
        try:
            said = os.memfd_create("stderr", os.MFD_CLOEXEC)
            pid, pidfd = fork()
        except OSError as error:  # EAGAIN, ENOMEM, EMFILE, ENFILE
            if said >= 0:
                os.close(said)
            self.problem = f"run keeper act: {error.strerror}"
            self.loop.timers.set("act", SECONDS_AGAIN, self.request)
            return
        if pid == 0:
            self._become(said)
        self.pid, self.late = pid, False
        self.count += 1
        self.allow(0.0)
        self.loop.watch(pidfd, lambda: self._ended(pidfd, said))

    def allow(self, seconds: float) -> None:
        """Let the running process take so much longer than usual, from now on."""
        if self.pid and not self.late:
            self.allowed = seconds
            self.loop.timers.set(self, LONGEST + seconds, self._terminate)

    def _terminate(self) -> None:
        """End a process that takes too long, for nothing else is started again meanwhile. What it has left
        half done is put right by the next command.
        """
        self.late = True
        self.problem = f"keeper act: took longer than {LONGEST + self.allowed:g} s, and was ended"
        os.kill(self.pid, SIGTERM)
        self.loop.timers.set(self, SECONDS_TO_END, self._kill)

    def _kill(self) -> None:
        """Kill it. One that is blocked in the kernel may stay, and `problem` says so."""
        os.kill(self.pid, SIGKILL)
        self.problem += "; it does not end, so no server is started again"

    def _become(self, said: int) -> None:
        """Execute the command, in the child. Its standard error is a file, so that it never waits for us."""
        try:
            os.setsid()
            if self.group >= 0:
                os.write(self.group, b"0")
            os.dup2(said, 2)
            os.execve(self.command[0], self.command, {"PATH": PATH, "LANG": "C.UTF-8"})
        finally:
            os._exit(NOT_RUN)

    def _ended(self, pidfd: int, said: int) -> None:
        self.loop.forget(pidfd)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        self.loop.timers.cancel(self)
        if self.late:
            self.problem = self.problem.partition(";")[0]
        elif code == LOCKED:
            self.problem = ""  # it is tried again: a command that takes long is not a problem
        else:
            self.problem = _last_line(said) or f"keeper act: ended with {code}" if code else ""
        os.close(said)
        for subject in self.loop.subjects:
            subject.acted(code, self.began)
        if any(subject.is_due() for subject in self.loop.subjects):
            self.request()


def _last_line(fd: int) -> str:
    """The last line that begins with the name of the program: a message, and not its hint."""
    text = os.pread(fd, 1 << 16, max(0, os.fstat(fd).st_size - (1 << 16))).decode(errors="replace")
    lines = [line for line in text.splitlines() if line.startswith("vsprov: ")]
    return lines[-1].removeprefix("vsprov: ")[:LONGEST_LINE] if lines else ""
