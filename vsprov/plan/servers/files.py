"""The steps that copy what servers have written: restores of snapshots, and clones."""

from __future__ import annotations

from collections.abc import Iterable

from vsprov.plan.servers.disk_steps import MakeDisk
from vsprov.plan.step import Step
from vsprov.plan.steps import MakeDirectory, RemoveDirectory, Stop
from vsprov.plan.volumes.state import UNLIMITED, Space
from vsprov.plan.volumes.steps import MakeVolume, RemoveVolume


class ExchangeFiles(Step, frozen=True):
    """Exchange what a stopped server has written (if `disk`), and the files of volumes, with what was
    prepared: the files of a snapshot.
    """

    server: str
    snapshot: str
    volumes: tuple[str, ...] = ()
    disk: bool = True

    def describe(self) -> str:
        parts = [f"the files of {self.server}"] if self.disk else []
        parts += [f"volume {volume}" for volume in self.volumes]
        return f"restore {', '.join(parts)} from snapshot {self.snapshot}"

    def undo(self) -> Step | None:
        return self


class CloneDirectory(Step, frozen=True):
    """Create a server's directory with a copy of what another server has written, or had in a snapshot, in
    its limited disk if it has one.
    """

    server: str
    owner: str
    applied: str
    source: str
    snapshot: str = ""
    disk: MakeDisk | None = None

    def describe(self) -> str:
        where = f"snapshot {self.snapshot} of {self.source}" if self.snapshot else self.source
        return f"create the directory of {self.server} with the files of {where}"

    def undo(self) -> Step | None:
        return RemoveDirectory(self.server)


class CloneVolume(Step, frozen=True):
    """Create a volume for the server `clone` with a copy of another one that `server` uses, or that it had in
    a snapshot.
    """

    volume: str
    owner: str
    applied: str
    server: str
    snapshot: str
    source: str
    clone: str
    space: Space = UNLIMITED

    def describe(self) -> str:
        where = f"in snapshot {self.snapshot} of {self.server}" if self.snapshot else ""
        return f"create volume {self.volume} with the files of {self.source} {where}".rstrip()

    def undo(self) -> Step | None:
        return RemoveVolume(self.volume, data=True)


def cloning(steps: Iterable[Step], source: str, snapshot: str) -> tuple[Step, ...]:
    """The steps of a new server, with the files of another one in its directory."""
    steps = tuple(steps)
    disk = next((step for step in steps if isinstance(step, MakeDisk)), None)
    return tuple(
        CloneDirectory(step.server, step.owner, step.applied, source, snapshot, disk)
        if isinstance(step, MakeDirectory)
        else step
        for step in steps
        if not isinstance(step, MakeDisk)
    )


def cloning_volume(
    steps: Iterable[Step], server: str, snapshot: str, source: str, clone: str
) -> tuple[Step, ...]:
    """The steps of a new volume of the server `clone`, with the files of `source`, which `server` uses."""
    return tuple(
        CloneVolume(step.volume, step.owner, step.applied, server, snapshot, source, clone, step.space)
        if isinstance(step, MakeVolume)
        else step
        for step in steps
    )


def restoring(steps: Iterable[Step], exchange: ExchangeFiles) -> tuple[Step, ...]:
    """The steps of a restart, with the exchange as soon as the server has stopped."""
    found: list[Step] = []
    for step in steps:
        found.append(step)
        if isinstance(step, Stop):
            found.append(exchange)
    return tuple(found)
