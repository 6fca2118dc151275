"""The freezer of a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vsprov.engine.apply.register import carries_out
from vsprov.engine.aspects.observer import RunningServer, observes
from vsprov.kernel import cgroup
from vsprov.plan.aspects.freeze import Thaw

if TYPE_CHECKING:
    from vsprov.engine.run.context import ApplyContext


@observes("freeze")
def is_frozen(server: RunningServer) -> bool:
    """Whether the server's processes are frozen, by its own group or one that it is in."""
    return cgroup.frozen(f"{server.home}/payload")


@carries_out(Thaw)
def thaw(context: ApplyContext, step: Thaw) -> None:
    thaw_group(context, context.groups[step.server])


def thaw_group(context: ApplyContext, group: str) -> None:
    """Thaw a server's group, all groups below it, and those above it up to that of the instance."""
    cgroup.thaw(context.directory("", group), group.count("/"))
