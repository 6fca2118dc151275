"""The resource limits of a running server's processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vsprov.engine.apply.register import carries_out
from vsprov.engine.aspects.observer import RunningServer, observes
from vsprov.engine.look.machine import limits_of
from vsprov.kernel import cgroup, process
from vsprov.model.values.units import MAX
from vsprov.plan.aspects.rlimits import SetLimit

if TYPE_CHECKING:
    from vsprov.engine.run.context import ApplyContext


@observes("rlimits")
def limits(server: RunningServer) -> dict[str, tuple[Any, Any]]:
    """The limits of the server's init."""
    return limits_of(server.pid)


@carries_out(SetLimit)
def set_limit(context: ApplyContext, step: SetLimit) -> None:
    """Set it on every process: limits belong to processes, and only new processes inherit them."""
    soft, hard = (-1 if word == MAX else int(word) for word in (step.soft, step.hard))
    done: set[int] = set()
    home = context.directory("", context.groups[step.server])
    while left := [pid for pid in cgroup.all_processes(home) if pid not in done]:
        for pid in left:
            done.add(pid)
            process.set_limit(pid, step.limit, soft, hard)
