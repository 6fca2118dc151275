"""Start the servers of an instance when the host starts, and stop them before it shuts down.

What is to run is known from the records on disk: the servers as they were last applied, their networks and
pools. Which servers ran before the shutdown does not matter.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

from msgspec.structs import replace

from vsprov.engine import lifecycle
from vsprov.engine.apply import converge
from vsprov.engine.apply.conditions import ready
from vsprov.engine.apply.converge import Outcome, Proposal
from vsprov.engine.apply.exclusive import exclusive
from vsprov.engine.apply.interrupted import explained, not_begun
from vsprov.engine.apply.report import Report
from vsprov.engine.desired.choice import Choice
from vsprov.engine.lifecycle import Changed
from vsprov.engine.look import situation
from vsprov.engine.run.waits import Aim
from vsprov.engine.work import DEFAULT, WorkOptions
from vsprov.errors import FailedError, VsprovError
from vsprov.model.kinds.sections.dependencies import Dependency
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.plan.builder import EVERY_SET, Request, RequestedAction, Wanted
from vsprov.plan.kinds.planner import PLANNERS
from vsprov.plan.observed import Observed, ObservedServer
from vsprov.plan.plan import Change
from vsprov.plan.servers import conditions, host_order
from vsprov.plan.servers.references import dependencies
from vsprov.store.instance import Instance


def boot(instance: Instance, report: Report, *, work: WorkOptions = DEFAULT) -> Changed:
    """Start the servers that start with the host, in the order of their priorities and dependencies.

    A server that cannot start, and those that depend on it, are errors of the outcome; all others start. The
    lock is free while conditions of dependencies are waited for.
    """
    start = _Start(instance, report)
    while True:
        with exclusive(instance, work, report):
            start.go_on(work)
        if not start.left:
            return start.changed()
        if start.aims:
            with explained(start.lines):
                start.give_up(next(ready.decide(instance, start.aims, work.wait_timeout, report)))
        # Other commands may hold the lock by now, and the rest has to start nevertheless.
        work = replace(work, lock_timeout=max(work.lock_timeout, work.wait_timeout))


def shutdown(instance: Instance, report: Report, *, work: WorkOptions = DEFAULT) -> Changed:
    """Stop all servers, those that depend on others and those of low priority first.

    `boot` starts them again: the stop is not a wish of anybody that they stay stopped.
    """
    with exclusive(instance, work, report):
        observed = situation.look(instance).observed
        chosen = Choice(everything=True).of(observed, instance.name)
        already = tuple(seen.name for seen in chosen if not lifecycle.runs(seen))
        chosen = [seen for seen in chosen if seen.name not in already]
        for line in lifecycle.unmet_dependencies("stop", chosen, observed):
            report.notice(line)
        objects, _ = _recorded("stop", chosen)
        proposal, _ = _propose(instance, "stop", {seen.name for seen in chosen}, objects)
        return Changed(converge.perform(instance, proposal, report, work=work), already)


class _Start:
    """The start of all servers, by as many plans as it takes.

    `aims` are the conditions that those which are left wait for, with the times since when, on the monotonic
    clock.
    """

    def __init__(self, instance: Instance, report: Report) -> None:
        self._instance, self._report = instance, report
        self.aims: dict[Aim, float] = {}
        self._left: Mapping[str, Object] | None = None  # by address; None before the first plan
        self._errors: dict[str, VsprovError] = {}  # by key, as in an outcome
        self._outcomes: list[Outcome] = []
        self._already: tuple[str, ...] = ()

    @property
    def left(self) -> dict[str, Object]:
        """The servers that are still to be started, by address."""
        return {one: want for one, want in (self._left or {}).items() if one not in self._errors}

    def lines(self) -> Iterator[str]:
        """Lines for the user about what is left, if a signal ends the wait."""
        left = (_start_of(address) for address in self.left)
        return not_begun(left, self.aims, Request("start", frozenset(), host=True))

    def go_on(self, work: WorkOptions) -> None:
        """Start those that need not wait any longer, under the lock."""
        observed = situation.look(self._instance).observed
        chosen = Choice(everything=True).of(observed, self._instance.name)
        chosen = [seen for seen in chosen if seen.starts_with_host]
        already = tuple(seen.name for seen in chosen if lifecycle.is_already("start", seen))
        chosen = [seen for seen in chosen if seen.name not in already]
        if self._left is None:
            self._already = already
            for line in lifecycle.unmet_dependencies("start", chosen, observed):
                self._report.notice(line)
        else:
            chosen = [seen for seen in chosen if f"Server/{seen.name}" in self.left]
        objects, refused = _recorded("start", chosen)
        self._refuse(refused)
        self._refuse(_skipped(objects, self._errors))
        objects = {address: want for address, want in objects.items() if address not in self._errors}
        later = host_order.postponed({want.name: want for want in objects.values()}, observed)
        some = {address: want for address, want in objects.items() if want.name not in later}
        proposal, problems = _propose(self._instance, "start", {want.name for want in some.values()}, some)
        self._refuse(problems)
        outcome = converge.perform(self._instance, proposal, self._report, work=work)
        self._outcomes.append(outcome)
        self._errors |= outcome.errors
        self._left = {address: want for address, want in objects.items() if want.name in later}
        self._refuse(_skipped(self._left, self._errors))
        self._await(observed)
        if not some and not self.aims:  # else those with the highest priority, at least, would have started
            circle = {
                one: FailedError(f"{one}: servers that it depends on depend on it") for one in self.left
            }
            self._refuse(circle)

    def _await(self, observed: Observed) -> None:
        """Set the aims: the conditions of servers that need not be started first."""
        left, now = self.left, time.monotonic()
        self.aims = {
            (each.name, each.condition): self.aims.get((each.name, each.condition), now)
            for want in left.values()
            for each in _dependencies(want)
            if each.condition != "started"
            and f"Server/{each.name}" not in left
            and not conditions.holds(observed.servers.get(each.name), each.condition)
        }

    def give_up(self, decided: Mapping[Aim, str]) -> None:
        """Skip the servers that wait for a condition which another does not get into."""
        for (name, condition), why in decided.items():
            if not why:
                continue
            cause = f"Server/{name}"
            wait = Change("Server", name, "no-op", "none", condition, phase=condition)
            self._fail(wait, FailedError(f"{cause}: {why}"))
            for address, want in self.left.items():
                if any((each.name, each.condition) == (name, condition) for each in _dependencies(want)):
                    skipped = f"{address}: skipped, because {cause} {conditions.FAILED[condition]}"
                    self._refuse({address: FailedError(skipped)})

    def _refuse(self, refused: Mapping[str, VsprovError]) -> None:
        for address, error in refused.items():
            self._fail(_start_of(address), error)

    def _fail(self, change: Change, error: VsprovError) -> None:
        if change.key not in self._errors:
            self._errors[change.key] = error
            self._report.finished(change, error)

    def changed(self) -> Changed:
        """What was done by all plans together."""
        last = self._outcomes[-1]
        changes = tuple(change for each in self._outcomes for change in each.proposal.plan.changes)
        plan = replace(last.proposal.plan, changes=changes)
        outcome = replace(
            last,
            proposal=replace(last.proposal, plan=plan),
            errors=self._errors,
            exits={name: how for each in self._outcomes for name, how in each.exits.items()},
            unhandled={name: how for each in self._outcomes for name, how in each.unhandled.items()},
        )
        return Changed(outcome, self._already)


def _dependencies(want: Object) -> tuple[Dependency, ...]:
    assert isinstance(want.spec, Server)
    return want.spec.depends_on


def _recorded(
    action: RequestedAction, chosen: Iterable[ObservedServer]
) -> tuple[dict[str, Object], dict[str, VsprovError]]:
    """({address: server as it was last applied}, {address: why that is not known})."""
    objects: dict[str, Object] = {}
    refused: dict[str, VsprovError] = {}
    for seen in chosen:
        try:
            if want := lifecycle.recorded(action, seen):
                objects[want.address] = want
        except FailedError as error:
            refused[f"Server/{seen.name}"] = error
    return objects, refused


def _start_of(address: str) -> Change:
    """The change of a server that is left out of the plans."""
    return Change("Server", address.partition("/")[2], "update", "none", "start")


def _propose(
    instance: Instance, action: RequestedAction, names: set[str], objects: Mapping[str, Object]
) -> tuple[Proposal, Mapping[str, VsprovError]]:
    """(the plan, {address: why the server cannot be started}).

    A server that has problems is stopped as one without a record is.
    """
    refused: dict[str, VsprovError] = {}
    while True:
        if action == "start":
            refused |= _skipped(objects, refused)
            names = names - {address.partition("/")[2] for address in refused}
            objects = {address: want for address, want in objects.items() if address not in refused}
        wanted = Wanted(
            instance.name,
            f"{instance.name}/{EVERY_SET}",
            tuple(objects.values()),
            selected=True,
            request=Request(action, frozenset(names), host=True),
        )
        proposal = converge.propose(instance, wanted)
        found = _problems(proposal, objects)
        if not found:
            return proposal, refused
        if action == "start":
            refused |= found
        else:
            objects = {address: want for address, want in objects.items() if address not in found}


def _problems(proposal: Proposal, objects: Mapping[str, Object]) -> dict[str, VsprovError]:
    """{address: error} of the servers that cannot be changed, or that need an object which cannot be."""
    found: dict[str, VsprovError] = {}
    for problem in proposal.plan.problems:
        for address, want in objects.items():
            if problem.subject == address or problem.subject in PLANNERS["Server"].needs(want):
                message = str(problem).removeprefix(f"{address}: ")
                found.setdefault(address, FailedError(f"{address}: {message}", hint=problem.hint))
    return found


def _skipped(objects: Mapping[str, Object], refused: Mapping[str, VsprovError]) -> dict[str, VsprovError]:
    """{address: error} of the servers that depend on one that cannot be started."""
    found: dict[str, VsprovError] = {}
    lost, left = set(refused), True
    while left:
        left = False
        for address, want in objects.items():
            missing = [one for one in dependencies(want) if one in lost]
            if missing and address not in lost:
                found[address] = FailedError(f"{address}: skipped, because {missing[0]} cannot start")
                lost.add(address)
                left = True
    return found
