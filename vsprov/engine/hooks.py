"""Run hooks: commands of the host, each in a control group of its own, which is killed when it has ended.

They run under the lock of the instance. A group that is found when the lock is taken was left by a command
that was killed.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from typing import Any

from vsprov.engine.apply.register import carries_out
from vsprov.engine.look import last_exit
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.schedule import Readable, Wait, Work
from vsprov.errors import StepError, reason
from vsprov.kernel import cgroup, syscall
from vsprov.model.values.units import format_duration
from vsprov.plan.observed import HOOK_GROUPS, HOOKS
from vsprov.plan.servers.hooks import Command, RunHooks
from vsprov.store.disk import marks

ROLE = "hook"  # of the groups
SECONDS_AT_LEAST = 1.0  # that a hook has if the time for a shutdown is over
SECONDS_TO_DIE, SECONDS_TO_SWEEP = 2.0, 0.5
MOST_OUTPUT, MOST_LINES = 8192, 20  # bytes and lines of a command that are shown, the last ones
PARTS = 16  # of its output that are read at once
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The shell enters the group before it becomes the command: "0" is the process that writes it (cgroups(7)).
ENTER = 'cd / && umask 022 && echo 0 >"$1" && shift && exec "$@"'


@carries_out(RunHooks)
def run_hooks(context: ApplyContext, step: RunHooks) -> Work:
    for command in step.commands:
        problem = yield from _run(context, step, command)
        if not problem:
            continue
        problem = f"{step.hook} hook {command.exec[0]}: {problem}"
        if step.hook in ("preStart", "postStart"):
            if undo := step.undo():
                yield from run_hooks(context, undo)
            raise StepError(f"Server/{step.server}: {problem}")
        context.notice(f"Server/{step.server}: {problem}")
    if step.hook == "postStop" and (home := _home(context, step.server)):
        with suppress(FileNotFoundError):
            marks.remove_mark(home, HOOKS)


def _home(context: ApplyContext, server: str) -> str:
    group = context.groups.get(server)
    return context.directory("", group) if group else ""


class Running:
    """A command of a hook that runs, with its output so far. Closing it kills its processes."""

    def __init__(self, group: str, command: Command, environment: Mapping[str, str]) -> None:
        self.group = group
        self.said = bytearray()
        self._output, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.set_blocking(theirs, True)
            self._pid = _start(group, command, environment, theirs)
            self._pidfd = os.pidfd_open(self._pid)
        except BaseException:
            os.close(self._output)
            raise
        finally:
            os.close(theirs)

    def wait(self, seconds: float) -> Generator[Wait, Any, bool]:
        """Wait until the command itself has ended; whether it has in time. Processes that it leaves in the
        background do not count, even if they hold its output open.
        """
        deadline = time.monotonic() + seconds
        with select.epoll() as either:
            either.register(self._pidfd, select.EPOLLIN)
            either.register(self._output, select.EPOLLIN)
            more = True
            while not syscall.is_ready(self._pidfd, 0):
                left = deadline - time.monotonic()  # output may never pause
                if left <= 0 or not (yield Readable(either.fileno(), left)):
                    return False
                if more and not self._read():
                    more = False
                    either.unregister(self._output)
        return True

    def end(self) -> Generator[Wait, Any, int | None]:
        """Kill what is left of it, and remove its group. Its wait status; None if a process does not die."""
        self._kill()
        with closing(cgroup.kill_all(self.group)) as waits:
            for fd in waits:
                if not (yield Readable(fd, SECONDS_TO_DIE, cgroup.EMPTIED)):
                    return None
        if not (yield Readable(self._pidfd, SECONDS_TO_DIE)):
            return None
        self._read()
        status = os.waitpid(self._pid, 0)[1]
        self._pid = 0
        cgroup.remove(self.group)
        return status

    def close(self) -> None:
        """Kill all processes, without waiting for that, and close everything."""
        if self._pid:
            self._kill()
        os.close(self._output)
        os.close(self._pidfd)

    def _kill(self) -> None:
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)  # if it has not entered the group yet
        with suppress(FileNotFoundError):
            cgroup.kill(self.group)

    def _read(self) -> bool:
        """Take some of its output, of which the end is kept; whether more may come."""
        for _ in range(PARTS):
            try:
                part = os.read(self._output, 1 << 16)
            except BlockingIOError:
                return True
            if not part:
                return False
            self.said += part
            del self.said[:-MOST_OUTPUT]
        return True


def _run(context: ApplyContext, step: RunHooks, command: Command) -> Generator[Wait, Any, str]:
    """Run a command. Returns what went wrong, "" if it ended with 0."""
    group = f"{context.directory('', context.instance.name)}/{HOOK_GROUPS}{step.server}"
    try:
        if pids := _make_group(group, context.instance.name):
            return f"not run, because an earlier one cannot be killed: process {' '.join(map(str, pids))}"
        running = Running(group, command, _environment(context, step, command))
    except OSError as error:
        return f"start: {reason(error)}"
    seconds = command.timeout / 1_000_000
    if context.stop_by is not None:
        seconds = min(seconds, max(SECONDS_AT_LEAST, context.stop_by - time.monotonic()))
    with closing(running):
        in_time = yield from running.wait(seconds)
        status = yield from running.end()
    for line in running.said.decode(errors="replace").splitlines()[-MOST_LINES:]:
        context.notice(f"Server/{step.server}: {step.hook}: {line}")
    if status is None:
        pids = cgroup.all_processes(group)
        return (
            f"killed, but process {' '.join(map(str, pids))} is still there: blocked in the kernel (state D)"
        )
    if not in_time:
        return f"killed, because it had not ended after {format_duration(round(seconds * 1000) * 1000)}"
    code = os.waitstatus_to_exitcode(status)
    return "" if code == 0 else f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def _make_group(group: str, instance: str) -> list[int]:
    """Create the group of a command, or empty that of an earlier one. Returns the processes that stay."""
    with suppress(FileExistsError):
        os.mkdir(group, 0o755)
    marks.write_mark(group, marks.OWNER, f"{ROLE} {instance}/{ROLE}")
    if cgroup.populated(group):
        cgroup.kill(group)
    return cgroup.all_processes(group)


def _start(group: str, command: Command, environment: Mapping[str, str], output: int) -> int:
    """Start a command in its group, and in a session of its own; its pid."""
    return os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", ENTER, "hook", f"{group}/cgroup.procs", *command.exec],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ),
    )


def _environment(context: ApplyContext, step: RunHooks, command: Command) -> dict[str, str]:
    """What a command is told, so that `vsprov exec` in it also finds the server."""
    home, init = _home(context, step.server), context.inits.get(step.server)
    out = {
        "PATH": PATH,
        "VSPROV_INSTANCE": context.instance.name,
        "VSPROV_ROOT": context.instance.root,
        "VSPROV_SERVER": step.server,
        "VSPROV_HOOK": step.hook,
    }
    if init:
        out["VSPROV_PID"] = str(init.pid)
    ended = last_exit.read(home) if home and step.hook == "postStop" else None
    if ended and ended.code is not None:
        out["VSPROV_EXIT_CODE"] = str(ended.code)
    if ended and ended.signal is not None:
        out["VSPROV_EXIT_SIGNAL"] = str(ended.signal)
    return {**out, **dict(command.env)}


def sweep(top: str, notice: Callable[[str], None]) -> None:
    """End what a command that was killed has left of hooks. What is blocked in the kernel stays for now."""
    for name in cgroup.children(top):
        if name.startswith(HOOK_GROUPS):
            try:
                cgroup.end(f"{top}/{name}", SECONDS_TO_SWEEP)
                notice(f"removed {top}/{name}, left by an interrupted hook")
            except OSError as error:
                notice(f"{top}/{name}, left by an interrupted hook: kill: {reason(error)}; not removed")
