"""Wait within an apply until a server is in a condition, so that what depends on it can follow."""

from __future__ import annotations

import time

from vsprov.engine.apply import keeping
from vsprov.engine.apply.conditions import settle
from vsprov.engine.apply.put_back import restore
from vsprov.engine.apply.register import carries_out
from vsprov.engine.look import observe
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.schedule import Changed, Work
from vsprov.engine.run.waits import SECONDS_TO_NOTICE
from vsprov.errors import StepError
from vsprov.plan.servers.conditions import (
    FAILED,
    GRACE,
    Await,
    holds,
    hopeless,
    is_unknown,
    too_late,
)


@carries_out(Await)
def await_condition(context: ApplyContext, step: Await) -> Work:
    """Wait as long as the user has said. StepError if the server cannot get into the condition any more; it
    says what became of the server.
    """
    try:
        yield from _await(context, step)
    except StepError as error:
        if not step.puts_back:
            raise
        raise StepError(f"{error}; {(yield from restore(context, step.server))}") from error


def _await(context: ApplyContext, step: Await) -> Work:
    key, limit = f"{step.server} {step.condition}", context.work.wait_timeout
    began = context.waits.since.get((step.server, step.condition), time.monotonic())
    noticed, unknown = False, 0.0  # since when nobody has recorded how it ended
    if step.server in context.groups:
        context.watcher.watch(context.directory("", context.groups[step.server]), key)
    try:
        while True:
            settle.record_one(context, step.server)  # how it has ended, if we have seen it
            seen = observe.find(context.instance, context.hierarchies, context.machine, step.server)
            now = time.monotonic()
            unsettled = context.released.get(step.server, 0.0) + context.work.settle - now
            if holds(seen, step.condition):
                if step.condition != "started" or unsettled <= 0:
                    return
                yield Changed(key, unsettled)
                continue
            waited, unknown = now - began, (unknown or now) if is_unknown(seen) else 0.0
            why, left = hopeless(seen, step.condition), unknown + GRACE - now
            if why and left <= 0:
                raise StepError(f"{FAILED[step.condition]}: {why}")
            if waited >= limit:
                raise StepError(too_late(seen, step.condition, limit))
            if waited >= SECONDS_TO_NOTICE and not noticed:
                noticed = True
                context.notice(f"Server/{step.server}: waiting until it is {step.condition}")
            keeping.attend(context)
            times = (limit - waited, limit if noticed else SECONDS_TO_NOTICE - waited, left if why else limit)
            yield Changed(key, min(times))
    finally:
        context.watcher.forget(key)
