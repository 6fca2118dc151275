"""The keeper during an apply: it is started, told of servers, and replaced if it dies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from vsprov.engine.look import last_exit
from vsprov.engine.run import keeper
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.keeper import Keeper
from vsprov.errors import FailedError
from vsprov.model import fields
from vsprov.model.kinds.server import Server
from vsprov.model.objects import few
from vsprov.model.rescue import rescued
from vsprov.plan.compare import applied
from vsprov.plan.observed import RESCUE, ObservedServer, Process, is_of


def is_needed(context: ApplyContext) -> bool:
    """Whether a server runs, or is to be started again by the keeper."""
    waiting = (seen.restarts and seen.restarts.due for seen in context.observed.servers.values())
    return bool(context.inits) or any(waiting)


def start(context: ApplyContext) -> Keeper:
    """The keeper of the instance; one that has to be started takes over all running servers."""
    if context.keeper is None:
        context.keeper = keeper.connect(context.instance)
    if context.keeper is None:
        context.keeper = keeper.start(context.instance, context.hierarchies)
        _hand_over(context)
    if not context.looked_at_consoles:
        context.looked_at_consoles = True
        if any(seen.boots for seen in context.observed.servers.values()):
            from vsprov.engine.guests import terminal

            terminal.reopen(context)
    return context.keeper


def keep(context: ApplyContext, name: str, init: Process, spec: Mapping[str, Any]) -> None:
    """Have the keeper keep a server by this part of its spec, `fields.kept`."""
    context.kept[name] = spec
    try:
        start(context)
        _tell_running(context, name, init)
    except keeper.KeeperGone:
        _replace(context)


def settle(context: ApplyContext) -> None:
    """Wait until the logs and exits of servers are complete; notices about those that are not."""
    if context.keeper is None:
        return
    try:
        settled = context.keeper.settle()
    except keeper.KeeperGone:
        if not os.path.isdir(context.directory("", context.instance.name)):
            return  # it has ended with the last server
        settled = _replace(context).settle()
    for problem in settled["problems"]:
        context.notice(problem)


def attend(context: ApplyContext) -> None:
    """Start another keeper if ours has died, and let whoever waits for servers be told when it dies."""
    if context.keeper is not None:
        keeping = _replace(context) if context.keeper.is_gone() else context.keeper
        keeping.hello()
        context.watcher.follow(keeping.fileno())


def _hand_over(context: ApplyContext) -> None:
    """Tell a new keeper of all servers that run or have ended; a damaged one does not prevent the others."""
    unknown = [name for name in context.inits if name not in context.spawned and _is_ours(context, name)]
    if unknown:
        context.notice(f"{few(unknown)}: no keeper has watched; a new one does from now on")
    for name, init in context.inits.items():
        if name in context.spawned or _is_ours(context, name):
            _tell(context, name, init)
    for name, seen in context.observed.servers.items():
        if seen.ended and name not in context.inits and _is_ours(context, name):
            _tell(context, name, None)


def _tell(context: ApplyContext, name: str, init: Process | None) -> None:
    """Tell the keeper of a server that runs, or without `init` of one that has ended."""
    try:
        if init:
            _tell_running(context, name, init)
        else:
            _tell_ended(context, name)
    except keeper.KeeperGone:
        raise
    except FailedError as error:
        context.notice(f"Server/{name}: nothing watches it: {str(error).removeprefix(f'Server/{name}: ')}")


def _tell_running(context: ApplyContext, name: str, init: Process) -> None:
    assert context.keeper is not None
    group = context.groups[name]
    spec = context.kept[name] if name in context.kept else _recorded(context.observed.servers[name])
    with ExitStack() as opened:
        more: Mapping[str, int] = {}
        if spec["readiness"] or spec["health"]:
            from vsprov.engine.guests import probes

            more = probes.descriptors(context, name, init, spec, opened)
        _schedule(_folder(context, name), spec)
        runs = context.keeper.keep(
            name,
            init,
            spec,
            folder=_folder(context, name),
            home=context.directory("", group),
            memory=context.directory("memory", group),
            more=more,
        )
    if not runs and name not in context.spawned:
        _tell_ended(context, name)


def _schedule(folder: str, spec: Mapping[str, Any]) -> None:
    """See that the keeper finds when the next snapshot of a server is due."""
    from vsprov.store.written import scheduled

    if spec["snapshots"]:
        scheduled.review(folder, spec["snapshots"]["schedule"])
    else:
        scheduled.forget(folder)


def _tell_ended(context: ApplyContext, name: str) -> None:
    """Tell the keeper of a server that has ended, which it may have to start again."""
    assert context.keeper is not None
    seen, home = context.observed.servers[name], context.directory("", context.groups[name])
    if seen.directory and (init := last_exit.marked_init(home)):
        status = last_exit.wait_status(home)
        context.keeper.ended(name, init, _recorded(seen), status, folder=_folder(context, name), home=home)


def _folder(context: ApplyContext, name: str) -> str:
    return f"{context.instance.servers}/{name}"


def _is_ours(context: ApplyContext, name: str) -> bool:
    seen = context.observed.servers[name]
    return seen.directory and all(is_of(owner, context.instance.name) for owner in seen.owners())


def _recorded(seen: ObservedServer) -> Mapping[str, Any]:
    """What the keeper works by: of the record of a server, or the defaults if its record is lost."""
    if seen.applied is None:
        return fields.kept(Server(image="", hostname=""))
    spec = applied.to_object(seen.name, seen.applied).spec
    assert isinstance(spec, Server)
    return fields.kept(rescued(spec) if seen.live.get(RESCUE) else spec)


def _replace(context: ApplyContext) -> Keeper:
    """Another keeper after one that has died, which takes over all servers, also those just started."""
    if context.keeper is not None:
        context.keeper.close()
        context.keeper = None
    return start(context)
