"""Plan and apply: observe, compare, carry out, observe again.

`propose` is read-only. `apply` takes the lock, cleans up after an interrupted apply, plans, asks for
approval, carries out the plan and then plans again. If the second plan is not empty, the kernel does not have
the wanted state, which is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from vsprov.engine.apply import changes, preflight, recover, settle
from vsprov.engine.apply.report import Report
from vsprov.engine.images import imports
from vsprov.engine.look import devices, situation
from vsprov.engine.look.observe import Since
from vsprov.engine.look.situation import Situation
from vsprov.engine.run import intent, lock
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.threads import Threads
from vsprov.errors import FailedError, HostError, Problem, VsprovError
from vsprov.kernel import process
from vsprov.model.kinds.server import Server
from vsprov.plan.builder import Wanted
from vsprov.plan.plan import Plan
from vsprov.plan.reconcile import reconcile
from vsprov.plan.steps import MakeDirectory, MakeGroup, Spawn, WriteApplied
from vsprov.store import servers
from vsprov.store.disk import folders
from vsprov.store.instance import Instance
from vsprov.store.sources import Resolved

PARALLELISM = 32
# A generous bound of the open files of a command, and of each change that is under way, besides those of its
# bind mounts.
FILES, FILES_PER_CHANGE = 64, 16


@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan and everything it was made from; `resolved` are the image sources, by name of the image."""

    plan: Plan
    wanted: Wanted
    now: Situation
    resolved: Mapping[str, Resolved] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an apply.

    `approved` is False if the user declined. `errors` are by key of the change. `left` is the second plan,
    None if a change failed. `exits` is {server: how its init exited}, for those that exited during the apply
    and were not meant to. `unhandled` is {server: its stop signal}, for those whose init did not handle it.
    """

    proposal: Proposal
    approved: bool = True
    errors: Mapping[str, VsprovError] = field(default_factory=dict)
    left: Plan | None = None
    exits: Mapping[str, str] = field(default_factory=dict)
    unhandled: Mapping[str, str] = field(default_factory=dict)


Approve = Callable[[Proposal], bool]


def propose(instance: Instance, wanted: Wanted, since: Since | None = None) -> Proposal:
    """The plan for the wanted state from the current one. Read-only.

    With `since`, servers that have not been changed since then are not observed again.
    """
    now = situation.look(instance, wanted.objects, since)
    resolved, unusable = imports.resolve(instance, wanted.objects, refresh=wanted.refresh)
    digests = {name: image.digest for name, image in resolved.items()}
    for problem in unusable:  # reported as a problem; it should not appear as a change as well
        name = problem.subject.partition("/")[2]
        stored = now.observed.images.get(name)
        digests[name] = stored.digest if stored else ""
    wanted = replace(wanted, digests=digests)
    plan = reconcile(wanted, now.observed, now.machine)

    def image_config(image: str) -> Mapping[str, Any] | None:
        if image in resolved:
            return resolved[image].config
        stored = now.observed.images.get(image)
        return now.observed.defaults.get(stored.digest, {}) if stored else None

    problems = (
        *unusable,
        *devices.refusals(wanted.objects),
        *preflight.problems(instance.root, plan, wanted.objects, image_config),
        *(Problem(one.message, None, one.path, hint=one.hint) for one in folders.unsafe_folders(instance)),
        *plan.problems,
    )
    return Proposal(replace(plan, problems=problems), wanted, now, resolved)


def apply(
    instance: Instance,
    wanted: Wanted,
    report: Report,
    *,
    approve: Callable[[Proposal], bool] = lambda proposal: True,
    parallelism: int = PARALLELISM,
    lock_timeout: float = 0.0,
    settle_seconds: float = settle.SECONDS,
    asks: bool = False,
) -> Outcome:
    """Plan and carry out what is wanted; see `settle.watch` for `settle_seconds`.

    Raises PlanError if the plan has problems. Failures of single objects are in the outcome.
    """
    with approved(instance, lambda: propose(instance, wanted), report, approve, lock_timeout, asks) as (
        first,
        approve,
    ):
        return perform(
            instance, first, report, approve=approve, parallelism=parallelism, settle_seconds=settle_seconds
        )


@contextmanager
def approved(
    instance: Instance,
    plan: Callable[[], Proposal],
    report: Report,
    approve: Approve,
    lock_timeout: float,
    asks: bool,
) -> Iterator[tuple[Proposal, Approve]]:
    """Hold the lock, with a plan that was made under it and the function that still has to approve it.

    If `approve` `asks`, it is called before the lock is taken, so that no other command waits for the answer,
    and again if the plan under the lock is a different one.
    """
    while asks:
        asked = plan()
        refuse_problems(asked.plan)
        if not approve(asked):
            yield asked, lambda proposal: False
            return
        with exclusive(instance, lock_timeout, report):
            first = plan()
            if _is_same(asked.plan, first.plan):
                yield first, lambda proposal: True
                return
        report.notice("The plan has changed since it was shown.")
    with exclusive(instance, lock_timeout, report):
        yield plan(), approve


def _is_same(one: Plan, other: Plan) -> bool:
    """Whether two plans look the same. Steps are not compared, because they contain process ids."""
    return [(each.key, each.action, each.cost, each.paths) for each in one.changes] == [
        (each.key, each.action, each.cost, each.paths) for each in other.changes
    ]


@contextmanager
def exclusive(instance: Instance, lock_timeout: float, report: Report) -> Iterator[None]:
    """Hold the lock of the instance, after cleaning up. At the end remove the files of an empty instance."""
    process.require_root("making servers")
    with lock.locked(instance, lock_timeout):
        try:
            recover.sweep(instance, report.notice)
            yield
        finally:
            recover.withdraw(instance)


def perform(
    instance: Instance,
    first: Proposal,
    report: Report,
    *,
    approve: Callable[[Proposal], bool] = lambda proposal: True,
    parallelism: int = PARALLELISM,
    settle_seconds: float = settle.SECONDS,
) -> Outcome:
    """Carry out a plan that was made under the lock, and plan again. PlanError if it has problems."""
    refuse_problems(first.plan)
    if not approve(first):
        return Outcome(first, approved=False)
    context = ApplyContext(
        instance,
        first.now.hierarchies,
        first.now.machine,
        first.now.observed,
        first.wanted.owner,
        {o.address: o for o in first.wanted.objects},
        first.resolved,
        report.notice,
        Threads(report.progressed),
    )
    with closing(context):
        errors: dict[str, VsprovError] = {}
        exits: dict[str, str] = {}
        second: Proposal | None = first
        if first.plan.empty and context.inits:
            context.start_keeper()
        if not first.plan.empty:
            errors = _carry_out(context, first.plan, report, parallelism)
            touched = frozenset(change.name for change in first.plan.changes if change.kind == "Server")
            since = Since(first.now.observed, touched)
            again = None if errors else first.wanted.again()
            second = check(context, again, since, settle_seconds)
            exits = settle.record(context)
    if context.unhandled:
        _report_unhandled(context.unhandled, report)
    if second:
        intent.forget(instance)  # for an empty plan, one of a failed apply: `sweep` has cleaned up
        recover.collect(instance, second.now.observed)
        servers.tidy(instance)
    left = second.plan if second and second is not first else None
    return Outcome(first, errors=errors, left=left, exits=exits, unhandled=context.unhandled)


def _carry_out(context: ApplyContext, plan: Plan, report: Report, parallelism: int) -> dict[str, VsprovError]:
    """Carry out all changes, with the spawner and the keeper if they are needed; as `changes.run`."""
    steps = [step for change in plan.changes for step in change.steps]
    groups = dict.fromkeys(step.group for step in steps if isinstance(step, MakeGroup))
    intent.write(context.instance, groups, networks=context.observed.networks is not None)
    interfaces = [step.interface for step in steps if hasattr(step, "interface")]
    context.given.update(address for each in interfaces for address in each.addresses)
    spawns = any(isinstance(step, Spawn) for step in steps)
    if spawns:
        context.start_spawner()  # it starts while images and groups are created
    if spawns or context.inits:
        context.start_keeper()
    specs = (want.spec for want in context.wanted.values() if isinstance(want.spec, Server))
    binds = max((len(spec.mounts) for spec in specs), default=0)
    most = affordable(min(parallelism, len(plan.changes)), FILES_PER_CHANGE + binds)
    errors = changes.run(context, plan.changes, report, most)
    if context.dying or context.orphans:
        from vsprov.engine.networks import vanish

        vanish.await_links(context)
    if errors and context.observed.networks is not None:
        from vsprov.engine.networks import after_failure

        after_failure.settle(context, plan, errors.values())
    if any(isinstance(step, MakeDirectory | WriteApplied) for step in steps):
        servers.flush(context.instance)
    return errors


def affordable(parallelism: int, files_per_change: int) -> int:
    """The number of concurrent changes, at most `parallelism`, that the limit of open files permits.

    Raises the soft limit of this process as far as that helps.
    """
    files = process.raise_open_files(FILES + files_per_change * parallelism)
    return max(1, min(parallelism, (files - FILES) // files_per_change))


def _report_unhandled(unhandled: Mapping[str, str], report: Report) -> None:
    names = [f"Server/{name}" for name in sorted(unhandled)]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    signals = ", ".join(f"SIG{name}" for name in sorted(set(unhandled.values())))
    report.notice(f"{shown}: killed without waiting: the command, as pid 1, has no handler for {signals}")
    report.notice(
        "  hint: handle the signal, set init.stopSignal to one that is handled, or init.reaper: true"
    )


def check(context: ApplyContext, again: Wanted | None, since: Since, seconds: float) -> Proposal | None:
    """The second plan, made while the started servers are watched for `seconds`. None without `again`.

    If a server ends meanwhile, the plan is made again, because it may have missed the exit.
    """
    second = None
    while True:
        known = settle.collect(context)
        settle.record(context)
        context.settle_keeper()
        if again:
            second = propose(context.instance, again, since)
        settle.watch(context, seconds)
        if settle.collect(context) == known:
            return second


def refuse_problems(plan: Plan) -> None:
    """Raise PlanError if the plan has problems."""
    if plan.problems:
        raise PlanError(plan.problems)


class PlanError(FailedError):
    """The problems of a plan on this host: objects of other owners, lack of resources or features."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        if any(problem.lack for problem in self.problems):
            self.exit_code = HostError.exit_code
        super().__init__("\n".join(str(problem) for problem in self.problems))
