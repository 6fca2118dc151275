"""Signals to servers, from outside and without a change of what is wanted."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import ExitStack, suppress

from vsprov.engine.desired.choice import Choice
from vsprov.engine.look import last_exit, situation
from vsprov.engine.run import keeper
from vsprov.engine.run.context import SECONDS_TO_DIE
from vsprov.engine.servers.choice import Acted, RunningServer, running
from vsprov.engine.steps.groups import not_killed
from vsprov.errors import FailedError
from vsprov.kernel import cgroup, process, syscall
from vsprov.kernel.cgroup import Hierarchies
from vsprov.model.values.names import signal_number
from vsprov.store.instance import Instance

AT_ONCE = 256  # processes that are open at the same time


def kill(instance: Instance, choice: Choice, name: str, *, everywhere: bool = False) -> Acted:
    """Send a signal ("HUP") to the init of each server, or `everywhere`: to all of its processes.

    Takes no lock: a server can be killed while another command works. After SIGKILL it waits until the init
    has ended, so that its exit is recorded when this returns.
    """
    now, number, acted = situation.look(instance), signal_number(name), Acted()
    sent: list[tuple[RunningServer, int]] = []
    try:
        for one in running(choice, now.observed, instance.name, acted):
            pidfd = process.open_pidfd(one.init.pid, one.init.start)
            if pidfd is None:
                continue  # it has just ended
            sent.append((one, pidfd))
            try:
                _send(now.hierarchies, one, pidfd, number, everywhere)
                acted.done.append(one.address)
            except (FailedError, OSError) as error:
                acted.errors[one.address] = _failed(one, name, error)
        if number == signal.SIGKILL:
            _await_ends(now.hierarchies, sent, acted)
    finally:
        for _, pidfd in sent:
            os.close(pidfd)
    if number == signal.SIGKILL and (keeping := keeper.connect(instance)):
        try:
            keeping.settle()
        finally:
            keeping.close()
    return acted


def _send(hierarchies: Hierarchies, one: RunningServer, pidfd: int, number: int, everywhere: bool) -> None:
    home = hierarchies.directory("", one.group)
    if everywhere and number == signal.SIGKILL:
        cgroup.kill(home)
    elif everywhere:
        pids = cgroup.all_processes(home)
        for first in range(0, len(pids), AT_ONCE):
            _send_to(pids[first : first + AT_ONCE], home, number)
    elif not process.receives(one.init.pid, number) and not process.is_ending(one.init.pid):
        raise FailedError(
            "its command, as pid 1, has no handler for it, so the kernel would discard it",
            hint="use -s KILL, or --all-processes to reach the other processes",
        )
    if not everywhere or number == signal.SIGKILL:  # init may be outside its group
        process.send_signal(pidfd, number)


def _send_to(pids: Iterable[int], home: str, number: int) -> None:
    """Send a signal to those that are below a group now that they are opened: a pid that was listed before
    may belong to a process of the host meanwhile.
    """
    with ExitStack() as opened:
        pidfds = {}
        for pid in pids:
            with suppress(ProcessLookupError):
                pidfds[pid] = os.pidfd_open(pid)
                opened.callback(os.close, pidfds[pid])
        for pid in pidfds.keys() & cgroup.all_processes(home):
            process.send_signal(pidfds[pid], number)


def _failed(one: RunningServer, name: str, error: FailedError | OSError) -> FailedError:
    hint = error.hint if isinstance(error, FailedError) else ""
    why = error.strerror if isinstance(error, OSError) else str(error)
    return FailedError(f"{one.address}: send SIG{name}: {why}", hint=hint)


def _await_ends(hierarchies: Hierarchies, sent: list[tuple[RunningServer, int]], acted: Acted) -> None:
    """Wait until the inits have ended, and record how, for an instance whose keeper has died."""
    for one, pidfd in sent:
        if not syscall.is_ready(pidfd, SECONDS_TO_DIE):
            acted.errors[one.address] = not_killed(one.address, [one.init.pid])
            acted.done.remove(one.address)
        elif how := process.exit_info(pidfd, one.init.pid, one.init.start):
            last_exit.record(hierarchies.directory("", one.group), how)
