"""Cleanup: remains of an interrupted apply, unused parts of the store, files of an empty instance.

Call these functions only under the lock of the instance.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress

from vsprov.engine.images import builds
from vsprov.engine.look import observe
from vsprov.engine.run import intent, keeper
from vsprov.engine.run.context import SECONDS_TO_DIE
from vsprov.errors import FailedError, StepError
from vsprov.kernel import cgroup, process
from vsprov.kernel.cgroup import Hierarchies
from vsprov.plan.observed import HOOK_GROUPS, Observed
from vsprov.store import images, servers
from vsprov.store.disk import exchange, folders
from vsprov.store.images import Unused
from vsprov.store.instance import Instance
from vsprov.store.layers import layers
from vsprov.store.written import snapshots, staging


def sweep(instance: Instance, notice: Callable[[str], None]) -> None:
    """Remove what an interrupted apply left unfinished.

    That is servers that wait at their gates, groups without a mark that it had created, builds, and folders
    with temporary names. `notice` receives a line for each.
    """
    for one in folders.restrict_to_root(instance):
        notice(f"{one.path}: {one.message}: restricted to root")
    _sweep_groups(instance, notice)
    _sweep_files(instance, notice)


def _sweep_groups(instance: Instance, notice: Callable[[str], None]) -> None:
    """End the spawner, hooks and builds, and remove the groups that have no mark yet."""
    hierarchies = cgroup.find()
    end_spawner(instance, hierarchies)
    top = hierarchies.directory("", instance.name)
    if any(name.startswith(HOOK_GROUPS) for name in cgroup.children(top)):
        from vsprov.engine import hooks

        hooks.sweep(top, notice)
    for directory in builds.sweep(top):
        notice(f"removed {directory}, left by an interrupted apply")
    for group in reversed(intent.read(instance).groups):
        for controller in ("", *hierarchies.v1):
            directory = hierarchies.directory(controller, group)
            exists, mark = observe.owner_mark(directory)
            if exists and mark is None and not cgroup.children(directory) and not cgroup.processes(directory):
                cgroup.remove(directory)
                notice(f"removed {directory}, left by an interrupted apply")


def _sweep_files(instance: Instance, notice: Callable[[str], None]) -> None:
    """Repair and complete what was being written, and remove what has a temporary name."""

    def keep(error: FailedError) -> None:
        notice(f"{error}; not removed")
        if error.hint:
            notice(f"  hint: {error.hint}")

    try:
        for path in layers.repair(instance):
            notice(f"repaired {path}, left by an interrupted dedupe")
    except FailedError as error:
        keep(error)
    if exchange.resume(instance.root):  # the other files are among what is swept
        notice(f"{instance.root}: completed the exchange of files of an interrupted command")
    if os.path.isdir(instance.volumes):
        from vsprov.store.volumes import changes

        try:
            for path in changes.settle_new(instance):
                notice(f"removed {path}, left by an interrupted import or clone")
        except FailedError as error:
            keep(error)
    for folder in (instance.servers, instance.volumes):
        if left := folders.leftovers(folder):
            from vsprov.store.space import project

            project.release_abandoned(folder, left)
    for path in servers.sweep(instance, keep):
        notice(f"removed {path}, left by an interrupted command")
    for path in staging.sweep(instance, keep):
        notice(f"removed {path}, left by an interrupted copy")


def end_spawner(instance: Instance, hierarchies: Hierarchies) -> None:
    """Kill the spawner of an interrupted apply, and the servers that wait at their gates.

    They exit by themselves, but until then their groups would not be empty.
    """
    spawner = intent.spawner(instance)
    if spawner is None:
        return
    _kill(spawner.pid, spawner.start)
    for group in cgroup.walk(hierarchies.directory("", instance.name)):
        pid = process.find_init(cgroup.processes(group)) if os.path.basename(group) == "payload" else None
        if pid and not process.has_executed(pid) and (start := process.start_time(pid)):
            _kill(pid, start)


def _kill(pid: int, start: int) -> None:
    if not process.kill(pid, start, SECONDS_TO_DIE):
        raise StepError(
            f"kill process {pid} of an interrupted apply: still running after {SECONDS_TO_DIE:g} s"
        )


def unused(instance: Instance, observed: Observed, without: Iterable[str] = ()) -> Unused:
    """The parts of the store that no server and no image, apart from those in `without`, uses.

    Nothing counts as unused if the image of a server is unknown because its record is missing.
    """
    if any(seen.applied is None for seen in observed.servers.values()):
        return Unused()
    used = {seen.applied["image"] for seen in observed.servers.values() if seen.applied}
    snapped = snapshots.images(instance, observed.servers)
    if snapped is None:
        return Unused()
    used |= snapped
    return images.unused(instance, used, without)


def collect(instance: Instance, observed: Observed) -> None:
    """Remove unused parts of the store.

    Call this after a successful apply, not before one: an apply continues with what an earlier one had
    downloaded or built before it failed.
    """
    images.collect(instance, unused(instance, observed))
    if not any(seen.detached for seen in observed.servers.values()):
        layers.remove_replaced(instance)


def withdraw(instance: Instance) -> None:
    """Remove the files of an instance that has no objects any more.

    That includes the lock file, although its lock is held: `lock.locked` notices that the file was removed.
    """
    if intent.exists(instance):
        return
    if not os.path.isdir(cgroup.find().directory("", instance.name)):
        servers.tidy(instance)
        if not any(map(os.path.lexists, instance.folders)):  # the root may be a mount point
            for program in (keeper.KEEPER, keeper.TERMINALS):
                with suppress(FileNotFoundError):
                    os.unlink(keeper.address(instance, program))
            with suppress(FileNotFoundError):
                os.unlink(instance.lock)
            with suppress(OSError):
                os.rmdir(instance.run)
