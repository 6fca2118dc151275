"""What the keeper runs when something is due: `vsprov keeper act`, once for all servers.

It takes the lock and looks again. Nothing is done for a server that was started or stopped by a command
meanwhile.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from vsprov.engine import lifecycle
from vsprov.engine.apply import converge
from vsprov.engine.apply.converge import PlanError
from vsprov.engine.apply.exclusive import exclusive
from vsprov.engine.apply.report import Report
from vsprov.engine.look import restarts, situation
from vsprov.engine.look.situation import Situation
from vsprov.engine.run import keeper
from vsprov.engine.run.schedule import Skipped
from vsprov.engine.work import WorkOptions
from vsprov.errors import VsprovError
from vsprov.kernel import cgroup
from vsprov.model.kinds.server import Server
from vsprov.plan.builder import EVERY_SET, Wanted
from vsprov.plan.compare import applied
from vsprov.plan.observed import Observed, ObservedServer, hooks_due, is_of
from vsprov.plan.plan import Change, Plan
from vsprov.plan.servers.hooks import after_stop
from vsprov.store.instance import Instance

LOCK_SECONDS = 60.0
SLACK = 0.5  # seconds: what is due so soon is done now, rather than by another command


def act(instance: Instance, report: Report) -> dict[str, VsprovError]:
    """Do what is due: restarts and hooks, then snapshots. Returns {name: error} of the servers that could not
    be started again, except those that wait for others, which the keeper tries again when something has
    changed about these.
    """
    work = WorkOptions(lock_timeout=LOCK_SECONDS, settle=0.0, wait_timeout=0.0)
    with exclusive(instance, work, report):
        now = situation.look(instance)
        due = [seen for seen in now.observed.servers.values() if _is_due(instance, now, seen)]
        ended = [seen for seen in now.observed.servers.values() if hooks_due(seen)]
        _announce(instance, seconds_for(due, ended))
        if ended:
            _run_hooks(instance, now, report, work)
            now = situation.look(instance)
            due = [seen for seen in now.observed.servers.values() if _is_due(instance, now, seen)]
        errors = _restart(instance, due, now.observed, report, work) if due else {}
        for name, error in list(errors.items()):
            waits = _waits(name, error)
            text = f"waits for Server/{waits}" if waits else str(error)
            if group := now.observed.servers[name].group:
                with suppress(FileNotFoundError, VsprovError):
                    home = now.hierarchies.directory("", group.path)
                    restarts.note_error(home, text, (waits,) if waits else ())
            if waits:
                del errors[name]
    scheduled = [seen for seen in now.observed.servers.values() if has_schedule(seen)]
    if scheduled:
        from vsprov.engine.servers.files import scheduled as snapshots

        snapshots.act(instance, scheduled, report, work, lambda seconds: _announce(instance, seconds))
    return errors


def _run_hooks(instance: Instance, now: Situation, report: Report, work: WorkOptions) -> None:
    """Run postStop of the servers that have ended by themselves, under the lock."""
    due = [
        seen
        for seen in now.observed.servers.values()
        if hooks_due(seen) and all(is_of(owner, instance.name) for owner in seen.owners())
    ]
    changes = (
        Change("Server", seen.name, "update", "none", "ended", steps=tuple(after_stop(seen))) for seen in due
    )
    wanted = Wanted(instance.name, f"{instance.name}/{EVERY_SET}", selected=True)
    converge.perform(instance, converge.Proposal(Plan(tuple(changes)), wanted, now), report, work=work)


def has_schedule(seen: ObservedServer) -> bool:
    """Whether snapshots of a server are made by a schedule, which is only while it runs."""
    return bool(seen.init and seen.directory and seen.applied and seen.applied["spec"].get("snapshots"))


def seconds_for(due: Iterable[ObservedServer], ended: Iterable[ObservedServer]) -> float:
    """How long stopping the servers that are due, and the hooks of these and of those that have ended, may
    take.
    """
    total = 0
    for seen, restarts_it in [*((seen, True) for seen in due), *((seen, False) for seen in ended)]:
        if seen.applied is None:
            continue
        spec = applied.to_object(seen.name, seen.applied).spec
        assert isinstance(spec, Server)
        total += sum(hook.timeout for hook in spec.hooks.post_stop)
        if restarts_it:
            stops = (spec.hooks.pre_stop, spec.hooks.pre_start, spec.hooks.post_start)
            total += sum(hook.timeout for hooks in stops for hook in hooks)
            total += spec.init.stop_timeout if seen.init else 0
    return total / 1e6


def _announce(instance: Instance, seconds: float) -> None:
    """Tell the keeper, which otherwise ends us when we take long."""
    if not seconds:
        return
    found = keeper.connect(instance)
    if found is None:
        return
    try:
        found.allow(seconds)
    except keeper.KeeperGone:
        pass  # the next one has not started us
    finally:
        found.close()


def _waits(name: str, error: VsprovError) -> str:
    """The server that another was not started because of; "" if it was something else."""
    kind, _, cause = error.cause.partition("#")[0].partition("/") if isinstance(error, Skipped) else ("",) * 3
    return cause if kind == "Server" and cause != name else ""


def leave_keeper(instance: Instance) -> None:
    """Go to a group of our own, so that a command that replaces the keeper does not end this one with it."""
    group = f"{cgroup.find().directory('', instance.name)}/.{keeper.KEEPER}/{keeper.ACT}"
    with suppress(FileNotFoundError):
        cgroup.write(f"{group}/cgroup.procs", str(os.getpid()))


def _is_due(instance: Instance, now: Situation, seen: ObservedServer) -> bool:
    if not seen.group or not all(is_of(owner, instance.name) for owner in seen.owners()):
        return False
    decided = restarts.read(now.hierarchies.directory("", seen.group.path))
    return decided is not None and decided.due and decided.at <= time.time() + SLACK


def _restart(
    instance: Instance, due: Sequence[ObservedServer], observed: Observed, report: Report, work: WorkOptions
) -> dict[str, VsprovError]:
    """Restart servers as they were last applied. One that cannot be started does not keep the others down."""

    current: list[Observed] = [observed]  # until the first attempt may have changed something

    def attempt(some: Sequence[ObservedServer]) -> dict[str, VsprovError]:
        known = current.pop() if current else situation.look(instance).observed
        outcome = lifecycle.restart_again(instance, some, known, report, work)
        return {
            address.partition("/")[2]: error
            for address, error in outcome.errors.items()
            if address.startswith("Server/") and "#" not in address
        }

    return isolate(due, attempt)


def isolate(
    due: Sequence[ObservedServer],
    attempt: Callable[[Sequence[ObservedServer]], dict[str, VsprovError]],
) -> dict[str, VsprovError]:
    """{name: error} of an attempt with as many servers as possible: without those that its plan refuses, or,
    if nothing says which, one after the other.
    """
    try:
        return attempt(due)
    except VsprovError as error:
        if len(due) == 1:
            return {due[0].name: error}
        refused = {problem.subject for problem in error.problems} if isinstance(error, PlanError) else set()
        bad = [seen for seen in due if f"Server/{seen.name}" in refused]
        good = [seen for seen in due if seen not in bad]
        parts = [good] if bad and good else [[seen] for seen in due]
        errors: dict[str, VsprovError] = {seen.name: error for seen in bad} if bad and good else {}
        for part in parts:
            errors.update(isolate(part, attempt))
        return errors
