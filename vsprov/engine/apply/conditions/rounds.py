"""Carry out a plan in rounds if a part of it has to wait for conditions of servers, such as the readiness of
a database, so that other commands can work meanwhile.

Each round holds the lock, looks at the state anew, and carries out what need not wait any longer. A server of
a rolling update that does not become ready is put back in a round, too, unless another command has changed
it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from vsprov.engine.apply import converge
from vsprov.engine.apply.carry_out import explain_skip
from vsprov.engine.apply.conditions import ready
from vsprov.engine.apply.conditions.postponed import aims
from vsprov.engine.apply.converge import Outcome, Proposal
from vsprov.engine.apply.exclusive import exclusive
from vsprov.engine.apply.interrupted import explained, not_begun
from vsprov.engine.apply.report import Report
from vsprov.engine.run.waits import Aim, Rolled, Waits
from vsprov.engine.work import WorkOptions
from vsprov.errors import FailedError, VsprovError
from vsprov.plan.compare import applied
from vsprov.plan.observed import ObservedServer
from vsprov.plan.plan import Change
from vsprov.plan.servers.conditions import Await
from vsprov.plan.steps import MakeDirectory, WriteApplied
from vsprov.store.instance import Instance


def finish(
    instance: Instance, begun: Outcome, plan: Callable[[], Proposal], report: Report, work: WorkOptions
) -> Outcome:
    """Carry out what has been left of a plan, each part as soon as it need not wait: the outcome of all."""
    # Other commands may hold the lock by now, and the rest has to be done nevertheless.
    work = replace(work, lock_timeout=max(work.lock_timeout, work.wait_timeout))
    rest = _Rest(begun, report)
    while rest.keys:
        with explained(rest.lines):
            rest.decided(next(ready.decide(instance, rest.aims(), work.wait_timeout, report)))
        with exclusive(instance, work, report):
            proposal = rest.restrict(plan())
            outcome = converge.perform(instance, proposal, report, work=work, waits=rest.waits)
            if proposal.plan.empty:  # the last wait has ended: there was nothing to check by a second plan
                again = begun.proposal.wanted.again()
                second = converge.propose(instance, again, known=begun.proposal.resolved)
                outcome = replace(outcome, left=second.plan)
        rest.add(outcome)
    return rest.outcome()


def _puts_back(change: Change) -> bool:
    """Whether a server is put back if what is waited for does not happen."""
    return any(isinstance(step, Await) and step.puts_back for step in change.steps)


def _record(change: Change, before: ObservedServer | None) -> Mapping[str, Any] | None:
    """The record of a server after a change."""
    texts = [step.applied for step in change.steps if isinstance(step, WriteApplied | MakeDirectory)]
    if texts:
        return applied.from_text(texts[-1])
    return before.applied if before else None


class _Rest:
    """What is left of a plan: the `keys` of its changes, and what has become of the others."""

    def __init__(self, begun: Outcome, report: Report) -> None:
        self._first, self._report = begun.proposal, report
        self._approved = {change.key: change for change in begun.proposal.plan.changes}
        self._outcomes = [begun]
        self._errors: dict[str, VsprovError] = dict(begun.errors)  # by key
        self._failed = set(self._errors)  # also waits that could not begin, which are no errors of their own
        self._last = begun.proposal
        self._seen = dict(self._approved)  # of all plans
        self.keys = begun.later
        self.waits = Waits()
        self._reached: set[Aim] = set()  # since the last round
        self._remember(begun)
        self._skip()

    def lines(self) -> Iterator[str]:
        """Lines for the user about what is left, if a signal ends the wait."""
        left = (change for change in self._approved.values() if change.key in self.keys)
        return not_begun(left, self.aims(), self._first.wanted.request)

    def aims(self) -> dict[Aim, float]:
        """The waits that come next, with the times when they began."""
        now = time.monotonic()
        for change in self._last.plan.changes:
            if change.key in self.keys and self.keys.isdisjoint((*change.after, *change.follows)):
                for aim in aims(change):
                    self.waits.since.setdefault(aim, now)
        return {
            aim: self.waits.since[aim]
            for change in self._last.plan.changes
            if change.key in self.keys
            for aim in aims(change)
            if aim in self.waits.since and aim not in self.waits.over
        }

    def decided(self, found: Mapping[Aim, str]) -> None:
        """Take what has become of waits. Those that have failed fail again in the next round, as errors."""
        self._reached = {aim for aim, why in found.items() if not why}
        self.waits.over.update(aim for aim, why in found.items() if why)

    def restrict(self, fresh: Proposal) -> Proposal:
        """The part of a new plan that has been left of the first, and what of the host it requires."""
        changes = {change.key: change for change in fresh.plan.changes}
        for key in [key for key in self.keys if key in changes]:
            approved = self._approved.get(key)
            if approved and approved.of_manifest and not _is_same(approved, changes[key]):
                self._fail(approved, _changed_meanwhile(approved))
        held = self._rolled(fresh)
        changes = held | {key: self._held_by(held, one) for key, one in changes.items() if key not in held}
        self._skip()
        left, kept = [key for key in changes if key in self.keys], set[str]()
        while left:
            key = left.pop()
            if key not in kept:
                kept.add(key)
                change = changes[key]
                before = (one for one in (*change.after, *change.follows) if one in changes)
                left += [one for one in before if one in self.keys or _is_of_host(changes[one])]
        plan = replace(fresh.plan, changes=tuple(change for key, change in changes.items() if key in kept))
        self._last = replace(fresh, plan=plan)
        self._seen |= changes
        return self._last

    def _remember(self, outcome: Outcome) -> None:
        """Remember the servers that were changed, and are put back if they do not become ready."""
        changes = {change.key: change for change in outcome.proposal.plan.changes}
        for wait in [changes[key] for key in outcome.later if _puts_back(changes[key])]:
            change = changes.get(wait.address)
            if change and change.key not in outcome.later and change.key not in outcome.errors:
                before = outcome.proposal.now.observed.servers.get(wait.name)
                self.waits.rolled[wait.name] = Rolled(before, _record(change, before))

    def _rolled(self, fresh: Proposal) -> dict[str, Change]:
        """The waits, by key, for servers that were changed and are not ready, as they were approved: in a new
        plan these servers are just some that are down. Those that another command has changed fail.
        """
        held = {}
        for change in self._approved.values():
            if change.key in self.keys and _puts_back(change) and change.name in self.waits.rolled:
                seen = fresh.now.observed.servers.get(change.name)
                if seen is None or seen.stopped or seen.applied != self.waits.rolled[change.name].record:
                    self._fail(change, _changed_meanwhile(change))
                elif self._reached.isdisjoint(aims(change)):
                    held[change.key] = replace(change, after=())
        return held

    def _held_by(self, held: Mapping[str, Change], change: Change) -> Change:
        approved = self._approved.get(change.key)
        more = [key for key in approved.after if key in held and key not in change.after] if approved else []
        return replace(change, after=(*change.after, *more))

    def add(self, outcome: Outcome) -> None:
        """Take the outcome of a round."""
        self._outcomes.append(outcome)
        self._errors |= outcome.errors
        self._failed |= outcome.errors.keys()
        self.keys = outcome.later
        self._remember(outcome)
        self._skip()

    def _skip(self) -> None:
        """Skip what requires changes that have failed. What was approved is not done although another order
        would do now.
        """
        for change in (*self._first.plan.changes, *self._last.plan.changes):
            cause = next((key for key in change.after if key in self._failed), None)
            if cause is not None and change.key in self.keys:
                self._fail(change, explain_skip(change, self._seen[cause]))

    def _fail(self, change: Change, error: VsprovError | None) -> None:
        self.keys -= {change.key}
        self._failed.add(change.key)
        if error is not None:
            self._errors[change.key] = error
            self._report.finished(change, error)

    def outcome(self) -> Outcome:
        """What was done in all rounds together."""
        last = self._outcomes[-1]
        return replace(
            last,
            proposal=self._first,
            errors=self._errors,
            left=None if self._errors else last.left,
            exits={name: how for each in self._outcomes for name, how in each.exits.items()},
            overdue={name: how for each in self._outcomes for name, how in each.overdue.items()},
            unhandled={name: how for each in self._outcomes for name, how in each.unhandled.items()},
        )


def _is_same(approved: Change, fresh: Change) -> bool:
    """Whether a change is still the one that was approved; it may be less by now.

    Else it would take back what another command has changed. What is created has nothing to be taken back.
    """
    if (approved.action, approved.cost) != (fresh.action, fresh.cost):
        return False
    return fresh.action == "create" or all(path in approved.paths for path in fresh.paths)


def _is_of_host(change: Change) -> bool:
    """Whether a change is of what all servers need, not of an object that others may have changed."""
    return change.kind == "Host" or not change.of_manifest


def _changed_meanwhile(change: Change) -> VsprovError:
    message = f"{change.address}: another command has changed it while this one waited"
    return FailedError(message, hint="look at the plan again, and apply it if it is still what you want")
