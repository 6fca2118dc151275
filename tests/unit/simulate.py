"""A world of control groups, directories, images and processes that steps can be done to.

It refuses what the kernel and the engine refuse; `simulate_groups` says what of control groups.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from tests.unit.simulate_disks import Directory, Disks
from tests.unit.simulate_groups import HOME, Groups, Guest, number
from tests.unit.simulate_networks import Networks, Refused
from vsprov.model import fields
from vsprov.model.kinds.server import Server
from vsprov.model.limits.knobs import RLIMITS
from vsprov.model.objects import Object
from vsprov.model.values.units import MAX
from vsprov.plan.aspects.hostname import SetHostname
from vsprov.plan.aspects.rlimits import SetLimit
from vsprov.plan.builder import Wanted
from vsprov.plan.compare import applied
from vsprov.plan.observed import (
    Observed,
    ObservedGroup,
    ObservedImage,
    ObservedServer,
    Probed,
    Process,
)
from vsprov.plan.plan import Plan
from vsprov.plan.servers.conditions import Await
from vsprov.plan.servers.hooks import RunHooks
from vsprov.plan.steps import (
    DiscardUpper,
    EnableControllers,
    ImportImage,
    InformKeeper,
    KeepStopped,
    MakeDirectory,
    MakeGroup,
    MakePayload,
    MarkInit,
    MoveProcesses,
    ProtectImage,
    Release,
    RemoveDirectory,
    RemoveGroup,
    RemoveImage,
    RemoveRecord,
    RenameDirectory,
    ShareImage,
    Spawn,
    Step,
    Stop,
    WriteApplied,
    WriteFile,
    WriteMark,
    WriteRecord,
)


@dataclass
class World(Groups):
    instance: str = "vsprov"
    directories: dict[str, Directory] = field(default_factory=dict)
    images: dict[str, ObservedImage] = field(default_factory=dict)
    pools: dict[str, tuple[str, str]] = field(default_factory=dict)  # (owner, record)
    disks: Disks = field(default_factory=Disks)
    networks: Networks = field(default_factory=Networks)

    next_pid: int = 1000
    next_base: int = 524288

    def copy(self) -> World:
        out = copy.copy(self)
        for name in (
            "files",
            "owners",
            "marks",
            "subtree",
            "payloads",
            "directories",
            "images",
            "guests",
            "pools",
        ):
            setattr(out, name, {key: copy.copy(value) for key, value in getattr(self, name).items()})
        for guest in out.guests.values():
            guest.limits, guest.where = dict(guest.limits), dict(guest.where)
        out.networks, out.pools, out.disks = self.networks.copy(), dict(self.pools), self.disks.copy()
        return out

    # -- observation

    def observe(self, wanted: Wanted | None = None) -> Observed:
        """What there is. Networks are observed if there are any, or if `wanted` has some."""
        homes: dict[str, ObservedGroup] = {}
        pools: dict[str, ObservedGroup] = {}
        for hierarchy, path in self.files:
            if hierarchy == HOME and path.startswith(f"{self.instance}/"):
                role = self.owners.get((HOME, path), "").partition(" ")[0]
                (pools if role == "pool" else homes)[path.rpartition("/")[2]] = self.group(path)
        names = sorted({*homes, *self.directories})
        servers = {name: self.server(name, homes.get(name)) for name in names}
        self.networks.guests = {
            name: each for name, each in self.networks.guests.items() if name in self.guests
        }
        networked = any(each.applied and each.applied["spec"].get("interfaces") for each in servers.values())
        networked |= any(has_network(one) for one in wanted.objects) if wanted else False
        parent = self.group(self.instance) if (HOME, self.instance) in self.files else None
        lost = {
            name: ObservedGroup(f"{self.instance}/{name}", owner, applied=json.loads(text)["spec"], disk=text)
            for name, (owner, text) in self.pools.items()
            if name not in pools
        }
        lost = {name: replace(pool, space=self.disks.pools.get(name)) for name, pool in lost.items()}
        return Observed(
            servers,
            {
                name: replace(
                    pool, disk=self.pools.get(name, ("", None))[1], space=self.disks.pools.get(name)
                )
                for name, pool in pools.items()
            },
            dict(self.images),
            parent,
            frozenset(self.subtree[""]),
            networks=self.networks.observe(networked),
            lost_pools=lost,
        )

    def server(self, name: str, group: ObservedGroup | None) -> ObservedServer:
        directory = self.directories.get(name)
        disk = directory.applied if directory else None
        mark = applied.unseal(self.marks.get(group.path), disk) if group else None
        text = mark or disk
        record = json.loads(text) if text else None
        guest = self.guests.get(name) if group else None
        strays = [h for h in group.controllers if guest and guest.where[h] != group.path] if group else []
        return ObservedServer(
            name,
            group,
            directory.owner if directory else None,
            directory is not None,
            directory.id_base if directory else None,
            record,
            mark,
            disk,
            Process(guest.pid, guest.pid) if guest else None,
            tuple(sorted(strays)),
            guest is not None,
            {"hostname": guest.hostname, "rlimits": dict(guest.limits)} if guest else {},
            readiness=Probed(guest.ready) if guest and record and record["spec"].get("readiness") else None,
            stopped=directory.stopped if directory else "",
            space=replace(directory.disk, attached=guest is not None)
            if directory and directory.disk
            else None,
            unlimited=bool(directory and not directory.disk and directory.loose),
        )

    # -- steps

    def do(self, step: Step, wanted: Wanted) -> None:
        """Bring about what a step says, or raise Refused."""
        want = {one.address: one for one in wanted.objects}
        match step:
            case MakeGroup(hierarchy, group):
                if (hierarchy, group.rpartition("/")[0]) not in self.files:
                    raise Refused(f"{step.describe()}: nothing above it")
                if (hierarchy, group) in self.files:
                    raise Refused(f"{step.describe()}: it exists")
                self.owners[hierarchy, group] = f"{step.role} {step.owner}"
                if hierarchy == HOME:
                    self.subtree[group] = set()
                self.files[hierarchy, group] = self.fresh_files(hierarchy, group)
            case MakePayload(group, server):
                self.need_group(group)
                self.payloads[group] = self.directories[server].id_base
            case EnableControllers(group, controllers):
                above = None if group == "" else self.subtree[group.rpartition("/")[0]]
                for controller in controllers:
                    if above is not None and controller not in above:
                        raise Refused(f"{step.describe()}: {controller} does not reach it")
                    self.subtree[group].add(controller)
                for child in self.children(HOME, group):
                    self.files[HOME, child] = self.fresh_files(HOME, child) | self.files[HOME, child]
            case WriteFile(controller, group, file, data):
                for part in data:
                    self.write(self.hierarchy(controller), group, file, part)
            case MoveProcesses(hierarchy, group):
                self.enter(group.rpartition("/")[2], hierarchy, group)
            case RemoveGroup(group):
                self.remove_group(group)
            case WriteMark(group, "deletion", text):
                self.protected = (self.protected - {group}) | ({group} if text else set())
            case ProtectImage(image, sets):
                self.images[image] = replace(self.images[image], protected=sets)
            case RunHooks():
                pass
            case WriteMark(group, "hooks"):
                self.need_group(group)
            case WriteMark(group, "applied", text):
                self.need_group(group)
                self.marks[group] = text
            case ImportImage(image):
                spec = fields.write(want[f"Image/{image}"].spec)
                digest = wanted.digests[image]
                owners = self.images[image].owners if image in self.images else ()
                owners = tuple(dict.fromkeys((*owners, wanted.owner)))
                protected = self.images[image].protected if image in self.images else ()
                self.images[image] = ObservedImage(image, digest, owners, spec, protected)
            case ShareImage(image, owners):
                self.images[image] = replace(self.images[image], owners=owners)
            case RemoveImage(image):
                if any(guest.image.startswith(f"{image}@") for guest in self.guests.values()):
                    raise Refused(f"{step.describe()}: it is in use")
                del self.images[image]
            case RenameDirectory(server, new):
                if new in self.directories or server in self.guests:
                    raise Refused(f"{step.describe()}: it exists, or runs")
                self.directories[new] = self.directories.pop(server)
            case MakeDirectory(server, owner, text):
                if server in self.directories:
                    raise Refused(f"{step.describe()}: it exists")
                self.directories[server] = Directory(owner, text, self.next_base)
                self.next_base += 65536
            case WriteApplied(server, text):
                self.directories[server].applied = text
            case KeepStopped(server, by, before):
                if self.directories[server].stopped != before:
                    raise Refused(f"{step.describe()}: it is otherwise")
                self.directories[server].stopped = by
            case WriteRecord(kind, name, owner, text, before):
                if before != self.records(kind).get(name, ("", ""))[1]:
                    raise Refused(f"{step.describe()}: it is another one")
                self.records(kind)[name] = (owner, text)
            case RemoveRecord(kind, name):
                self.records(kind).pop(name, None)
            case DiscardUpper(server) | RemoveDirectory(server):
                if server in self.guests:
                    raise Refused(f"{step.describe()}: it runs")
                self.directories[server].written = False
                if isinstance(step, RemoveDirectory):
                    del self.directories[server]
            case SetLimit(server, limit, soft, hard):
                self.set_limit(server, limit, (limit_value(soft), limit_value(hard)))
            case SetHostname(server, hostname):
                self.guests[server].hostname = hostname
            case Stop(server):
                self.guests.pop(server, None)
                self.networks.guests.pop(server, None)
            case Spawn(server):
                self.spawn(want[f"Server/{server}"], wanted)
                spec = want[f"Server/{server}"].spec
                self.networks.start(server, isinstance(spec, Server) and bool(spec.interfaces))
            case MarkInit(server):
                assert not self.guests[server].released
                self.guests[server].kept = fields.kept(want[f"Server/{server}"].spec)
            case InformKeeper(server, spec):
                self.guests[server].kept = spec
            case Await(server, condition):
                assert self.guests[server].released or condition == "completed"
            case Release(server):
                self.guests[server].released = True
            case _ if not (self.networks.do(step) or self.do_to_disk(step)):
                raise AssertionError(step)

    def do_to_disk(self, step: Step) -> bool:
        return self.disks.do(step, self.directories, self.guests, grow=not self.machine.ceilings)

    def records(self, kind: str) -> dict[str, tuple[str, str]]:
        return {"Network": self.networks.records, "Quota": self.pools}[kind]

    def set_limit(self, server: str, limit: str, values: tuple[Any, Any]) -> None:
        guest = self.guests[server]
        if self.machine.ceilings and number(str(values[1])) > number(str(guest.limits[limit][1])):
            raise Refused(f"raising {limit} of {server} takes CAP_SYS_RESOURCE")
        guest.limits[limit] = values

    def spawn(self, want: Object, wanted: Wanted) -> None:
        spec, name = want.spec, want.name
        assert isinstance(spec, Server)
        group = "/".join(part for part in (self.instance, spec.quota, name) if part)
        self.need_group(group)
        if name in self.guests:
            raise Refused(f"{name} runs already")
        if self.payloads.get(group) != self.directories[name].id_base:
            raise Refused(f"{name} has no payload group of its own")
        image = self.images[spec.image]
        if spec.image in wanted.digests and image.digest != wanted.digests[spec.image]:
            raise Refused(f"{name} would start from an outdated image")
        for dependency in spec.depends_on:
            other = {one.address: one for one in wanted.objects}[f"Server/{dependency.name}"].spec
            assert isinstance(other, Server)
            if other.state == "Running" and not self.is_up(dependency.name):
                raise Refused(f"{name} starts before {dependency.name}")
        self.disks.refuse_start(name, spec, self.directories[name].disk)
        if spec.ephemeral and self.directories[name].written:
            raise Refused(f"{name} would find what it wrote before")
        self.directories[name].written = True
        self.directories[name].loose |= not self.directories[name].disk
        limits = {k.rlimit: self.machine.limits.get(k.rlimit, (MAX, MAX)) for k in RLIMITS}
        limits |= {k.rlimit: spec.resources[k.path] for k in RLIMITS if k.path in spec.resources}
        self.next_pid += 1
        where = dict.fromkeys(self.hierarchies(), "")
        shown = f"{spec.image}@{image.digest}"
        self.guests[name] = Guest(self.next_pid, shown, spec.hostname, limits, where)
        for hierarchy in self.hierarchies():
            if (hierarchy, group) in self.files:
                self.enter(name, hierarchy, group)

    def is_up(self, name: str) -> bool:
        return name in self.guests and self.guests[name].released

    def die(self) -> None:
        """The maker of guests is killed: those at the gate see its end and exit."""
        self.guests = {name: guest for name, guest in self.guests.items() if guest.released}
        self.networks.guests = {
            name: each for name, each in self.networks.guests.items() if name in self.guests
        }


def has_network(one: Object) -> bool:
    return one.kind == "Network" or (isinstance(one.spec, Server) and bool(one.spec.interfaces))


def limit_value(text: str) -> Any:
    return MAX if text == MAX else int(text)


def apply(plan: Plan, wanted: Wanted, world: World, steps: int = -1) -> int:
    """Do the steps of a plan, at most `steps`, as if then killed. Returns how many were done."""
    done = 0
    for change in plan.changes:
        for step in change.steps:
            if done == steps:
                world.die()
                return done
            world.do(step, wanted)
            done += 1
    return done


def take_back(done: Iterable[Step], wanted: Wanted, world: World) -> None:
    """Undo steps, latest first."""
    for step in reversed(list(done)):
        if back := step.undo():
            world.do(back, wanted)
