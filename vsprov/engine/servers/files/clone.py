"""Make a server that has the spec and the files of another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from msgspec.structs import replace

from vsprov.engine.apply import converge
from vsprov.engine.apply.converge import Outcome
from vsprov.engine.apply.report import Report
from vsprov.engine.servers.files.snapshots import exclusive_server, sharing
from vsprov.engine.servers.freezer import frozen
from vsprov.engine.servers.names import refuse_name, refuse_taken
from vsprov.engine.work import WorkOptions
from vsprov.errors import FailedError
from vsprov.model.kinds.network import Interface
from vsprov.model.kinds.sections.mounts import Mount
from vsprov.model.kinds.server import Server
from vsprov.model.kinds.volume import Volume
from vsprov.model.objects import DELETION, Object
from vsprov.plan.builder import Wanted
from vsprov.plan.compare import applied
from vsprov.plan.observed import Observed, ObservedServer
from vsprov.plan.servers.files import cloning, cloning_volume
from vsprov.plan.volumes import mounts
from vsprov.plan.volumes.state import volumes
from vsprov.store import images, servers
from vsprov.store.instance import Instance
from vsprov.store.volumes import changes
from vsprov.store.written import snapshots
from vsprov.store.written.snapshots import Snapshot

LONGEST_NAME = 63  # of an object


def clone(
    instance: Instance, name: str, new: str, snapshot: str, report: Report, work: WorkOptions
) -> Outcome:
    """Make a stopped server `new` with the spec of another one and a copy of what that has written, or had in
    a snapshot if one is named; a running one is frozen meanwhile. It belongs to the same set. So do copies of
    the volumes that only this server uses; others are shared.

    The lock is held while files are copied: another command could thaw, stop or remove the server that is
    copied, and would take the copy for what an interrupted command has left.

    UsageError for an invalid name, FailedError for one that is taken, or if there is no such server.
    """
    refuse_name(f"clone {name} {new}", new)
    with exclusive_server(instance, name, report, work) as (looked, seen):
        what = f"Server/{name}: clone to {new}"
        refuse_taken(what, looked.observed, new)
        assert seen.applied is not None
        digest, found = str(seen.applied["image"]), None
        if snapshot:
            found = snapshots.find(instance, name, snapshot)
            if found.id_base != seen.id_base:
                raise FailedError(f"Server/{name}: snapshot {snapshot}: its files belong to other ids")
            digest = found.image
        images.contents(instance, digest)  # or it could never start
        copies = _copies(what, looked.observed, seen, new, found)
        want = _clone_of(seen, new, copies, report)
        wanted = Wanted(
            instance.name,
            seen.set_owner or "",
            (want, *_volumes(looked.observed, copies)),
            selected=True,
            pinned={new: digest},
        )
        proposal = converge.propose(instance, wanted).with_steps(
            want.address, lambda steps: cloning(steps, name, snapshot)
        )
        for volume, copy in copies.items():
            fill = partial(cloning_volume, server=name, snapshot=snapshot, source=volume, clone=new)
            proposal = proposal.with_steps(f"Volume/{copy}", fill)
        used = [] if snapshot else sharing(looked, seen, copies)
        try:
            with frozen(looked.hierarchies, used):
                outcome = converge.perform(instance, proposal, report, work=work)
            if not outcome.errors:
                # As if it had been stopped: it is in no manifest that could want it so.
                servers.keep_stopped(instance, new, "command")
                servers.flush_stopped(instance, [new])
        finally:
            changes.settle_new(instance)
    return outcome


def _copies(
    what: str, observed: Observed, seen: ObservedServer, new: str, found: Snapshot | None
) -> dict[str, str]:
    """{volume that only this server uses, and can write to: the name of its copy}; those of a snapshot have
    to be in it.
    """
    copies = {}
    for name in mounts.written_by(seen):
        if any(user.name != seen.name for user in mounts.users(observed, name)):
            continue
        copy = copies[name] = f"{name}-{new}"
        if len(copy) > LONGEST_NAME:
            raise FailedError(f"{what}: its volume {name} would be copied to {copy}: that name is too long")
        if copy in volumes(observed):
            hint = f"choose another name, or remove it: vsprov delete volume {copy}"
            raise FailedError(f"{what}: its volume {name} would be copied to {copy}, which exists", hint=hint)
        if found is not None and name not in found.volumes:
            raise FailedError(f"{what}: snapshot {found.name} has no copy of its volume {name}")
    return copies


def _volumes(observed: Observed, copies: Mapping[str, str]) -> Iterator[Object]:
    """The copies of volumes, with the specs of these."""
    for name, copy in copies.items():
        found = volumes(observed).get(name)
        if found is None or found.problem or found.applied is None:
            why = (found and found.problem) or "it does not exist, or its record is not readable"
            raise FailedError(f"Volume/{name}: {why}")
        volume = applied.object_of("Volume", copy, found.applied)
        assert isinstance(volume.spec, Volume)
        yield unprotected(replace(volume, spec=replace(volume.spec, source=None)))


def unprotected(found: Object) -> Object:
    """An object without the annotation that protects it: what a copy is made for is often temporary, and what
    has to last is the original. All other labels and annotations are kept.
    """
    kept = {key: text for key, text in found.annotations.items() if key != DELETION}
    return replace(found, annotations=kept)


def _clone_of(seen: ObservedServer, new: str, copies: Mapping[str, str], report: Report) -> Object:
    """The server as it was last applied, stopped, without what only one server can have."""
    assert seen.applied is not None
    found = copy_of(applied.to_object(seen.name, seen.applied), new, report)
    assert isinstance(found.spec, Server)
    for name in mounts.of_record(seen):
        how = f"will be copied to {copies[name]}" if name in copies else "shared with the clone"
        report.notice(f"Server/{new}: volume {name}: {how}")
    return replace(found, spec=with_volumes(found.spec, copies))


def copy_of(found: Object, new: str, report: Report) -> Object:
    """A server with another name, stopped, without what the one that it is a copy of has."""
    spec = found.spec
    assert isinstance(spec, Server)
    interfaces = tuple(map(_interface, spec.interfaces))
    for before, after in zip(spec.interfaces, interfaces, strict=True):
        if before != after:
            report.notice(f"Server/{new}: interface {before.name}: its addresses are chosen automatically")
    if spec.ports:
        report.notice(f"Server/{new}: publishes no ports: those of Server/{found.name} are taken")
    hostname = new if spec.hostname == found.name else spec.hostname
    spec = replace(spec, state="Stopped", hostname=hostname, interfaces=interfaces, ports=())
    return unprotected(replace(found, name=new, spec=spec))


def with_volumes(spec: Server, names: Mapping[str, str]) -> Server:
    """The server with other names for volumes."""
    return replace(spec, mounts=tuple(_mount(each, names) for each in spec.mounts))


def _mount(one: Mount, names: Mapping[str, str]) -> Mount:
    is_other = one.type == "volume" and one.source in names
    return replace(one, source=names[str(one.source)]) if is_other else one


def _interface(one: Interface) -> Interface:
    fixed = any(address != "auto" for address in one.addresses)
    return replace(one, mac=None, addresses=("auto",) if fixed else one.addresses)
