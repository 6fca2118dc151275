"""The change of one server: the steps that make it what is wanted, in any state."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from vsprov.model import fields
from vsprov.model.cost import highest
from vsprov.model.defaults import init_of
from vsprov.model.kinds.sections.hooks import Hooks
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.plan import range_problems
from vsprov.plan.compare import applied
from vsprov.plan.compare.differences import Comparison, Context
from vsprov.plan.limits import groups
from vsprov.plan.observed import ObservedServer
from vsprov.plan.plan import Action, Change
from vsprov.plan.steps import (
    DiscardUpper,
    InformKeeper,
    KeepStopped,
    MakeDirectory,
    MakeGroup,
    MakePayload,
    MarkInit,
    MoveProcesses,
    Release,
    RemoveDirectory,
    RemoveGroup,
    RepairDirectory,
    Spawn,
    Step,
    Stop,
    WriteApplied,
)

NOTHING = ObservedServer("")  # stands for a server that does not exist
DEFAULT_STOP = ("TERM", 10_000_000)  # signal, timeout in microseconds; for servers without a record


def change_of(
    want: Object, found: ObservedServer | None, context: Context, notes: tuple[str, ...]
) -> tuple[Change | None, frozenset[str]]:
    """(change, or None if nothing differs; controllers that the server's group needs, by v2 name)."""
    spec = want.spec
    assert isinstance(spec, Server)
    seen = found or NOTHING
    it = Comparison.of(want, spec, seen, context)
    paths = it.paths() if found else ()
    cost = highest([path.cost for path in paths])
    if context.restart and cost in ("none", "live"):
        cost = "restart"
    steps = tuple(
        _steps(want.name, it, context, restart=cost in ("restart", "recreate"), recreate=cost == "recreate")
    )
    if not steps:
        return None, it.delta.needed
    desired = fields.write(spec)
    if found is None:
        change = Change(
            "Server", want.name, "create", "none", "missing", (), None, desired, steps, notes=notes
        )
        return change, it.delta.needed
    action: Action = "replace" if cost == "recreate" else "update"
    reason = "drift" if seen.applied == it.record else "changed"
    before = observed_spec(seen)
    change = Change("Server", want.name, action, cost, reason, paths, before, desired, steps, notes=notes)
    return change, it.delta.needed


def _steps(name: str, it: Comparison, context: Context, *, restart: bool, recreate: bool) -> list[Step]:
    """The steps for a server in any state, including partly created: only parts that differ get a step.

    `restart`: a running server has to be restarted; `recreate`: with a new directory as well.
    """
    seen, spec = it.seen, it.spec
    start = spec.state == "Running" and ((seen.init is None and not it.completed) or restart)
    make_directory = not seen.directory or recreate
    runs_on = seen.init is not None and not start and spec.state == "Running"
    hooks = hooks_of(seen, spec)
    steps: list[Step] = []
    write = [] if make_directory or seen.disk == it.text else [WriteApplied(name, it.text, seen.disk or "")]
    # The disk may be full. Write before the stop if the mark alone still records what is running.
    write_first = bool(it.existing and seen.mark and applied.is_whole(seen.mark))
    steps += write if write_first else ()
    steps += _ending(name, it, context, hooks, start=start, recreate=recreate)
    if seen.group and not it.existing:
        steps.append(RemoveGroup(seen.group.path))
    if recreate and seen.directory:
        steps.append(RemoveDirectory(name))
    if make_directory:
        steps.append(MakeDirectory(name, context.owner, it.text))
    elif range_problems.needs_repair(seen, it.machine.ranges):
        steps.append(RepairDirectory(name))
    if it.disk:
        steps += it.disk.new if make_directory else () if runs_on else it.disk.while_stopped()
    steps += _grouping(name, it, context, start=start)
    if runs_on:
        steps += _live(name, it, hooks)
    if not it.existing or seen.mark != it.text:
        steps.append(applied.mark_step(it.group, it.text, seen.mark if it.existing else None))
    steps += () if write_first else write
    stopped = "" if make_directory else seen.stopped
    if it.stopped != stopped:
        steps.append(KeepStopped(name, it.stopped, stopped))
    if start:
        steps += _starting(name, it, context, hooks, discard=spec.ephemeral and not make_directory)
    steps += it.disk.started if it.disk and not make_directory else ()
    return steps


def _ending(
    name: str, it: Comparison, context: Context, hooks: ModuleType | None, *, start: bool, recreate: bool
) -> list[Step]:
    """What ends a server that is to stop, or that is started again."""
    seen, steps = it.seen, list[Step]()
    may_end = start or it.spec.state == "Stopped"
    waits = seen.restarts is not None and seen.restarts.due and not start
    ends = bool(seen.init or seen.populated or waits) and may_end
    if ends:
        steps += hooks.before_stop(seen) if hooks else ()
        steps.append(context.stop())
        steps += context.network.after_stop(name) if context.network else ()
    if hooks and may_end:
        steps += hooks.after_stop(seen)
    if ends and is_ephemeral(seen) and not (start or recreate):
        steps.append(DiscardUpper(name))
    return steps


def _grouping(name: str, it: Comparison, context: Context, *, start: bool) -> list[Step]:
    """What makes the group, and sets its limits."""
    steps: list[Step] = [
        MakeGroup(hierarchy, it.group, "server", context.owner) for hierarchy in it.delta.make
    ]
    if start or not it.existing:
        # An interrupted apply may have left the group without it; a new directory has another id range.
        steps.append(MakePayload(it.group, name))
    return [*steps, *groups.file_writes(it.group, it.delta, it.machine)]


def _live(name: str, it: Comparison, hooks: ModuleType | None) -> list[Step]:
    """What changes a server that runs on."""
    outside = {*it.delta.make, *it.seen.strays}
    steps: list[Step] = [MoveProcesses(hierarchy, it.group) for hierarchy in sorted(outside)]
    steps += [difference.step for difference in it.live if difference.step]
    steps += it.rewired
    steps += it.disk.steps if it.disk else ()
    steps += _inform(name, it)
    steps += hooks.remark(it.group, it.seen, it.spec.hooks) if hooks else ()
    return steps


def _starting(
    name: str, it: Comparison, context: Context, hooks: ModuleType | None, *, discard: bool
) -> list[Step]:
    """What starts a server; `discard`: without what it had written."""
    network = context.network
    begin: list[Step] = [*network.before_start(name)] if network else []
    begin.append(Spawn(name, network is not None and network.on_host, context.rescue))
    begin += network.at_gate(name) if network else ()
    begin += [MarkInit(name, context.rescue), Release(name)]
    around = hooks.around_start(name, it.spec, it.group, begin) if hooks else begin
    return [*([DiscardUpper(name)] if discard else []), *around]


def hooks_of(seen: ObservedServer, spec: Server | None = None) -> ModuleType | None:
    """The module that plans hooks; it is loaded only if a server has some."""
    has_some = spec is not None and spec.hooks != Hooks()
    if not has_some and not (seen.applied and seen.applied["spec"].get("hooks")):
        return None
    from vsprov.plan.servers import hooks

    return hooks


def _inform(name: str, it: Comparison) -> list[Step]:
    """Tell the keeper, before the mark is written: if that fails, the next plan still has this step."""
    if it.seen.applied is None or not applied.kept_changed(it.seen.applied, it.record):
        return []
    before = fields.kept(applied.to_object(name, it.seen.applied).spec)
    after = fields.kept(it.spec)
    return [InformKeeper(name, after, before)] if after != before else []


def stop_step(seen: ObservedServer, defaults: Mapping[str, Mapping[str, Any]]) -> Stop:
    """Stop a server with the signal and timeout it was started with, its own or those of its image.

    `defaults` are the defaults of images by digest (`Observed.defaults`).
    """
    if seen.applied is None:
        return Stop(seen.name, *DEFAULT_STOP)
    spec = applied.to_object(seen.name, seen.applied).spec
    assert isinstance(spec, Server)
    init = init_of(spec.init, defaults.get(seen.applied["image"], {}))
    return Stop(seen.name, init.stop_signal or "TERM", init.stop_timeout)


def is_ephemeral(seen: ObservedServer) -> bool:
    """Whether its upper layer is discarded when it stops, and before it starts if it exited by itself."""
    return bool(seen.directory and seen.applied and seen.applied["spec"].get("ephemeral"))


def observed_spec(seen: ObservedServer) -> dict[str, Any]:
    """The recorded spec with the current state."""
    return {**(seen.applied["spec"] if seen.applied else {}), "state": seen.wanted_state}
