"""Clearing away: what an apply that died left half-made, and what nothing needs any more.

Only to be called under the lock of the instance.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress

from vsprov.engine.images import buildserver
from vsprov.engine.look import observe
from vsprov.engine.run import intent
from vsprov.engine.run.context import SECONDS_TO_DIE
from vsprov.engine.run.spawn import is_at_gate
from vsprov.errors import FailedError, StepError
from vsprov.kernel import cgroup, process
from vsprov.kernel.cgroup import Hierarchies
from vsprov.plan.observed import Observed
from vsprov.store import images, servers
from vsprov.store.images import Unused
from vsprov.store.instance import Instance
from vsprov.store.layers import layers


def sweep(instance: Instance, say: Callable[[str], None]) -> None:
    """Remove what an apply that died left half made.

    Servers at their gates, unmarked groups it was about to mark, folders under their temporary names.
    """
    hierarchies = cgroup.find()
    end_spawner(instance, hierarchies)
    for directory in buildserver.sweep(hierarchies.directory("", instance.name)):
        say(f"removed {directory}, left by an apply that died")
    for group in reversed(intent.groups(instance)):
        for controller in ("", *hierarchies.v1):
            directory = hierarchies.directory(controller, group)
            there, mark = observe.owner_mark(directory)
            if there and mark is None and not cgroup.children(directory) and not cgroup.processes(directory):
                cgroup.remove(directory)
                say(f"removed {directory}, left by an apply that died")

    def stays(error: FailedError) -> None:
        say(f"{error}; it stays")
        if error.hint:
            say(f"  hint: {error.hint}")

    try:
        for path in layers.repair(instance):
            say(f"put right {path}, where a dedupe had died")
    except FailedError as error:
        stays(error)
    for path in servers.sweep(instance, stays):
        say(f"removed {path}, left by an apply that died")


def end_spawner(instance: Instance, hierarchies: Hierarchies) -> None:
    """Wait until the spawner of an apply that died is gone, and the servers it held at their gates: they end
    by themselves, but not at once, and until then look as if they ran.
    """
    spawner = intent.spawner(instance)
    if spawner is None:
        return
    end(spawner.pid, spawner.start)
    for group in cgroup.walk(hierarchies.directory("", instance.name)):
        pid = process.find_init(cgroup.processes(group)) if os.path.basename(group) == "payload" else None
        if pid and is_at_gate(pid) and (start := process.start_time(pid)):
            end(pid, start)


def end(pid: int, start: int) -> None:
    """Kill that very process and wait until it is dead; StepError when it does not die."""
    pidfd = process.open_pidfd(pid, start)
    if pidfd is None:
        return
    try:
        process.send_signal(pidfd, signal.SIGKILL)
        if not select.select([pidfd], [], [], SECONDS_TO_DIE)[0]:
            raise StepError(f"end {pid}, left by an apply that died: still there after {SECONDS_TO_DIE:g} s")
    finally:
        os.close(pidfd)


def unused(instance: Instance, observed: Observed, without: Iterable[str] = ()) -> Unused:
    """What of the store no image but those in `without` has and no server runs on; nothing while it is
    unknown what some server runs on.
    """
    if any(seen.applied is None for seen in observed.servers.values()):
        return Unused()
    used = {seen.applied["image"] for seen in observed.servers.values() if seen.applied}
    return images.unused(instance, used, without)


def collect(instance: Instance, observed: Observed) -> None:
    """Remove from the store what nothing needs.

    After an apply that went well, and not before one: what an earlier one has fetched or built before it
    failed is what this one goes on from.
    """
    images.collect(instance, unused(instance, observed))


def withdraw(instance: Instance) -> None:
    """Leave no trace of an instance that has nothing any more.

    The lock, which we hold, goes with the run directory; whoever waits for it finds that its file is gone.
    """
    if os.path.exists(intent.path(instance)):
        return
    if not os.path.isdir(cgroup.find().directory("", instance.name)):
        servers.tidy(instance)
        if not os.path.isdir(instance.root):
            with suppress(FileNotFoundError):
                os.unlink(instance.lock)
            with suppress(OSError):
                os.rmdir(instance.run)
