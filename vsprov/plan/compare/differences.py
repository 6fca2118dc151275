"""Differences between the wanted and the observed server, key by key, with the cost of each change.

Limits, live aspects and the state are compared with the kernel. All other keys are compared with the record
of what was applied, because the server itself may change them, such as its mount table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from vsprov.model.kinds.server import Server
from vsprov.model.limits.encodings import Group
from vsprov.model.limits.knobs import BY_PATH
from vsprov.model.objects import Object
from vsprov.model.traits import cost_of
from vsprov.model.values import digests
from vsprov.plan import range_problems
from vsprov.plan.aspects.aspect import ASPECTS, Difference, Running, covering
from vsprov.plan.compare import applied, diff
from vsprov.plan.limits import groups, resources
from vsprov.plan.limits.groups import GroupDelta
from vsprov.plan.observed import RESCUE, Machine, ObservedGroup, ObservedServer
from vsprov.plan.plan import PathChange, change
from vsprov.plan.steps import Step, Stop

if TYPE_CHECKING:
    from vsprov.plan.limits.pool_disk import Share
    from vsprov.plan.network.changes.servers import ServerNetwork
    from vsprov.plan.servers.disk import DiskDelta

LOST = "; what the server had written is lost"


class Context(Struct, frozen=True):
    """What planning a server needs besides the server itself.

    `owner` is the owner mark for new objects, `image` the digest of the server's image, `pool` the resources
    of its pool, and `share` what it shares of a limited disk with others. `stop` makes the step that stops
    it. `restart`: restart it even if no change requires that. `again`: run it again even if it is meant to
    end and has. `network` is None for a server that has no interfaces and is to have none. `stopped` is who
    will want it to stay stopped when the host starts. `rescue`: start it for its repair.
    """

    instance: str
    owner: str
    machine: Machine
    image: str
    weight: int
    pool: Group
    stop: Callable[[], Stop]
    restart: bool = False
    again: bool = False
    network: ServerNetwork | None = None
    stopped: str = ""
    rescue: bool = False
    share: Share | None = None


class Comparison(Struct, frozen=True):
    """A wanted server compared with the observed one.

    `record` is the record to write and `text` its JSON. `group` is the path of the server's group, `existing`
    that group if it exists, and `delta` its differences. `live` are the differences of live aspects.
    `connections` are the differences of its interfaces, and `rewired` the steps that remove them.
    """

    spec: Server
    record: Mapping[str, Any]
    text: str
    seen: ObservedServer
    group: str
    existing: ObservedGroup | None
    delta: GroupDelta
    live: tuple[Difference, ...]
    machine: Machine
    again: bool  # whether a command that is meant to end is run again
    connections: tuple[PathChange, ...] = ()
    rewired: tuple[Step, ...] = ()
    stopped: str = ""  # as in `Context`
    disk: DiskDelta | None = None  # None if what it writes is not limited

    @staticmethod
    def of(want: Object, spec: Server, seen: ObservedServer, context: Context) -> Comparison:
        """Compare a wanted server with the observed one."""
        group = "/".join(part for part in (context.instance, spec.quota, want.name) if part)
        existing = seen.group if seen.group and seen.group.path == group else None
        machine, ignore = resources.within(context.machine, context.pool), resources.ignored(want)
        delta = groups.compare(
            resources.with_weight(spec.resources, context.weight),
            existing,
            machine,
            ignore=ignore,
            also=groups.needed(context.pool, context.machine),
        )
        recorded = seen.applied["spec"] if seen.applied else {}
        live = [
            difference
            for aspect in ASPECTS.values()
            if aspect.name in seen.live and not (context.rescue and aspect.name == RESCUE)
            for difference in aspect.compare(
                Running(want.name, spec, recorded, seen.live[aspect.name], machine, ignore)
            )
        ]
        network = context.network
        record = applied.record(want, context.image, network.addresses if network else None, seen.applied)
        connections, rewired = _connections(want.name, seen, network) if network and seen.init else ((), ())
        return Comparison(
            spec,
            record,
            applied.to_text(record),
            seen,
            group,
            existing,
            delta,
            tuple(live),
            machine,
            context.again,
            connections,
            rewired,
            context.stopped,
            _disk_of(want.name, spec, seen, context, ignore),
        )

    @property
    def completed(self) -> bool:
        """Whether the command was meant to end, did so with 0, and need not run again for a changed key."""
        if self.again or not (self.spec.init.oneshot and self.seen.completed):
            return False
        paths = (*self._recorded(), *(self.disk.paths if self.disk else ()))
        return all(path.cost not in ("restart", "recreate") for path in paths)

    def paths(self) -> tuple[PathChange, ...]:
        """All keys that differ. Changes to a server that is not running cost nothing, except recreation."""
        disk = self.disk.paths if self.disk else ()
        out = [*self._recorded(), *disk, *self._kernel(), *self._parts()]
        if not out and (self.seen.mark != self.text or self.seen.disk != self.text):
            whole = self.seen.mark is not None and self.seen.disk is not None
            out.append(
                change("status.mark", "outdated" if whole else "edited or missing", "restored", "live")
            )
        if self.seen.init and self.spec.state == "Running":
            return tuple(out)
        return tuple(replace(path, cost="none") if path.cost != "recreate" else path for path in out)

    def _recorded(self) -> Iterable[PathChange]:
        before = self.seen.applied
        if before is None:
            yield change("spec", "unknown: its record is lost or was edited", "as in the manifest", "restart")
            return
        for path, old, new in diff.differences(before["spec"], self.record["spec"]):
            row = diff.row_of(path)
            if row not in ("state", "image") and not self._is_observed(row) and not self._is_connection(path):
                yield PathChange(
                    f"spec.{path}", old, new, cost_of(type(self.spec), row), diff.shown(path, old, new)
                )
        for key in ("labels", "annotations"):
            for path, old, new in diff.differences({key: before[key]}, {key: self.record[key]}):
                yield change(f"metadata.{path}", old, new, "live")
        old, new = _image(before, digests.full), _image(self.record, digests.full)
        if old != new:
            texts = (_image(before, digests.short), _image(self.record, digests.short))
            yield PathChange("spec.image", old, new, cost_of(Server, "image"), texts)

    def _is_observed(self, row: str) -> bool:
        """Whether the current value of the key is read from the kernel and not from the record."""
        if row.startswith("resources.disk."):
            return True
        if aspect := covering(row):
            return aspect.name in self.seen.live
        head, _, path = row.partition(".")
        knob = BY_PATH.get(".".join(path.split(".")[:2])) if head == "resources" else None
        return bool(knob and self.existing and self.machine.side(knob))

    def _is_connection(self, path: str) -> bool:
        """Whether the difference is shown as one of the interfaces that the kernel has."""
        names = {f"spec.{path}", f"spec.{path.partition(']')[0]}]"}
        return any(found.path in names for found in self.connections)

    def _kernel(self) -> Iterable[PathChange]:
        if self.existing:
            yield from groups.changed_paths(self.delta)
        yield from self.connections
        yield from (difference.path for difference in self.live)
        if (
            self.seen.hooks_due
            and self.spec.state == "Stopped"
            and not (self.seen.init or self.seen.populated)
        ):
            yield change("status.postStop", "due", "run", "none")
        runs = self.seen.init is not None or self.completed
        waits = self.seen.restarts is not None and self.seen.restarts.due
        if runs != (self.spec.state == "Running") or (waits and self.spec.state == "Stopped"):
            yield self._state()
        elif self.seen.stopped != self.stopped and self.seen.directory:
            yield change("status.whenHostStarts", _when(self.seen.stopped), _when(self.stopped), "none")

    def _state(self) -> PathChange:
        before, after, last = self.seen.state, self.spec.state, self.seen.last_exit
        if not self.seen.ended or last is None:
            return change("spec.state", before, after, "none")
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(last.at))
        text = f"{last} since {when} UTC{_decided(self.seen)}"
        return PathChange("spec.state", before, after, "none", (text, after))

    def _parts(self) -> Iterable[PathChange]:
        """The parts of a server that are missing or not where they belong: groups, directory, processes."""
        if self.seen.group is None:
            yield change("status.cgroup", "missing", "present", "none")
        if self.existing and self.delta.make and not self.delta.differences:  # else a limit differs
            yield change("status.cgroup", f"missing in {', '.join(self.delta.make)}", "present", "live")
        if self.seen.populated and not self.seen.init:
            yield change("status.processes", "some, without an init", "none", "none")
        if not self.seen.directory:
            yield change("status.directory", "missing", f"present{LOST}", "restart")
        yield from self._disk()
        if self.seen.strays:
            outside = ", ".join(name or "cgroup2" for name in self.seen.strays)
            yield change("status.cgroup", f"init is outside it ({outside})", "init is in it", "live")

    def _disk(self) -> Iterable[PathChange]:
        """The parts of the server's directory and of its root that are missing or were replaced."""
        missing = self.seen.parts.missing() if self.seen.parts else ()
        for part in missing:
            yield change(f"status.{part}", "missing", f"empty{LOST if part == 'upper' else ''}", "restart")
        for part in self.seen.detached:
            if part not in missing:
                name = part if part in ("upper", "work") else f"layers.{part[:12]}"
                yield change(f"status.{name}", "removed or replaced since the start", "mounted", "restart")
        if not missing and not range_problems.is_kept(self.seen, self.machine.ranges):
            yield change("status.idRange", "not recorded or not claimed", "recorded and claimed", "live")


