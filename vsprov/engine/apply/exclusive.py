"""The lock of the instance, as commands that change something hold it: cleaned up before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vsprov.engine.apply import recover
from vsprov.engine.apply.converge import PlanError, Proposal
from vsprov.engine.apply.report import Report
from vsprov.engine.run import lock
from vsprov.engine.work import WorkOptions
from vsprov.kernel import process
from vsprov.plan.plan import Plan
from vsprov.store import renaming
from vsprov.store.instance import Instance

Approve = Callable[[Proposal], bool]


@contextmanager
def approved(
    instance: Instance,
    plan: Callable[[], Proposal],
    report: Report,
    approve: Approve,
    work: WorkOptions,
    asks: bool,
) -> Iterator[tuple[Proposal, Approve]]:
    """Hold the lock, with a plan that was made under it and the function that still has to approve it.

    If `approve` `asks`, it is called before the lock is taken, so that no other command waits for the answer,
    and again if the plan under the lock is a different one.
    """
    while asks:
        asked = plan()
        PlanError.check(asked.plan)
        if not approve(asked):
            yield asked, lambda proposal: False
            return
        with exclusive(instance, work, report):
            first = plan()
            if _is_same(asked.plan, first.plan):
                yield first, lambda proposal: True
                return
        report.notice("The plan has changed since it was shown.")
    with exclusive(instance, work, report):
        yield plan(), approve


def _is_same(one: Plan, other: Plan) -> bool:
    """Whether two plans look the same. Steps are not compared, because they contain process ids."""
    return [(each.key, each.action, each.cost, each.paths) for each in one.changes] == [
        (each.key, each.action, each.cost, each.paths) for each in other.changes
    ]


@contextmanager
def exclusive(instance: Instance, work: WorkOptions, report: Report) -> Iterator[None]:
    """Hold the lock of the instance, after cleaning up, and after finishing a rename that was interrupted. At
    the end remove the files of an empty instance.
    """
    process.require_root("making servers")
    with lock.locked(instance, work.lock_timeout):
        try:
            recover.sweep(instance, report.notice)
            if renaming.read(instance):
                from vsprov.engine.servers import rename_plans

                rename_plans.resume(instance, report, work)
            yield
        finally:
            recover.withdraw(instance)
