"""Carry out the changes of a plan: independent ones concurrently, the steps of each in their order."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Generator, Iterable
from typing import Any

from vsprov.engine.apply import execute
from vsprov.engine.apply.put_back import put_back
from vsprov.engine.apply.report import Report
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.schedule import Loop, Skipped, Wait, Work
from vsprov.errors import FailedError, StepError, VsprovError
from vsprov.plan.compare import applied
from vsprov.plan.plan import Change
from vsprov.plan.steps import KillUnstarted, Spawn, Step, Stop, WriteApplied
from vsprov.store.disk import durable

FAIL_AFTER = "VSPROV_FAIL_AFTER"  # for tests: SIGKILL to itself after this number of steps


def run(
    context: ApplyContext, changes: Iterable[Change], report: Report, parallelism: int
) -> dict[str, VsprovError]:
    """Carry out the changes, independent ones concurrently. Returns {key: error} of those that failed."""
    changes = tuple(changes)
    by_key = {change.key: change for change in changes}
    errors: dict[str, VsprovError] = {}
    budget = Budget(os.environ.get(FAIL_AFTER))

    def done(key: str, error: VsprovError | None) -> None:
        context.unfinished.pop(key, None)
        if isinstance(error, Skipped):
            error = explain_skip(by_key[key], by_key[error.cause])
            if error is None:
                return
        if error:
            errors[key] = error
        report.finished(by_key[key], error)

    def work(change: Change) -> Callable[[], Work]:
        return lambda: perform_change(context, change, report, budget)

    loop = Loop(
        lambda: context.spawner,
        parallelism,
        lambda event: context.exits.update({event["id"]: event}),
        context.watcher,
    )
    works = {key: (change.after, change.follows, work(change)) for key, change in by_key.items()}
    waiting = {change.key for change in changes if change.action == "no-op"}
    loop.run(works, done, waiting)
    return errors


def explain_skip(change: Change, cause: Change) -> VsprovError | None:
    """The error of a change that was skipped because of another; None if that has said all there is to say.

    A wait fails only if its server does, which is an error of its own; what comes after is not even begun.
    """
    if change.action == "no-op":
        return None
    if cause.action == "no-op":
        from vsprov.plan.servers.conditions import FAILED

        why = f"{cause.address} {FAILED[cause.phase]}"
        return Skipped(change.key, cause.key, f"{change.address}: skipped, because {why}")
    return Skipped(change.key, cause.key)


def perform_change(context: ApplyContext, change: Change, report: Report, budget: Budget) -> Work:
    """Carry out the steps of one change. If one fails, undo the earlier ones and raise StepError."""
    report.started(change)
    context.begun.add(change.key)
    finished: list[Step] = []
    try:
        _refuse_restart_without_disk(context, change)
        for step in change.steps:
            try:
                yield from execute.do(context, step)
            except FailedError as error:
                if not is_postponed(change, step, error):
                    raise
                context.notice(f"{change.address}: {error}: its record on disk is not up to date")
                context.notice(f"  hint: {error.hint}")
                continue
            finished.append(step)
            budget.spend()
    except VsprovError as error:
        undone, stuck = yield from roll_back(context, finished)
        message = f"{change.address}: {str(error).removeprefix(f'{change.address}: ')}"
        if undone:
            message += "; earlier steps were rolled back"
        if any(isinstance(step, Stop) for step in finished):
            message += "; " + (yield from put_back(context, change, finished))
        for problem in stuck:
            message += f"\n{change.address}: rollback failed: {problem}"
        raise StepError(message, hint=error.hint) from error


def _refuse_restart_without_disk(context: ApplyContext, change: Change) -> None:
    """Raise before a server is stopped that could not start again, because nothing can be written for it."""
    stops, starts = (any(isinstance(step, kind) for step in change.steps) for kind in (Stop, Spawn))
    folder = context.instance.servers
    if stops and starts and os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise durable.failed(folder, "restart", OSError(errno.EROFS, os.strerror(errno.EROFS)))


def is_postponed(change: Change, step: Step, error: FailedError) -> bool:
    """Whether a change goes on although its record cannot be written because the disk is full.

    A change of limits is what may help then. The mark on the home group records it until the next apply.
    """
    full = durable.is_full(error)
    live = change.cost == "live" and not any(isinstance(each, Stop | Spawn) for each in change.steps)
    return full and live and isinstance(step, WriteApplied) and applied.is_whole(step.applied)


def roll_back(context: ApplyContext, finished: list[Step]) -> Generator[Wait, Any, tuple[bool, list[str]]]:
    """Undo steps in reverse order. Returns whether any was undone, and messages of those that failed."""
    undone, stuck = False, []
    for step in reversed(finished):
        back = step.undo()
        if back is None:
            continue
        try:
            yield from execute.do(context, back)
            undone |= not isinstance(back, KillUnstarted)  # nobody has seen a server at its gate
        except VsprovError as error:
            stuck.append(str(error))
    return undone, stuck


class Budget:
    """Counts steps, and kills this process when VSPROV_FAIL_AFTER of them are finished."""

    def __init__(self, limit: str | None) -> None:
        self.left = int(limit) if limit else -1
        self.spend(0)

    def spend(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
