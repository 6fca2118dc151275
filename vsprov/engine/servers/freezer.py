"""Freeze the processes of servers, and thaw them."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from vsprov.engine.apply.exclusive import exclusive
from vsprov.engine.apply.report import Report
from vsprov.engine.desired.choice import Choice
from vsprov.engine.look import situation
from vsprov.engine.servers.choice import Acted, RunningServer, running
from vsprov.engine.work import DEFAULT, WorkOptions
from vsprov.errors import FailedError, reason
from vsprov.kernel import cgroup
from vsprov.kernel.cgroup import Hierarchies
from vsprov.plan.observed import FREEZE, FROZEN, ObservedServer
from vsprov.store.instance import Instance

SECONDS_TO_FREEZE = 10.0
_FREEZE = "cgroup.freeze"
# Thaws servers when the process that has frozen them ends, however it does.
_THAW = 'read -r _; for file; do echo 0 > "$file"; done'


def freeze(instance: Instance, choice: Choice, report: Report, work: WorkOptions = DEFAULT) -> Acted:
    """Freeze servers; returns when all of their processes have stopped to run."""
    acted = Acted()
    with exclusive(instance, work, report):
        now = situation.look(instance)
        begun: list[RunningServer] = []
        for one in running(choice, now.observed, instance.name, acted):
            if one.live.get(FREEZE):
                acted.already.append(one.address)
                continue
            try:
                cgroup.write(f"{now.hierarchies.directory('', one.group)}/{_FREEZE}", "1")
                begun.append(one)
            except OSError as error:
                acted.errors[one.address] = FailedError(f"{one.address}: freeze: {reason(error)}")
        deadline = time.monotonic() + SECONDS_TO_FREEZE
        for one in begun:
            _finish(now.hierarchies, one, deadline, acted)
    return acted


def _finish(hierarchies: Hierarchies, one: RunningServer, deadline: float, acted: Acted) -> None:
    """Wait until a server is frozen; thaw one that does not freeze."""
    home = hierarchies.directory("", one.group)
    if await_frozen(home, deadline):
        acted.done.append(one.address)
        return
    cgroup.thaw(home, 0)
    acted.errors[one.address] = FailedError(
        f"{one.address}: freeze: a process still runs after {SECONDS_TO_FREEZE:g} s, so it was thawed again",
        hint="a process is blocked in the kernel (state D); see `vsprov ps`",
    )


def await_frozen(home: str, deadline: float | None = None) -> bool:
    """Wait until no process of a group runs, by default SECONDS_TO_FREEZE at most; whether that is so."""
    deadline = time.monotonic() + SECONDS_TO_FREEZE if deadline is None else deadline
    try:
        fd = os.open(f"{home}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        changed = select.poll()
        changed.register(fd, select.POLLPRI)
        while not cgroup.frozen(home):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            os.pread(fd, 4096, 0)  # the next event is one after this read; kernfs_notify
            if not cgroup.frozen(home):
                changed.poll(left * 1000)
        return True
    except OSError:  # ENODEV: the server has ended
        return False
    finally:
        os.close(fd)


def thaw(instance: Instance, choice: Choice, report: Report, work: WorkOptions = DEFAULT) -> Acted:
    """Thaw servers, with the groups above them up to that of the instance."""
    acted = Acted()
    with exclusive(instance, work, report):
        now = situation.look(instance)
        for one in running(choice, now.observed, instance.name, acted):
            if not one.live.get(FREEZE):
                acted.already.append(one.address)
                continue
            try:
                cgroup.thaw(now.hierarchies.directory("", one.group), one.group.count("/"))
                acted.done.append(one.address)
            except OSError as error:
                acted.errors[one.address] = FailedError(f"{one.address}: thaw: {reason(error)}")
    return acted


@contextmanager
def frozen(hierarchies: Hierarchies, servers: Iterable[ObservedServer]) -> Iterator[Callable[[], None]]:
    """Freeze the servers that run, all at one moment, until the function is called or the block ends, or this
    process does.

    Those that are frozen already stay so. FailedError if one cannot be frozen.
    """
    homes = {
        f"Server/{seen.name}": hierarchies.directory("", seen.group.path)
        for seen in servers
        if seen.init is not None and seen.group is not None and seen.state != FROZEN
    }
    if not homes:
        yield lambda: None
        return
    # In a session of its own, so that an interrupt from the terminal does not end it before us.
    with subprocess.Popen(
        ["/bin/sh", "-c", _THAW, "vsprov-thaw", *(f"{home}/{_FREEZE}" for home in homes.values())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as guard:
        assert guard.stdin is not None
        try:
            _freeze_all(homes)
            yield lambda: _thaw_all(homes)
        finally:
            _thaw_all(homes)
            guard.stdin.close()


def _freeze_all(homes: Mapping[str, str]) -> None:
    deadline = time.monotonic() + SECONDS_TO_FREEZE
    for address, home in homes.items():
        try:
            cgroup.write(f"{home}/{_FREEZE}", "1")
        except OSError as error:
            raise FailedError(f"{address}: freeze: {reason(error)}") from error
    for address, home in homes.items():
        if not await_frozen(home, deadline):
            raise FailedError(
                f"{address}: freeze: it has ended, or a process of it still runs",
                hint="a process in state D is blocked in the kernel; see `vsprov ps`",
            )


def _thaw_all(homes: Mapping[str, str]) -> None:
    errors = []
    for address, home in homes.items():
        try:
            cgroup.write(f"{home}/{_FREEZE}", "0")
        except OSError as error:
            if error.errno not in cgroup.GONE:
                errors.append(f"{address}: thaw: {reason(error)}")
    if errors:
        raise FailedError("; ".join(errors))
