"""The state of a running apply, which its steps share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from vsprov.engine.run import intent
from vsprov.engine.run.keeper import Keeper
from vsprov.engine.run.threads import Threads
from vsprov.engine.run.waits import Waits
from vsprov.engine.run.watcher import Watcher
from vsprov.engine.work import DEFAULT, WorkOptions
from vsprov.errors import FailedError
from vsprov.kernel import cgroup, process
from vsprov.kernel.cgroup import Hierarchies
from vsprov.model.kinds.network import Network
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object, read_spec
from vsprov.plan import ranges
from vsprov.plan.observed import Machine, Observed, Process
from vsprov.store import claims, images
from vsprov.store.images import Contents, ImageRecord
from vsprov.store.instance import Instance
from vsprov.store.sources import Resolved

if TYPE_CHECKING:
    from vsprov.engine.run.spawn import Spawner
    from vsprov.guest.wire import Event
    from vsprov.plan.plan import Change

SECONDS_TO_DIE = 10.0  # a process still running this long after SIGKILL is blocked in the kernel


class ApplyContext(Struct):
    """The state of one apply. Mutable.

    `wanted` is by address, `resolved` by name of the image, `inits`, `groups` and `bases`, the first ids of
    their ranges, by name of the server.
    `spawned` maps servers to their numbers in the spawner, `exits` these numbers to exit events. `builds` are
    the groups of builds, `made_parent` is whether one of them created the parent group, `stopped` are the
    groups of stopped servers. `unhandled` maps servers to the stop signal that their init did not handle,
    `overdue` those that did not end in time to when they were killed, "10s after SIGTERM", and `released`
    servers to the time, on the monotonic clock, when they were started. `pinned` maps servers to the digest
    of the image that they run, if that is not the one which now has its name. `oom_kills` are the counts of
    servers' groups before they were started. `dying` are the links of the host, {name: alias}, that go with
    the network namespaces of stopped servers, and `orphans` those that do not.
    `stopping` are servers that have got their stop signal, with whether a notice has named them. `unfinished`
    are the changes of the plan that are neither carried out nor have failed, by key, and `begun` the keys of
    those that were begun.
    `given` are the addresses that interfaces have or are about to get. `kept` is what the keeper was told of
    servers, `looked_at_consoles` is whether it was looked for terminals that are lost. `stop_by` is the time,
    on the monotonic clock, after which servers that stop are killed.
    `verb` is that of `Wanted`. `automatic`: the keeper starts servers again. `restarting` are servers that
    are started after they have been stopped. `waits` are the waits for conditions of servers that
    the command began before this apply.
    """

    instance: Instance
    hierarchies: Hierarchies
    machine: Machine
    observed: Observed
    owner: str
    wanted: Mapping[str, Object] = field(default_factory=dict)
    resolved: Mapping[str, Resolved] = field(default_factory=dict)
    notice: Callable[[str], None] = lambda line: None
    threads: Threads = field(default_factory=lambda: Threads(lambda *progress: None))
    inits: dict[str, Process] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    bases: dict[str, int] = field(default_factory=dict)
    spawned: dict[str, int] = field(default_factory=dict)
    exits: dict[int, Event] = field(default_factory=dict)
    builds: list[str] = field(default_factory=list)
    made_parent: bool = False
    stopped: set[str] = field(default_factory=set)
    unhandled: dict[str, str] = field(default_factory=dict)
    overdue: dict[str, str] = field(default_factory=dict)
    released: dict[str, float] = field(default_factory=dict)
    stopping: dict[str, bool] = field(default_factory=dict)
    unfinished: dict[str, Change] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)
    pinned: dict[str, str] = field(default_factory=dict)
    oom_kills: dict[str, int] = field(default_factory=dict)
    dying: dict[str, str] = field(default_factory=dict)
    orphans: dict[str, str] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)
    automatic: bool = False
    restarting: frozenset[str] = frozenset()
    waits: Waits = field(default_factory=Waits)
    kept: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    stop_by: float | None = None
    verb: str = "apply"
    work: WorkOptions = DEFAULT
    watcher: Watcher = field(default_factory=Watcher)
    spawner: Spawner | None = None
    keeper: Keeper | None = None
    terminals: Keeper | None = None
    looked_at_consoles: bool = False
    _ranges: Iterator[int] | None = None
    _records: dict[str, ImageRecord] | None = None

    def __post_init__(self) -> None:
        for seen in self.observed.servers.values():
            if seen.init:
                self.inits[seen.name] = seen.init
            if seen.group:
                self.groups[seen.name] = seen.group.path
            if seen.id_base:
                self.bases[seen.name] = seen.id_base

    def directory(self, controller: str, group: str) -> str:
        """The directory of a group in the hierarchy of a controller, in cgroup2 for ""."""
        return self.hierarchies.directory(controller, group)

    def start_spawner(self) -> Spawner:
        """The spawner of this apply, started on the first call and added to the intent file."""
        from vsprov.engine.run.spawn import Spawner

        if self.spawner is None:
            ahead = self.work.spawner
            self.spawner = ahead if ahead is not None and ahead.fileno() >= 0 else Spawner()
            if start := process.start_time(self.spawner.pid):
                intent.add_spawner(self.instance, Process(self.spawner.pid, start))
        return self.spawner

    def close(self) -> None:
        """End imports, builds and the spawner. Servers that wait at their gates exit with the spawner."""
        if stuck := self.threads.close():
            self.notice(
                f"{stuck} operations were abandoned: a file system does not answer; "
                "the next apply removes their files"
            )
        self.watcher.close()
        for group in self.builds:
            cgroup.end(group, SECONDS_TO_DIE)
        if self.spawner is not None:
            self.spawner.close()
            self.spawner = None
        for program in (self.keeper, self.terminals):
            if program is not None:
                program.close()
        self.keeper = self.terminals = None

    def next_range(self) -> int:
        """The first id of a range that no server of any instance has, claimed for this instance."""
        if self._ranges is None:
            self._ranges = ranges.free(self.machine.ranges, self.observed.id_bases())
        for base in self._ranges:
            if claims.claim(self.instance, base):
                return base
        none = ranges.exhausted(self.machine.ranges)
        raise FailedError(none.message, hint=none.hint)

    def network(self, name: str) -> Network:
        """The spec of a network: as it is wanted, or as it was last applied."""
        want = self.wanted.get(f"Network/{name}")
        if want is None:
            seen = self.observed.networks.networks.get(name) if self.observed.networks else None
            if seen is None or seen.applied is None:
                raise FailedError(f"network {name} does not exist, or its record is not readable")
            spec = read_spec("Network", seen.applied["spec"])
        else:
            spec = want.spec
        assert isinstance(spec, Network)
        return spec

    def hostname(self, server: str) -> str:
        """The hostname of a server: as it is wanted, or as it was last applied."""
        want = self.wanted.get(f"Server/{server}")
        if want is not None:
            assert isinstance(want.spec, Server)
            return want.spec.hostname
        seen = self.observed.servers.get(server)
        return str(seen.applied["spec"].get("hostname", server)) if seen and seen.applied else server

    def image(self, name: str) -> ImageRecord:
        """The record of an image in the store."""
        if self._records is None or name not in self._records:
            self._records = images.observe(self.instance)
        return self._records[name]

    def contents(self, name: str, digest: str | None = None) -> Contents:
        """The contents of an image in the store, or of an earlier one with this digest. FailedError if it is
        incomplete.
        """
        record = self.image(name)
        if digest and digest != record.digest:
            earlier = images.manifests(self.instance).get(digest)
            if earlier is None or not images.is_whole(self.instance, digest):
                raise FailedError(f"the earlier version of image {name} is no longer in the store")
            return earlier
        if record.contents is None or record.problem:
            raise FailedError(f"image {name} cannot be used: {record.problem}")
        return record.contents

    def contents_for(self, name: str, image: str) -> Contents:
        """The contents of the image that the server of this name runs, which may be an earlier one."""
        return self.contents(image, self.pinned.get(name))

    def forget_images(self) -> None:
        """Read the records of images again when they are next needed, because one was written."""
        self._records = None
