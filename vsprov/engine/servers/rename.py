"""Give a server another name without a manifest."""

from __future__ import annotations

from collections.abc import Callable

from vsprov.engine.apply import converge
from vsprov.engine.apply.converge import Outcome, Proposal
from vsprov.engine.apply.exclusive import approved
from vsprov.engine.apply.report import Report
from vsprov.engine.servers import rename_plans
from vsprov.engine.servers.names import refuse_name
from vsprov.engine.work import DEFAULT, WorkOptions
from vsprov.errors import VsprovError
from vsprov.store import renaming
from vsprov.store.instance import Instance
from vsprov.store.renaming import Renaming


def rename(
    instance: Instance,
    old: str,
    new: str,
    report: Report,
    *,
    approve: Callable[[Proposal], bool] = lambda proposal: True,
    work: WorkOptions = DEFAULT,
    asks: bool = False,
) -> Outcome:
    """Rename a server as it was last applied; servers that depend on it depend on the new name.

    If the command that began it has died, the rest is done. UsageError for an invalid name, FailedError for
    one that is taken, or if there is no such server.
    """
    refuse_name(f"rename {old} {new}", new)
    before = renaming.read(instance)
    again = before if before is not None and (before.old, before.new) == (old, new) else None

    def plan() -> Proposal:
        return rename_plans.unfinished(instance, again) if again else rename_plans.propose(instance, old, new)

    with approved(instance, plan, report, approve, work, asks) as (proposal, approve):
        seen = proposal.now.observed.servers.get(old)
        begun = again or Renaming(old, new, seen is not None and seen.init is not None)

        def approve_and_record(asked: Proposal) -> bool:
            if not approve(asked):
                return False
            if not asked.plan.empty:
                renaming.write(instance, begun)
            return True

        try:
            outcome = converge.perform(instance, proposal, report, approve=approve_and_record, work=work)
        except VsprovError:
            renaming.forget(instance)
            raise
        renaming.forget(instance)
    return outcome
