"""The volumes that are mounted in a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vsprov.engine.apply.register import carries_out
from vsprov.engine.aspects.observer import RunningServer, observes
from vsprov.plan.aspects.mounts import MOUNTS, ChangeVolume, MountedVolume

if TYPE_CHECKING:
    from vsprov.engine.run.context import ApplyContext


@observes(MOUNTS)
def volumes(server: RunningServer) -> tuple[MountedVolume, ...] | None:
    """The volumes that the server has mounted now."""
    return server.volumes.mounted(server.pid, server.spec)


@carries_out(ChangeVolume)
def change_volume(context: ApplyContext, step: ChangeVolume) -> None:
    from vsprov.engine.volumes import live

    live.change(context, step)
