"""Observe the objects of an instance in the kernel and on disk. Read-only."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from vsprov.engine import aspects as _aspects  # noqa: F401  registers the observers
from vsprov.engine.aspects import observer
from vsprov.engine.look import last_exit, probes, restarts, roots
from vsprov.engine.look.networked import had_interfaces, is_networked
from vsprov.engine.look.recorded_pools import recorded_pools, shared_disks
from vsprov.engine.run import intent, keeper
from vsprov.engine.volumes.mounted import VolumeMounts
from vsprov.errors import ConflictError
from vsprov.kernel import cgroup, proc, process
from vsprov.kernel.cgroup import Hierarchies
from vsprov.model.limits.encodings import Side, normal
from vsprov.model.objects import PREVENT, Object
from vsprov.model.values.patterns import NAME_PATTERN
from vsprov.plan.compare import applied
from vsprov.plan.observed import (
    HOOK_GROUPS,
    HOOKS,
    HOOKS_DUE,
    PROTECTION_MARK,
    Machine,
    Observed,
    ObservedGroup,
    ObservedImage,
    ObservedServer,
    Process,
    is_of,
)
from vsprov.store import images, servers
from vsprov.store.disk import marks
from vsprov.store.images import Contents
from vsprov.store.instance import Instance
from vsprov.store.servers import ServerDirectory
from vsprov.store.space.disks import Disks, is_limited, is_written
from vsprov.store.written import scheduled

if TYPE_CHECKING:
    from vsprov.kernel.firewall import Listing


class Since(Struct, frozen=True):
    """An earlier observation, and the names of the servers that may have changed since."""

    observed: Observed
    touched: frozenset[str]


def observe(
    instance: Instance,
    hierarchies: Hierarchies,
    machine: Machine,
    since: Since | None = None,
    wanted: Iterable[Object] = (),
) -> Observed:
    """All objects of the instance. With `since`, only the servers that may have changed are observed again.

    Networks are observed if the instance or `wanted` has any. Empty groups without a mark that an interrupted
    apply left count as absent; `recover.sweep` removes them.
    """
    look, wanted = _Observer(instance, hierarchies, machine), tuple(wanted)
    listing = None
    if look.intent.networks or os.path.isdir(instance.networks) or any(map(is_networked, wanted)):
        listing = _start_listing(instance)  # nft works while the servers are observed
    found = look.observe(since)
    if listing is None and any(map(had_interfaces, found.servers.values())):
        listing = _start_listing(instance)
    if listing is None:
        return found
    from vsprov.engine.networks.look import networks

    return replace(found, networks=networks(instance, found.servers, wanted, listing))


def find(instance: Instance, hierarchies: Hierarchies, machine: Machine, name: str) -> ObservedServer | None:
    """One server, as `observe` returns it; None if it does not exist."""
    return _Observer(instance, hierarchies, machine).find(name)


def refuse_foreign(seen: ObservedServer, instance: str) -> None:
    """Raise ConflictError if a group or directory with the name of the server has another owner."""
    if seen.group and not is_of(seen.group.owner, instance):
        raise ConflictError(
            f"Server/{seen.name}: cgroup {seen.group.path} has no owner mark of this instance",
            hint="vsprov did not create it; remove it or use another name",
        )
    if seen.directory and not is_of(seen.owner, instance):
        raise ConflictError(f"Server/{seen.name}: its directory has no owner mark of this instance")


def _start_listing(instance: Instance) -> Listing:
    from vsprov.kernel.firewall import Listing

    return Listing(instance.name)


def has_post_stop(record: Mapping[str, Any] | None) -> bool:
    """Whether a record has hooks that run when the server has ended."""
    return bool(record and record["spec"].get("hooks", {}).get("postStop"))


class _Observer:
    def __init__(self, instance: Instance, hierarchies: Hierarchies, machine: Machine) -> None:
        self.instance, self.hierarchies, self.machine = instance, hierarchies, machine
        self.intent = intent.read(instance)
        self.intended = frozenset(self.intent.groups)
        self.known: Mapping[str, Contents | None] = {}  # manifests of images, by digest
        self.volumes = VolumeMounts(instance)
        self.shared = shared_disks(instance)
        self.disks = Disks(shared=bool(self.shared))
        self.layers: dict[str, str] = {}  # identities of layers, by key
        self.sides: dict[str, list[Side]] = {}  # by hierarchy: "" or the v1 controller
        for knob, side in machine.rows:
            where = "" if machine.versions[knob.controller] == 2 else side.controller
            self.sides.setdefault(where, []).append(side)

    def observe(self, since: Since | None = None) -> Observed:
        from vsprov.engine import kinds as _kinds  # noqa: F401  registers the views, with what plans the kinds
        from vsprov.engine.kinds.view import observe_more

        before = since.observed.servers if since else {}
        unchanged = {name: seen for name, seen in before.items() if since and name not in since.touched}
        known = self.known = images.manifests(self.instance)
        parent = self.group(self.instance.name)
        directories = servers.observe(self.instance, unchanged)
        pools: dict[str, ObservedGroup] = {}
        homes: dict[str, ObservedGroup] = {}
        for name in cgroup.children(self.path("", self.instance.name)) if parent else ():
            if name in unchanged or name.startswith(HOOK_GROUPS):
                continue
            found, role = self.group_and_role(f"{self.instance.name}/{name}")
            if found is None or role in ("build", keeper.ROLE):
                continue
            if role != "pool":
                homes[name] = found
                continue
            pools[name] = found
            for child in cgroup.children(self.path("", found.path)):
                if child not in unchanged and (inner := self.group(f"{found.path}/{child}")):
                    homes[child] = inner
        homes.update(self.strangers({**homes, **pools}, unchanged) if parent else {})
        names = sorted({*homes, *directories})
        pools, lost = recorded_pools(self.instance, pools, self.shared)
        return Observed(
            servers={
                **unchanged,
                **{name: self.server(name, homes.get(name), directories.get(name)) for name in names},
            },
            pools=pools,
            images={name: _image(record) for name, record in images.observe(self.instance, known).items()},
            defaults=_defaults(known),
            parent=parent,
            subtree=self.subtree(""),
            more=observe_more(self.instance, self.hierarchies),
            lost_pools=lost,
        )

    def find(self, name: str) -> ObservedServer | None:
        if not re.fullmatch(NAME_PATTERN, name):
            return None
        top = self.instance.name
        group, role = self.group_and_role(f"{top}/{name}")
        if group is None or role == "pool":
            group = None
            for pool in cgroup.children(self.path("", top)):
                inside = f"{top}/{pool}/{name}"
                if os.path.isdir(self.path("", inside)) and self.group_and_role(f"{top}/{pool}")[1] == "pool":
                    group = self.group(inside)
        directory = servers.find(self.instance, name)
        return self.server(name, group, directory) if group or directory else None

    def path(self, controller: str, group: str) -> str:
        return self.hierarchies.directory(controller, group)

    def subtree(self, group: str) -> frozenset[str]:
        return frozenset((cgroup.read(f"{self.path('', group)}/cgroup.subtree_control") or "").split())

    # -- groups

    def strangers(
        self, known: Mapping[str, ObservedGroup], unchanged: Mapping[str, ObservedServer]
    ) -> Iterator[tuple[str, ObservedGroup]]:
        """Groups below the parent group that exist in a v1 hierarchy only; vsprov has not made them."""
        top = self.instance.name
        groups = [*known.values(), *(seen.group for seen in unchanged.values() if seen.group)]
        for controller in self.hierarchies.v1:
            ours = {
                name
                for group in groups
                if controller in group.controllers
                and (name := group.path.removeprefix(f"{top}/")).count("/") == 0
            }
            directory = self.path(controller, top)
            if cgroup.count_children(directory) == len(ours):
                continue
            for name in {*cgroup.children(directory)} - ours - known.keys() - unchanged.keys():
                _, mark = owner_mark(f"{directory}/{name}")
                ours_left = is_of((mark or "").partition(" ")[2], top)  # only its cgroup2 group was removed
                if not ours_left and not self.leftover(controller, f"{top}/{name}"):
                    yield name, ObservedGroup(f"{top}/{name}", None, {}, frozenset({controller}))

    def group(self, path: str) -> ObservedGroup | None:
        return self.group_and_role(path)[0]

    def group_and_role(self, path: str) -> tuple[ObservedGroup | None, str]:
        """(group or None, its role). It has no owner if the marks of its directories differ."""
        exists, mark = owner_mark(self.path("", path))
        if not exists or (mark is None and self.leftover("", path)):
            return None, ""
        role, _, owner = (mark or "").partition(" ")
        controllers = {""}
        texts = self.texts("", path)
        for controller in self.hierarchies.v1:
            exists, other = owner_mark(self.path(controller, path))
            if not exists or (other is None and self.leftover(controller, path)):
                continue
            if other != mark:
                owner = ""
            controllers.add(controller)
            texts.update(self.texts(controller, path))
        spec, protected = None, False
        if role == "pool":
            protected = marks.find_mark(self.path("", path), PROTECTION_MARK) == PREVENT
            text = applied.unseal(marks.find_mark(self.path("", path), "applied"), None)
            spec = json.loads(text) if text else None
        return ObservedGroup(
            path, owner or None, texts, frozenset(controllers), self.subtree(path), spec, protected
        ), role

    def leftover(self, controller: str, path: str) -> bool:
        """Whether an apply was interrupted after it created this group and before it marked it."""
        return (
            path in self.intended
            and not cgroup.children(self.path(controller, path))
            and not cgroup.processes(self.path(controller, path))
        )

    def texts(self, hierarchy: str, group: str) -> dict[str, str]:
        """{file: content} of the knob files of a group in one hierarchy."""
        out = {}
        directory = self.path(hierarchy, group)
        for side in self.sides.get(hierarchy, ()):
            for file in side.files:
                raw = cgroup.read(f"{directory}/{file}")
                if raw is not None:
                    out[file] = normal(file, raw)
        return out

    # -- servers

    def server(
        self, name: str, group: ObservedGroup | None, directory: ServerDirectory | None
    ) -> ObservedServer:
        disk = applied.to_text(directory.applied) if directory and directory.applied else None
        mark = None
        init: Process | None = None
        within: Mapping[str, str] = {}
        populated = False
        if group:
            home = self.path("", group.path)
            mark = applied.unseal(marks.find_mark(home, "applied"), disk)
            populated = cgroup.populated(home)
            init, within = self.init(group, populated, directory.id_base if directory else None)
        strays = self.strays(group, within) if group and init else ()
        if init and strays and process.is_ending(init.pid):
            init, strays = None, ()
        text = mark or disk
        record = json.loads(text) if text else None
        space = self.disks.of(directory.path, is_limited(record)) if directory else None
        probed = probes.read(home, init, record["spec"]) if group and init and record else {}
        return ObservedServer(
            name,
            group,
            owner=str(directory.owner) if directory and directory.owner else None,
            directory=directory is not None,
            id_base=(directory.id_base or None) if directory else None,
            applied=record,
            mark=mark,
            disk=disk,
            init=init,
            strays=strays,
            populated=populated,
            live=observer.observe(self.running(init, home, record)) if init and group else {},
            ended=bool(group and not init and marks.find_mark(self.path("", group.path), "init")),
            last_exit=last_exit.read(self.path("", group.path)) if group and not init else None,
            readiness=probed.get("readiness"),
            health=probed.get("health"),
            restarts=restarts.read(self.path("", group.path)) if group and not init else None,
            parts=directory.parts if directory else None,
            detached=self.detached(home, record, directory) if init and directory else (),
            stopped=directory.stopped if directory else "",
            space=space,
            unlimited=bool(directory and not space and is_limited(record) and is_written(directory.path)),
            scheduled=scheduled.read(directory.path, record) if directory else None,
            hooks_due=bool(group and has_post_stop(record) and marks.find_mark(home, HOOKS) == HOOKS_DUE),
        )

    def running(self, init: Process, home: str, record: Mapping[str, Any] | None) -> observer.RunningServer:
        return observer.RunningServer(init.pid, home, record["spec"] if record else {}, self.volumes)

    def detached(
        self, home: str, record: Mapping[str, Any] | None, directory: ServerDirectory
    ) -> tuple[str, ...]:
        """What a running server has mounted that is not on disk any more."""
        mounted = (marks.find_mark(home, roots.MARK) or "").split()
        if not mounted or record is None or (made_of := self.known.get(record["image"])) is None:
            return ()  # unknown: it was started by version 0.1.0, or its image has no manifest any more
        return roots.detached(mounted, directory.roots, made_of.layers, self.layer)

    def layer(self, key: str) -> str:
        """The identity of a layer in the store; "" if it is missing."""
        if key not in self.layers:
            self.layers[key] = roots.of_layer(self.instance, key)
        return self.layers[key]

    def init(
        self, group: ObservedGroup, populated: bool, id_base: int | None
    ) -> tuple[Process | None, Mapping[str, str]]:
        """(the server's pid 1, the groups that it is in, as `proc.groups_of`).

        It is the marked process if it runs, otherwise the init found in the home group, unless that is still
        being made: it may not have a root of its own yet.

        A mark can be forged. A marked process outside the home group is only accepted if it is pid 1 of a
        pid namespace and has the ids of the server.
        """
        home = self.path("", group.path)
        words = (marks.find_mark(home, "init") or "").split()
        if len(words) == 3 and words[2] == proc.boot_id() and words[0].isdigit() and words[1].isdigit():
            marked = Process(int(words[0]), int(words[1]))
            if process.start_time(marked.pid) == marked.start:
                groups = proc.groups_of(marked.pid)
                within = _inside(groups.get("", ""), f"/{group.path}")
                if within or (process.find_init([marked.pid]) and proc.first_id(marked.pid) == id_base):
                    return marked, groups
        pid = process.find_init(cgroup.all_processes(home)) if populated else None
        start = process.start_time(pid) if pid and process.has_executed(pid) else None
        return (Process(pid, start), proc.groups_of(pid)) if pid and start else (None, {})

    def strays(self, group: ObservedGroup, actual: Mapping[str, str]) -> tuple[str, ...]:
        """The hierarchies in which an init is not in the group of its server; `actual` are its groups."""
        expected = {
            name: f"/{group.path}" if name else f"/{group.path}/payload" for name in group.controllers
        }
        return tuple(
            sorted(
                name for name, path in expected.items() if actual and not _inside(actual.get(name, ""), path)
            )
        )


def _inside(path: str, group: str) -> bool:
    # A guest may create groups of its own below its payload.
    return path == group or path.startswith(f"{group}/")


def owner_mark(directory: str) -> tuple[bool, str | None]:
    """(whether the directory exists, its owner mark)."""
    try:
        return True, marks.read_mark(directory, marks.OWNER)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return False, None
        raise


def _defaults(known: Mapping[str, Contents | None]) -> dict[str, Mapping[str, Any]]:
    return {digest: made_of.config for digest, made_of in known.items() if made_of and made_of.config}


def _image(record: images.ImageRecord) -> ObservedImage:
    # With an unreadable record or a missing layer the image has no digest, so that it is imported again.
    return ObservedImage(
        record.name,
        "" if record.problem else record.digest,
        tuple(map(str, record.owners)),
        record.spec,
        record.protected,
    )
