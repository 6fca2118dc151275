"""Replace what a server has written, and the files of its volumes, by those of a snapshot."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from vsprov.engine.apply import converge
from vsprov.engine.apply.conditions import ready
from vsprov.engine.apply.converge import Outcome, Proposal
from vsprov.engine.apply.report import Report
from vsprov.engine.guests.commands import join
from vsprov.engine.lifecycle import recorded
from vsprov.engine.look import situation
from vsprov.engine.servers.files.snapshots import copied_bytes, exclusive_server
from vsprov.engine.work import WorkOptions
from vsprov.errors import FailedError
from vsprov.kernel import process
from vsprov.model.objects import few
from vsprov.model.values import digests
from vsprov.plan.builder import EVERY_SET, Request, Wanted
from vsprov.plan.observed import Observed, ObservedServer
from vsprov.plan.servers.files import ExchangeFiles, restoring
from vsprov.plan.volumes import mounts
from vsprov.plan.volumes.state import volumes
from vsprov.store import images, servers
from vsprov.store.instance import Instance
from vsprov.store.volumes import changes
from vsprov.store.written import snapshots as stored
from vsprov.store.written.snapshots import Snapshot


class ChosenVolumes(Struct, frozen=True):
    """Which volumes of a snapshot are to be restored: `every` one that no other server uses, and the `named`
    ones.
    """

    every: bool = False
    named: tuple[str, ...] = ()


NO_VOLUMES = ChosenVolumes()


def affected(instance: Instance, name: str, snapshot: str, chosen: ChosenVolumes) -> dict[str, list[str]]:
    """{volume that a restore replaces: other servers that use it}, for the question before it. Read-only."""
    process.require_root("snapshots of servers")
    join.find(instance, name)
    found, observed = stored.find(instance, name, snapshot), situation.look(instance).observed
    return {
        volume: [f"Server/{other.name}" for other in mounts.users(observed, volume) if other.name != name]
        for volume in _volumes(observed, name, found, chosen).values()
    }


def restore(
    instance: Instance,
    name: str,
    snapshot: str,
    report: Report,
    work: WorkOptions,
    chosen: ChosenVolumes = NO_VOLUMES,
) -> Outcome | None:
    """Replace what a server has written, and the chosen volumes, by a snapshot of it; a running one is
    restarted. Its outcome.

    The copies are complete before the server stops. If the server cannot be started with them, it gets back
    what it had. FailedError if the snapshot was made with an image that is no longer in the store, or with
    other ids, or if another server that runs uses one of the volumes.

    The lock is held while files are copied: another command would take the copies for what an interrupted one
    has left, and could remove the snapshot. It is free while conditions of dependencies are waited for.
    """
    process.require_root("reading the files of servers")
    _, _, seen = join.find(instance, name)
    ready.wait_for_dependencies(instance, seen, work.wait_timeout, report)
    with exclusive_server(instance, name, report, work) as (looked, seen):
        assert seen.applied is not None and seen.id_base is not None
        found = stored.find(instance, name, snapshot)
        replaced = _volumes(looked.observed, name, found, chosen)
        disk = not seen.applied["spec"].get("ephemeral")
        _refuse_unfit(instance, seen, found, disk=disk or not replaced)
        if found.image != seen.applied["image"]:
            short = digests.short(found.image)
            report.notice(f"Server/{name}: the snapshot was made with another version of its image, {short}")
        if kept := [volume for volume in found.volumes if volume not in replaced]:
            hint = "" if chosen.every or chosen.named else "; --volumes restores them, too"
            report.notice(f"Server/{name}: not restored: volumes {', '.join(kept)}{hint}")
        try:
            _prepare(instance, seen, found, replaced, report, disk=disk)
            exchange = ExchangeFiles(name, found.name, tuple(replaced.values()), disk)
            if seen.init is None:
                carry_out(instance, exchange)
                return None
            proposal = _restart(instance, seen, found, exchange)
            return converge.perform(instance, proposal, report, work=work)
        finally:
            servers.forget_disk(instance, name)
            for volume in replaced.values():
                changes.forget(instance, volume)


def carry_out(instance: Instance, step: ExchangeFiles) -> None:
    """Exchange the files of a stopped server, and of volumes, with those that were prepared."""
    pairs = [changes.prepared(instance, volume) for volume in step.volumes]
    servers.exchange_disk(instance, step.server, pairs)


def _prepare(
    instance: Instance,
    seen: ObservedServer,
    found: Snapshot,
    replaced: Mapping[str, str],
    report: Report,
    *,
    disk: bool,
) -> None:
    progress = copied_bytes(report, seen.name)
    if disk:
        stored.prepare_restore(instance, seen.name, found.name, seen.id_base or 0, progress)
    for before, volume in replaced.items():
        stored.prepare_volume(instance, seen.name, found.name, before, volume, progress)


def _volumes(observed: Observed, name: str, found: Snapshot, chosen: ChosenVolumes) -> dict[str, str]:
    """{name that a volume had in the snapshot: its name now} of those that are restored."""
    what = f"Server/{name}: restore snapshot {found.name}"
    names = {before: _now(observed, before, created) for before, created in found.volumes.items()}
    picked = {}
    for given in chosen.named:
        before = next((one for one, now in names.items() if given in (one, now)), None)
        if before is None:
            known = ", ".join(names) or "none"
            raise FailedError(f"{what}: it has no volume {given}: its volumes: {known}")
        picked[before] = names[before]
    for before, now in names.items() if chosen.every else ():
        others = [other.name for other in mounts.users(observed, now) if other.name != name]
        if others and before not in picked:
            raise FailedError(
                f"{what}: volume {now} is used by {few(others)}, too, which would lose what they have "
                "written to it",
                hint=f"add --volume {now} to restore it",
            )
        picked[before] = now
    for now in picked.values():
        _refuse_used(observed, name, what, now)
    return picked


def _refuse_used(observed: Observed, name: str, what: str, volume: str) -> None:
    found = volumes(observed).get(volume)
    if found is None:
        hint = "create it first: apply its manifest"
        raise FailedError(f"{what}: volume {volume} does not exist any more", hint=hint)
    if found.problem:
        raise FailedError(f"{what}: volume {volume}: {found.problem}")
    users = mounts.users(observed, volume)
    if running := [one.name for one in users if one.name != name and (one.init or one.populated)]:
        hint = f"vsprov stop {' '.join(running)}"
        raise FailedError(f"{what}: volume {volume} is mounted by {few(running)}", hint=hint)


def _now(observed: Observed, before: str, created: float) -> str:
    """The name that a volume has now: it may have been renamed."""
    known = volumes(observed)
    if before in known and known[before].created == created:
        return before
    renamed = (one.name for one in known.values() if created and one.created == created)
    return next(renamed, before)


def _restart(instance: Instance, seen: ObservedServer, found: Snapshot, exchange: ExchangeFiles) -> Proposal:
    """The plan of a restart with the image of the snapshot, and its files from the moment of the stop."""
    want = recorded("restart", seen)
    assert want is not None
    wanted = Wanted(
        instance.name,
        f"{instance.name}/{EVERY_SET}",
        (want,),
        selected=True,
        request=Request("restart", frozenset({seen.name})),
        pinned={seen.name: found.image},
    )
    proposal = converge.propose(instance, wanted)
    return proposal.with_steps(f"Server/{seen.name}", lambda steps: restoring(steps, exchange))


def _refuse_unfit(instance: Instance, seen: ObservedServer, found: Snapshot, *, disk: bool) -> None:
    assert seen.applied is not None
    what = f"Server/{seen.name}: restore snapshot {found.name}"
    if found.id_base != seen.id_base:
        raise FailedError(f"{what}: its files belong to other ids than those of the server")
    if disk and seen.applied["spec"].get("ephemeral"):
        raise FailedError(f"{what}: the server is ephemeral: what it has written is discarded when it starts")
    if not images.is_whole(instance, found.image):
        short = digests.short(found.image)
        raise FailedError(
            f"{what}: it was made with image {short}, which is no longer in the store",
            hint="vsprov image ls",
        )
