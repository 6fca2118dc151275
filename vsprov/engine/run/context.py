"""The state of a running apply, which its steps share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vsprov.engine.apply.report import few
from vsprov.engine.look import last_exit
from vsprov.engine.run import intent, keeper
from vsprov.engine.run.keeper import Keeper
from vsprov.engine.run.threads import Threads
from vsprov.engine.run.waits import Waits
from vsprov.engine.run.watcher import Watcher
from vsprov.engine.work import DEFAULT, WorkOptions
from vsprov.errors import FailedError
from vsprov.kernel import cgroup, process
from vsprov.kernel.cgroup import Hierarchies
from vsprov.model import fields
from vsprov.model.kinds.network import Network
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object, read_spec
from vsprov.model.rescue import rescued
from vsprov.plan import ranges
from vsprov.plan.compare import applied
from vsprov.plan.observed import RESCUE, Machine, Observed, ObservedServer, Process, is_of
from vsprov.store import claims, images
from vsprov.store.images import Contents, ImageRecord
from vsprov.store.instance import Instance
from vsprov.store.sources import Resolved

if TYPE_CHECKING:
    from vsprov.engine.run.spawn import Spawner
    from vsprov.guest.wire import Event

SECONDS_TO_DIE = 10.0  # a process still running this long after SIGKILL is blocked in the kernel


@dataclass(slots=True)
class ApplyContext:
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
    `given` are the addresses that interfaces have or are about to get. `kept` is what the keeper was told of
    servers. `stop_by` is the time, on the monotonic clock, after which servers that stop are killed.
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
    _looked_at_consoles: bool = False
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

    def has_restarts_due(self) -> bool:
        """Whether a server is to be started again by the keeper."""
        return any(seen.restarts and seen.restarts.due for seen in self.observed.servers.values())

    def start_keeper(self) -> Keeper:
        """The keeper of the instance; one that has to be started takes over all running servers."""
        if self.keeper is None:
            self.keeper = keeper.connect(self.instance)
        if self.keeper is None:
            self.keeper = keeper.start(self.instance, self.hierarchies)
            if lost := [name for name in self.inits if name not in self.spawned and self._is_ours(name)]:
                self.notice(f"{few(lost)}: no keeper has watched; a new one does from now on")
            for name in self.inits:
                if name in self.spawned or self._is_ours(name):
                    self._hand_over(name)
            for name, seen in self.observed.servers.items():
                if seen.ended and name not in self.inits and self._is_ours(name):
                    self._hand_over(name)
        if not self._looked_at_consoles:
            self._looked_at_consoles = True
            if any(seen.boots for seen in self.observed.servers.values()):
                from vsprov.engine.guests import terminal

                terminal.reopen(self)
        return self.keeper

    def start_terminals(self) -> Keeper:
        """The holder of the terminals of system servers; one that has died is replaced."""
        if self.terminals is not None and self.terminals.is_gone():
            self.terminals.close()
            self.terminals = None
        if self.terminals is None:
            self.terminals = keeper.connect(self.instance, program=keeper.TERMINALS)
        if self.terminals is None:
            self.terminals = keeper.start(self.instance, self.hierarchies, keeper.TERMINALS)
        return self.terminals

    def _hand_over(self, name: str) -> None:
        """Tell a new keeper of a server that runs or has ended; a damaged one does not prevent the others."""
        try:
            if name in self.inits:
                self._keep(name, self.inits[name])
            else:
                self._tell_ended(name)
        except keeper.KeeperGone:
            raise
        except FailedError as error:
            self.notice(f"Server/{name}: nothing watches it: {str(error).removeprefix(f'Server/{name}: ')}")

    def keep(self, name: str, init: Process, spec: Mapping[str, Any]) -> None:
        """Have the keeper keep a server by this part of its spec, `fields.kept`."""
        self.kept[name] = spec
        try:
            self.start_keeper()
            self._keep(name, init)
        except keeper.KeeperGone:
            self._replace_keeper()

    def settle_keeper(self) -> None:
        """Wait until the logs and exits of servers are complete; notices about those that are not."""
        if self.keeper is None:
            return
        try:
            settled = self.keeper.settle()
        except keeper.KeeperGone:
            if not os.path.isdir(self.directory("", self.instance.name)):
                return  # it has ended with the last server
            settled = self._replace_keeper().settle()
        for problem in settled["problems"]:
            self.notice(problem)

    def attend_keeper(self) -> None:
        """Start another keeper if ours has died, and let whoever waits for servers be told when it dies."""
        if self.keeper is not None:
            keeping = self._replace_keeper() if self.keeper.is_gone() else self.keeper
            keeping.hello()
            self.watcher.follow(keeping.fileno())

    def _keep(self, name: str, init: Process) -> None:
        assert self.keeper is not None
        group = self.groups[name]
        spec = self.kept[name] if name in self.kept else _kept(self.observed.servers[name])
        with ExitStack() as opened:
            more: Mapping[str, int] = {}
            if spec["readiness"] or spec["health"]:
                from vsprov.engine.guests import probes

                more = probes.descriptors(self, name, init, spec, opened)
            self._schedule(name, spec)
            runs = self.keeper.keep(
                name,
                init,
                spec,
                folder=f"{self.instance.servers}/{name}",
                home=self.directory("", group),
                memory=self.directory("memory", group),
                more=more,
            )
        if not runs and name not in self.spawned:
            self._tell_ended(name)

    def _schedule(self, name: str, spec: Mapping[str, Any]) -> None:
        """See that the keeper finds when the next snapshot of a server is due."""
        from vsprov.store.written import scheduled

        folder = f"{self.instance.servers}/{name}"
        if spec["snapshots"]:
            scheduled.review(folder, spec["snapshots"]["schedule"])
        else:
            scheduled.forget(folder)

    def _tell_ended(self, name: str) -> None:
        """Tell a new keeper of a server that has ended, which it may have to start again."""
        assert self.keeper is not None
        seen, home = self.observed.servers[name], self.directory("", self.groups[name])
        if seen.directory and (init := last_exit.marked_init(home)):
            status = last_exit.wait_status(home)
            folder = f"{self.instance.servers}/{name}"
            self.keeper.ended(name, init, _kept(seen), status, folder=folder, home=home)

    def _is_ours(self, name: str) -> bool:
        seen = self.observed.servers[name]
        return seen.directory and all(is_of(owner, self.instance.name) for owner in seen.owners())

    def _replace_keeper(self) -> Keeper:
        """Another keeper after one that has died, which takes over all servers, also those just started."""
        if self.keeper is not None:
            self.keeper.close()
            self.keeper = None
        return self.start_keeper()

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


def _kept(seen: ObservedServer) -> Mapping[str, Any]:
    """What the keeper works by: of the record of a server, or the defaults if its record is lost."""
    if seen.applied is None:
        return fields.kept(Server(image="", hostname=""))
    spec = applied.to_object(seen.name, seen.applied).spec
    assert isinstance(spec, Server)
    return fields.kept(rescued(spec) if seen.live.get(RESCUE) else spec)
