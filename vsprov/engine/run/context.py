"""What the steps of an apply work on: the instance, the host, the objects wanted, what was found out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vsprov.engine.run import intent
from vsprov.engine.run.spawn import Spawner
from vsprov.engine.run.threads import Threads
from vsprov.errors import FailedError
from vsprov.kernel import cgroup, process
from vsprov.kernel.cgroup import Hierarchies
from vsprov.model.objects import Object
from vsprov.plan.observed import Machine, Observed, Process
from vsprov.store import images, servers
from vsprov.store.images import Contents, ImageRecord
from vsprov.store.instance import Instance
from vsprov.store.sources import Resolved

if TYPE_CHECKING:
    from vsprov.guest.wire import Event

SECONDS_TO_DIE = 10.0  # a killed process that is not gone by then hangs in the kernel


@dataclass(slots=True)
class ApplyContext:
    """Mutable: one per apply.

    `wanted` is by address, `resolved` by an image's name; `spawned` maps a server to the spawner's number for
    it; `builds` are the groups of builds, and `made_parent` whether one of them had to make the group above
    all; `stopped` are the groups whose server was stopped.
    """

    instance: Instance
    hierarchies: Hierarchies
    machine: Machine
    observed: Observed
    owner: str
    wanted: Mapping[str, Object] = field(default_factory=dict)
    resolved: Mapping[str, Resolved] = field(default_factory=dict)
    notice: Callable[[str], None] = lambda line: None
    threads: Threads = field(default_factory=lambda: Threads(lambda *told: None))
    inits: dict[str, Process] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    spawned: dict[str, int] = field(default_factory=dict)
    exits: dict[int, Event] = field(default_factory=dict)
    builds: list[str] = field(default_factory=list)
    made_parent: bool = False
    stopped: set[str] = field(default_factory=set)
    spawner: Spawner | None = None
    _ranges: Iterator[int] | None = None
    _records: dict[str, ImageRecord] | None = None

    def __post_init__(self) -> None:
        for seen in self.observed.servers.values():
            if seen.init:
                self.inits[seen.name] = seen.init
            if seen.group:
                self.groups[seen.name] = seen.group.path

    def directory(self, controller: str, group: str) -> str:
        return self.hierarchies.directory(controller, group)

    def start_spawner(self) -> Spawner:
        """This apply's one spawner, started when needed, noted for the next apply to end should we die."""
        if self.spawner is None:
            self.spawner = Spawner()
            if start := process.start_time(self.spawner.pid):
                intent.add_spawner(self.instance, Process(self.spawner.pid, start))
        return self.spawner

    def close(self) -> None:
        """End the imports, the builds, and the spawner: what waits at a gate ends with it."""
        self.threads.close()
        for group in self.builds:
            cgroup.end(group, SECONDS_TO_DIE)
        if self.spawner is not None:
            self.spawner.close()
            self.spawner = None

    def next_range(self) -> int:
        """An id range no server has."""
        if self._ranges is None:
            taken = [seen.id_base for seen in self.observed.servers.values() if seen.id_base]
            self._ranges = servers.free_ranges(self.instance, taken)
        return next(self._ranges)

    def image(self, name: str) -> ImageRecord:
        """The record of an image in the store."""
        if self._records is None or name not in self._records:
            self._records = images.observe(self.instance)
        return self._records[name]

    def contents(self, name: str) -> Contents:
        """What an image in the store is made of. FailedError when not all of it is there."""
        record = self.image(name)
        if record.contents is None or record.problem:
            raise FailedError(f"image {name} cannot be used: {record.problem}")
        return record.contents

    def forget_images(self) -> None:
        self._records = None
