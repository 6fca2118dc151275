"""Export a server as an archive."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack

from msgspec import Struct

from vsprov.engine.apply.report import Report
from vsprov.engine.look.situation import Situation
from vsprov.engine.servers.files.snapshots import copied_bytes, exclusive_server, sharing
from vsprov.engine.servers.freezer import frozen
from vsprov.engine.transfer import documents
from vsprov.engine.work import WorkOptions
from vsprov.errors import FailedError
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.plan.observed import ObservedServer
from vsprov.plan.servers.imports import ImportedSnapshot
from vsprov.plan.volumes.state import volumes as observed_volumes
from vsprov.store import machine_id, servers
from vsprov.store.instance import Instance
from vsprov.store.space import disks
from vsprov.store.transfer import header as headers
from vsprov.store.transfer import write
from vsprov.store.transfer.header import UPPER, VOLUMES, Header
from vsprov.store.transfer.held_directory import held_directory
from vsprov.store.transfer.write import Tree, Written
from vsprov.store.trees.tree import left_out_note
from vsprov.store.volumes import directory
from vsprov.store.written import replica, snapshots
from vsprov.store.written.snapshots import Snapshot

SHOWN = 5  # devices that were left out


class Exported(Struct, frozen=True):
    """What was exported, and the archive as it was written."""

    header: Header
    written: Written


def export(
    instance: Instance,
    name: str,
    out: int,
    report: Report,
    work: WorkOptions,
    *,
    with_volumes: bool = True,
    with_snapshots: bool = False,
) -> Exported:
    """Write a server, running or stopped, to the descriptor `out`; it is not changed.

    While its files are copied, it is frozen, and so are the servers that share its volumes. Then the copy is
    compressed and written, which keeps nobody waiting. OSError if `out` cannot be written.
    """
    label = f"Server/{name}"
    with ExitStack() as held:
        with exclusive_server(instance, name, report, work) as (now, seen):
            place = held.enter_context(held_directory(instance))
            objects = documents.of_server(instance, seen)
            names = _volumes(now, objects) if with_volumes else []
            trees = _copy(instance, now, seen, names, place, report)
            kept = _snapshots(instance, name) if with_snapshots else []
            found = machine_id.find(servers.path_of(instance, name))
        imported = tuple(map(_imported, kept))
        for one, other in zip(kept, imported, strict=True):
            folder = snapshots.path_of(instance, name, one.name)
            bases = [one.id_base, *(0 for _ in one.volumes)]
            paths = [f"{folder}/{tree}" for tree in one.trees]
            trees += map(Tree, headers.trees_of(other), paths, bases)
        assert seen.applied is not None
        header = Header(
            name,
            int(time.time()),
            str(seen.applied["image"]),
            found,
            tuple(write.measure(one, label) for one in trees),
            imported,
        )

        def progress(what: str, done: int, total: int) -> None:
            report.progressed(label, what, done, total)

        written = write.write(out, header, documents.to_text(objects), trees, label, progress)
    if written.left_out:
        some, why = list(written.left_out.items())[:SHOWN], "an export has no devices"
        report.notice(f"{label}: {left_out_note(some, len(written.left_out), why)}")
    return Exported(header, written)


def _volumes(now: Situation, objects: list[Object]) -> list[str]:
    """The volumes that the server mounts. FailedError if one has no files that could be exported."""
    spec = objects[-1].spec
    assert isinstance(spec, Server)
    known = observed_volumes(now.observed)
    names = documents.mounted(spec)
    for name in names:
        found = known.get(name)
        problem = "does not exist" if found is None else found.problem
        if not problem and found is not None and found.applied is None:
            problem = "its record is lost"
        if problem:
            raise FailedError(
                f"Volume/{name}: export: {problem}", hint="--no-volumes exports the server alone"
            )
    return names


def _copy(
    instance: Instance, now: Situation, seen: ObservedServer, names: list[str], place: str, report: Report
) -> list[Tree]:
    """Copy what the server has written, and these volumes, at one moment; the copies."""
    label = f"Server/{seen.name}"
    progress = copied_bytes(report, seen.name)
    assert seen.id_base is not None
    trees = [Tree(UPPER, f"{place}/{UPPER}", seen.id_base)]
    with frozen(now.hierarchies, sharing(now, seen, names)):
        with disks.upper(servers.path_of(instance, seen.name), seen.id_base) as upper:
            size = replica.copy(upper, trees[0].place, label, progress)
        if names:
            os.mkdir(f"{place}/{VOLUMES}")
        for name in names:
            trees.append(Tree(f"{VOLUMES}/{name}", f"{place}/{VOLUMES}/{name}", 0))
            after = replica.after(size, progress)
            with directory.opened(instance, name) as files:
                size += replica.copy(files, trees[-1].place, f"Volume/{name}", after)
    return trees


def _imported(one: Snapshot) -> ImportedSnapshot:
    names = tuple((name, name) for name in one.volumes)
    return ImportedSnapshot(one.name, int(one.created), one.image, names, one.scheduled)


def _snapshots(instance: Instance, name: str) -> list[Snapshot]:
    found = snapshots.observe(instance, name)
    for one in found:
        if one.problem:
            hint = f"vsprov snapshot rm {name} {one.name}"
            raise FailedError(f"Server/{name}: snapshot {one.name}: {one.problem}", hint=hint)
    return found
