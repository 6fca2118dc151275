"""The steps that make a server, and its volumes, of the files of an export."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from vsprov.plan.servers.disk_steps import MakeDisk
from vsprov.plan.step import Step
from vsprov.plan.steps import MakeDirectory, RemoveDirectory
from vsprov.plan.volumes.state import UNLIMITED, Space
from vsprov.plan.volumes.steps import MakeVolume


class ImportedSnapshot(Struct, frozen=True):
    """A snapshot of an export: when it was made, in Unix time, and the digest of the image then. `volumes`
    are pairs of names that a volume has in the export and here. `scheduled`: by the schedule of the server.
    """

    name: str
    created: int
    image: str
    volumes: tuple[tuple[str, str], ...] = ()
    scheduled: bool = False


class ImportDirectory(Step, frozen=True):
    """Create a server's directory with the files that `staged`, a directory, has, in its limited disk if it
    has one.
    """

    server: str
    owner: str
    applied: str
    staged: str
    machine_id: str = ""
    snapshots: tuple[ImportedSnapshot, ...] = ()
    disk: MakeDisk | None = None

    def describe(self) -> str:
        return f"create the directory of {self.server} with the files of the export"

    def undo(self) -> Step | None:
        return RemoveDirectory(self.server)


class ImportVolume(Step, frozen=True):
    """Create a volume with the files of the volume `part` in the directory `staged`, for a `server` that is
    imported with it.
    """

    volume: str
    owner: str
    applied: str
    staged: str
    part: str
    server: str
    space: Space = UNLIMITED

    def describe(self) -> str:
        return f"create volume {self.volume} with the files of the export"


def importing(
    steps: Iterable[Step], staged: str, machine_id: str, snapshots: tuple[ImportedSnapshot, ...]
) -> tuple[Step, ...]:
    """The steps of a new server, with the files of an export from the beginning."""
    steps = tuple(steps)
    disk = next((step for step in steps if isinstance(step, MakeDisk)), None)
    return tuple(
        ImportDirectory(step.server, step.owner, step.applied, staged, machine_id, snapshots, disk)
        if isinstance(step, MakeDirectory)
        else step
        for step in steps
        if not isinstance(step, MakeDisk)
    )


def importing_volume(steps: Iterable[Step], staged: str, part: str, server: str) -> tuple[Step, ...]:
    """The steps of a new volume, with the files of an export."""
    return tuple(
        ImportVolume(step.volume, step.owner, step.applied, staged, part, server, step.space)
        if isinstance(step, MakeVolume)
        else step
        for step in steps
    )
