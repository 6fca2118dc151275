"""Apply as commands do: under the lock plan, ask and carry out; without it, wait for what is left."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from vsprov.engine.apply.converge import Outcome, Proposal, perform, propose
from vsprov.engine.apply.exclusive import approved
from vsprov.engine.apply.report import Report, report_killed
from vsprov.engine.run.waits import Waits
from vsprov.engine.work import DEFAULT, WorkOptions
from vsprov.plan.builder import Wanted
from vsprov.store.instance import Instance


def apply(
    instance: Instance,
    wanted: Wanted,
    report: Report,
    *,
    approve: Callable[[Proposal], bool] = lambda proposal: True,
    work: WorkOptions = DEFAULT,
    asks: bool = False,
) -> Outcome:
    """Plan and carry out what is wanted.

    Raises PlanError if the plan has problems. Failures of single objects are in the outcome. The lock is free
    while conditions of dependencies are waited for.
    """

    def plan() -> Proposal:
        return propose(instance, wanted)

    with approved(instance, plan, report, approve, work, asks) as (first, approve):
        outcome = perform(instance, first, report, approve=approve, work=work, waits=Waits())
    return finished(instance, outcome, plan, report, work)


def finished(
    instance: Instance, begun: Outcome, plan: Callable[[], Proposal], report: Report, work: WorkOptions
) -> Outcome:
    """The outcome once everything is done that was left because it waits for conditions of servers, and the
    servers are ready, if that is waited for. Call it without the lock.

    `plan` makes the plan again, of which only what has been left is carried out.
    """
    outcome = begun
    if outcome.later:
        from vsprov.engine.apply.conditions import rounds

        outcome = rounds.finish(instance, begun, plan, report, work)
    report_killed(outcome.overdue, outcome.unhandled, report)
    if not work.wait or not outcome.approved:
        return outcome
    from vsprov.engine.apply.conditions import ready

    failed = {key.partition("#")[0] for key in outcome.errors} | {f"Server/{name}" for name in outcome.exits}
    wanted = [each for each in outcome.proposal.wanted.objects if each.address not in failed]
    return replace(outcome, unready=ready.wait(instance, wanted, work.wait_timeout, report))
