"""Start a server again as it was before a change that failed after the server was stopped for it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from vsprov.engine.apply import execute
from vsprov.engine.look import situation
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.schedule import Wait
from vsprov.errors import FailedError, VsprovError
from vsprov.model.kinds.server import Server
from vsprov.plan.builder import EVERY_SET, Request, RequestedAction, Wanted
from vsprov.plan.compare import applied
from vsprov.plan.plan import Change
from vsprov.plan.reconcile import reconcile
from vsprov.plan.steps import DiscardUpper, RemoveDirectory, Spawn, Step, Stop


def put_back(context: ApplyContext, change: Change, finished: list[Step]) -> Generator[Wait, Any, str]:
    """Start the server with the record, and the image, that it ran with, if the change would have replaced
    them by others. `finished` are the steps that were carried out. Returns what became of it, for the error.
    """
    # One that was to be renamed has its old name: the directory was renamed back before this.
    name = next(step.server for step in finished if isinstance(step, Stop))
    seen = context.observed.servers[name]
    if any(isinstance(step, RemoveDirectory) for step in finished):
        return "the server is stopped, and its files are removed"
    if seen.applied is None or not change.paths or not any(isinstance(step, Spawn) for step in change.steps):
        return "the server is now stopped"
    try:
        yield from _start(context, name, seen.applied)
    except VsprovError as error:
        return f"the server is now stopped; to start it again as before the change failed: {error}"
    lost = (
        ", without the files it had written" if any(isinstance(one, DiscardUpper) for one in finished) else ""
    )
    return f"the server was started again as it was before{lost}"


def restore(context: ApplyContext, name: str) -> Generator[Wait, Any, str]:
    """Restart a server, which an apply has changed and which does not work, with the record and the image
    that it ran with before. Returns what became of it, for the error.
    """
    rolled = context.waits.rolled.get(name)
    seen = rolled.before if rolled else context.observed.servers.get(name)
    if seen is None or seen.applied is None or seen.id_base != context.bases.get(name):
        return "it cannot be put back, because its files were removed"
    try:
        yield from _start(context, name, seen.applied, "restart")
    except VsprovError as error:
        return f"it could not be put back: {error}"
    return "it was put back to what it was before"


def _start(
    context: ApplyContext, name: str, record: Mapping[str, Any], action: RequestedAction = "start"
) -> Generator[Wait, Any, None]:
    instance, address = context.instance.name, f"Server/{name}"
    old = applied.to_object(name, record)
    assert isinstance(old.spec, Server)
    wanted = Wanted(
        instance,
        f"{instance}/{EVERY_SET}",
        (old,),
        {old.spec.image: record["image"]},
        selected=True,
        request=Request(action, frozenset((name,))),
    )
    now = situation.look(context.instance, wanted.objects)
    plan = reconcile(wanted, now.observed, now.machine)
    if plan.problems:
        raise FailedError("; ".join(problem.message for problem in plan.problems))
    context.wanted = {**context.wanted, address: old}
    context.pinned[name] = record["image"]
    if now.observed.networks is not None:
        from vsprov.engine.networks import after_failure

        yield from execute.do(context, after_failure.admission(context, now))
    for again in plan.changes:
        if again.key == address:
            for step in again.steps:
                yield from execute.do(context, step)
