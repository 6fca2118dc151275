"""Observe, compare, carry out, observe again: what all commands that change something have in common.

`propose` is read-only. `perform` carries out a plan, under the lock (`exclusive`), and then plans again. If
the second plan is not empty, the kernel does not have the wanted state, which is an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from vsprov.engine.apply import interrupted, keeping, preflight, recover
from vsprov.engine.apply.conditions import settle
from vsprov.engine.apply.report import Report, report_killed
from vsprov.engine.images import imports
from vsprov.engine.look import devices, situation
from vsprov.engine.look.observe import Since
from vsprov.engine.look.situation import Situation
from vsprov.engine.run import intent
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.threads import Threads
from vsprov.engine.run.waits import Waits
from vsprov.engine.work import DEFAULT, WorkOptions
from vsprov.errors import FailedError, HostError, Problem, VsprovError
from vsprov.model.kinds.server import Server
from vsprov.model.values.styles import is_system
from vsprov.plan.aspects.mounts import MOUNTS
from vsprov.plan.builder import Wanted
from vsprov.plan.observed import Observed
from vsprov.plan.plan import Change, Plan
from vsprov.plan.step import Step
from vsprov.plan.steps import (
    KeepStopped,
    MakeDirectory,
    MakeGroup,
    RenameDirectory,
    Spawn,
    Stop,
    WriteApplied,
)
from vsprov.store import servers
from vsprov.store.disk import folders
from vsprov.store.instance import Instance
from vsprov.store.sources import Resolved


class Proposal(Struct, frozen=True):
    """A plan and everything it was made from; `resolved` are the image sources, by name of the image."""

    plan: Plan
    wanted: Wanted
    now: Situation
    resolved: Mapping[str, Resolved] = field(default_factory=dict)

    def with_steps(self, key: str, steps: Callable[[tuple[Step, ...]], tuple[Step, ...]]) -> Proposal:
        """The same proposal, in which `steps` has replaced the steps of the change with this key, if any."""
        changes = tuple(
            replace(change, steps=steps(change.steps)) if change.key == key else change
            for change in self.plan.changes
        )
        return replace(self, plan=replace(self.plan, changes=changes))


class Outcome(Struct, frozen=True):
    """The result of an apply.

    `approved` is False if the user declined. `errors` are by key of the change. `left` is the second plan,
    None if a change failed. `later` are the keys of the changes that wait for conditions of servers, and were
    not carried out. `exits` is {server: how its init exited}, for those that exited during the apply
    and were not meant to. `unhandled` is {server: its stop signal}, for those whose init did not handle it,
    `overdue` {server: how it was killed}, for those that did not end in time. `unready` is {server: why it is
    not ready}, if that was waited for.
    """

    proposal: Proposal
    approved: bool = True
    errors: Mapping[str, VsprovError] = field(default_factory=dict)
    left: Plan | None = None
    later: frozenset[str] = frozenset()
    exits: Mapping[str, str] = field(default_factory=dict)
    overdue: Mapping[str, str] = field(default_factory=dict)
    unhandled: Mapping[str, str] = field(default_factory=dict)
    unready: Mapping[str, str] = field(default_factory=dict)


Sources = Mapping[str, Resolved]  # by name of the image


def propose(
    instance: Instance, wanted: Wanted, since: Since | None = None, known: Sources | None = None
) -> Proposal:
    """The plan for the wanted state from the current one. Read-only.

    Neither servers that have not been changed since `since` nor `known` sources of images are observed again.
    """
    now = situation.look(instance, wanted.objects, since)
    resolved, unusable = imports.resolve(instance, wanted.objects, known or {}, refresh=wanted.refresh)
    digests = {name: image.digest for name, image in resolved.items()}
    for problem in unusable:  # reported as a problem; it should not appear as a change as well
        name = problem.subject.partition("/")[2]
        stored = now.observed.images.get(name)
        digests[name] = stored.digest if stored else ""
    wanted = replace(wanted, digests=digests)
    plan = preflight.plan(wanted, now)

    def image_config(image: str) -> Mapping[str, Any] | None:
        if image in resolved:
            return resolved[image].config
        stored = now.observed.images.get(image)
        return now.observed.defaults.get(stored.digest, {}) if stored else None

    problems = (
        *unusable,
        *devices.refusals(wanted.objects),
        *preflight.problems(instance.root, plan, wanted.objects, now.observed.servers, image_config),
        *(Problem(one.message, None, one.path, hint=one.hint) for one in folders.unsafe_folders(instance)),
        *plan.problems,
    )
    return Proposal(replace(plan, problems=problems), wanted, now, resolved)


def perform(
    instance: Instance,
    first: Proposal,
    report: Report,
    *,
    approve: Callable[[Proposal], bool] = lambda proposal: True,
    work: WorkOptions = DEFAULT,
    waits: Waits | None = None,
) -> Outcome:
    """Carry out a plan that was made under the lock, and plan again. PlanError if it has problems.

    With `waits`, what has to wait long for conditions of servers is left for `finished`, which also says what
    was killed; then it is not planned again.
    """
    PlanError.check(first.plan)
    if not approve(first):
        return Outcome(first, approved=False)
    plan, later = first.plan, frozenset[str]()
    if waits is not None and work.wait_timeout and any(change.action == "no-op" for change in plan.changes):
        from vsprov.engine.apply.conditions import postponed

        later = postponed.later(plan, first.wanted.objects, first.now.observed, waits)
        plan = plan.without(later)
    context = _context(instance, first, plan, report, work, waits or Waits())
    with interrupted.explained(lambda: interrupted.left_of(context, first.wanted.request)), closing(context):
        errors: dict[str, VsprovError] = {}
        exits: dict[str, str] = {}
        second: Proposal | None = None if later else first
        if plan.empty and keeping.is_needed(context):
            keeping.start(context)
        if not plan.empty:
            errors = _carry_out(context, plan, report, work.parallelism)
            flushed = context.threads.begin(lambda: _flush(context, plan))
            since = Since(first.now.observed, _touched(plan, first.now.observed))
            again = None if errors or later else first.wanted.again()
            try:
                second = check(context, again, since, work.settle)
                exits = settle.record(context)
            finally:
                flushed()
    if waits is None:
        report_killed(context.overdue, context.unhandled, report)
    if second:
        intent.forget(instance)  # for an empty plan, one of a failed apply: `sweep` has cleaned up
        recover.collect(instance, second.now.observed)
        servers.tidy(instance)
    left = second.plan if second and second is not first else None
    return Outcome(first, True, errors, left, later, exits, context.overdue, context.unhandled)


def _context(
    instance: Instance, first: Proposal, plan: Plan, report: Report, work: WorkOptions, waits: Waits
) -> ApplyContext:
    """What the steps of the plan are carried out with; `plan` is what is left of the proposed one."""
    return ApplyContext(
        instance,
        first.now.hierarchies,
        first.now.machine,
        first.now.observed,
        first.wanted.owner,
        {o.address: o for o in first.wanted.objects},
        first.resolved,
        report.notice,
        Threads(report.progressed),
        work=work,
        stop_by=None if work.stop_within is None else time.monotonic() + work.stop_within,
        pinned=dict(first.wanted.pinned),
        verb=first.wanted.verb,
        automatic=first.wanted.automatic,
        restarting=frozenset(each.name for each in plan.changes if _restarts(each)),
        waits=waits,
        unfinished={change.key: change for change in first.plan.changes},
    )


def _carry_out(context: ApplyContext, plan: Plan, report: Report, parallelism: int) -> dict[str, VsprovError]:
    """Carry out all changes, with the spawner and the keeper if they are needed; as `carry_out.run`."""
    from vsprov.engine.apply import carry_out
    from vsprov.engine.run.schedule import FILES_PER_CHANGE, affordable

    steps = [step for change in plan.changes for step in change.steps]
    groups = dict.fromkeys(step.group for step in steps if isinstance(step, MakeGroup))
    intent.write(context.instance, groups, networks=context.observed.networks is not None)
    interfaces = [step.interface for step in steps if hasattr(step, "interface")]
    context.given.update(address for each in interfaces for address in each.addresses)
    spawns = any(isinstance(step, Spawn) for step in steps)
    if spawns:
        context.start_spawner()  # it starts while images and groups are created
    if spawns or keeping.is_needed(context):
        keeping.start(context)
    if any(isinstance(step, Spawn) and _is_system(context, step.server) for step in steps):
        from vsprov.engine.guests import terminal

        terminal.start_holder(context)
    specs = (want.spec for want in context.wanted.values() if isinstance(want.spec, Server))
    binds = max((len(spec.mounts) for spec in specs), default=0)
    most = affordable(min(parallelism, len(plan.changes)), FILES_PER_CHANGE + binds)
    errors = carry_out.run(context, plan.changes, report, most)
    if context.dying or context.orphans:
        from vsprov.engine.networks import vanish

        vanish.await_links(context)
    if errors and context.observed.networks is not None:
        from vsprov.engine.networks import after_failure

        after_failure.settle(context, plan, errors.values())
    return errors


def _is_system(context: ApplyContext, server: str) -> bool:
    spec = context.wanted[f"Server/{server}"].spec
    return isinstance(spec, Server) and is_system(spec.init.style)


def _flush(context: ApplyContext, plan: Plan) -> None:
    """Make what the plan has written about servers safe from a power failure: one wait for all of them."""
    steps = [step for change in plan.changes for step in change.steps]
    if any(isinstance(step, MakeDirectory | WriteApplied) for step in steps):
        servers.flush(context.instance)
    else:
        kept = (step.server for step in steps if isinstance(step, KeepStopped))
        servers.flush_stopped(context.instance, kept)


def _restarts(change: Change) -> bool:
    kinds = {type(step) for step in change.steps}
    return change.kind == "Server" and Stop in kinds and Spawn in kinds


def _touched(plan: Plan, observed: Observed) -> frozenset[str]:
    """The names of the servers that a plan changes, also those that they had before; and of those that have
    volumes mounted, if it changes any: the mount of a volume that is renamed shows another name.
    """
    servers = [change for change in plan.changes if change.kind == "Server"]
    renamed = (
        step.server for change in servers for step in change.steps if isinstance(step, RenameDirectory)
    )
    mounting: Iterable[str] = ()
    if any(change.kind == "Volume" for change in plan.changes):
        mounting = (name for name, seen in observed.servers.items() if seen.live.get(MOUNTS))
    return frozenset((*(change.name for change in servers), *renamed, *mounting))


def check(context: ApplyContext, again: Wanted | None, since: Since, seconds: float) -> Proposal | None:
    """The second plan, made while the started servers are watched for `seconds`. None without `again`.

    If a server ends meanwhile, the plan is made again, because it may have missed the exit. Sources of images
    are not read again, like manifests: what changes in them meanwhile is for the next apply.
    """
    second = None
    while True:
        known = settle.collect(context)
        settle.record(context)
        keeping.settle(context)
        if again:
            second = propose(context.instance, again, since, context.resolved)
        settle.watch(context, seconds)
        if settle.collect(context) == known:
            return second


class PlanError(FailedError):
    """The problems of a plan on this host: objects of other owners, lack of resources or features."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        if any(problem.lack for problem in self.problems):
            self.exit_code = HostError.exit_code
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @classmethod
    def check(cls, plan: Plan) -> None:
        """Raise the error if the plan has problems."""
        if plan.problems:
            raise cls(plan.problems)