def _when(stopped: str) -> str:
    """What `ObservedServer.stopped` means."""
    return {"": "started", "command": "stopped by a command"}.get(stopped, "stopped")


def _decided(seen: ObservedServer) -> str:
    """What the keeper has decided about a server that has ended."""
    if seen.restarts is None or seen.applied is None:
        return ""
    if seen.restarts.due:
        return ", restarting"
    return f", {seen.restarts.gave_up(seen.applied['spec'].get('restart', {}))}"


def _disk_of(
    name: str, spec: Server, seen: ObservedServer, context: Context, ignore: frozenset[str]
) -> DiskDelta | None:
    if not resources.has_disk_limit(spec.resources, context.pool, seen=seen.space):
        return None
    from vsprov.plan.servers import disk  # loaded only if it is needed

    return disk.compare(name, spec, seen, context.machine, ignore, context.share)


def _connections(
    name: str, seen: ObservedServer, network: ServerNetwork
) -> tuple[tuple[PathChange, ...], tuple[Step, ...]]:
    """(differences, steps) of the interfaces of a running server."""
    from vsprov.plan.network.changes import compare

    if network.on_host != network.was_on_host:
        before, after = ("of the host" if each else "own" for each in (network.was_on_host, network.on_host))
        return (change("status.networkStack", before, after, "restart"),), ()
    recorded = seen.applied["spec"].get("interfaces", ()) if seen.applied else ()
    delta = compare.interfaces(name, network, [one["name"] for one in recorded])
    return delta.paths, delta.steps


def _image(record: Mapping[str, Any], form: Callable[[str], str]) -> str:
    """The image of a server as NAME@DIGEST; `form` formats the digest."""
    return f"{record['spec']['image']}@{form(record['image'])}"
