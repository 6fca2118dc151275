"""Import a server from an archive."""

from __future__ import annotations

import re
import select
from contextlib import ExitStack, suppress
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from vsprov.engine.apply import converge
from vsprov.engine.apply.converge import Outcome, Proposal
from vsprov.engine.apply.exclusive import exclusive
from vsprov.engine.apply.report import Report, Silent
from vsprov.engine.look import situation
from vsprov.engine.servers.names import refuse_name
from vsprov.engine.transfer import package as packages
from vsprov.engine.transfer.package import Adapted, Choice, Package
from vsprov.engine.work import WorkOptions
from vsprov.errors import FailedError, UsageError, VsprovError
from vsprov.kernel import process
from vsprov.model.values.patterns import NAME_PATTERN
from vsprov.plan.builder import Wanted
from vsprov.plan.servers.imports import importing, importing_volume
from vsprov.store import servers
from vsprov.store.instance import Instance
from vsprov.store.transfer import read
from vsprov.store.transfer.header import Header
from vsprov.store.transfer.held_directory import held_directory
from vsprov.store.volumes import changes

# For the lock, once the archive is read: it may have taken an hour, and may have come through a pipe.
SECONDS_TO_LOCK = 120.0


class Imported(Struct, frozen=True):
    """The archive's header, the names of the new server and its new volumes, and what came of it."""

    header: Header
    server: str
    volumes: tuple[str, ...]
    outcome: Outcome


def import_server(
    instance: Instance,
    archive: int,
    label: str,
    owner_set: str,
    choice: Choice,
    report: Report,
    work: WorkOptions,
) -> Imported:
    """Make a stopped server of the archive open as `archive`, a file or a pipe; it belongs to `owner_set`.

    Everything is checked before anything is visible. Reading the archive keeps nobody waiting. FailedError
    for an archive that is damaged or not allowed, for names that are taken, and if the image is not in the
    store and cannot be fetched; ManifestError for its documents; nothing is left then.
    """
    process.require_root("import: making servers")
    _check(choice)
    found: list[Package] = []

    def accept(header: Header, manifest: str) -> None:
        """Refuse what can be refused before the files are read."""
        found.append(Package.of(header, manifest, label))
        packages.adapt(instance, situation.look(instance).observed, found[0], label, choice, report)

    def progress(what: str, done: int, total: int) -> None:
        report.progressed(label, what, done, total)

    _wait(archive, label)
    with ExitStack() as held:
        with exclusive(instance, work, report):
            if choice.name:
                packages.refuse_names(label, situation.look(instance).observed, choice.name, {})
            place = held.enter_context(held_directory(instance))
        patient = replace(work, lock_timeout=max(work.lock_timeout, SECONDS_TO_LOCK))
        try:
            read.read(archive, place, label, choice.most_bytes, accept, progress)
            with exclusive(instance, patient, report):
                return _import(instance, found[0], place, label, owner_set, choice, report, work)
        except BaseException:
            held.close()
            with suppress(VsprovError), exclusive(instance, work, report):
                pass  # an instance without objects has no files
            raise


def _wait(archive: int, label: str) -> None:
    """Wait until there is something to read. An export of the same instance, at the other end of a pipe,
    holds the lock until it begins to write: each would refuse to wait for the other.
    """
    poll = select.poll()
    poll.register(archive, select.POLLIN)
    if not any(events & select.POLLIN for _, events in poll.poll()):
        raise FailedError(f"{label}: import: it is empty", hint="the command that writes it has failed")


def _check(choice: Choice) -> None:
    if choice.name:
        refuse_name(f"import --name {choice.name}", choice.name)
    for old, new in choice.volumes.items():
        if not re.fullmatch(NAME_PATTERN, new):
            raise UsageError(f"import --volume {old}={new}: not a name that a volume can have")


def _import(
    instance: Instance,
    package: Package,
    place: str,
    label: str,
    owner_set: str,
    choice: Choice,
    report: Report,
    work: WorkOptions,
) -> Imported:
    """Plan and carry it out, under the lock."""
    observed = situation.look(instance).observed
    # What it reports was reported when the header was read.
    adapted = packages.adapt(instance, observed, package, label, choice, Silent())
    name = adapted.server.name
    wanted = Wanted(
        instance.name,
        f"{instance.name}/{owner_set}",
        (*adapted.missing, *adapted.volumes.values(), adapted.server),
        selected=True,
        pinned={name: adapted.image.digest},
    )
    proposal = converge.propose(instance, wanted)
    adapted.image.refuse_other(proposal, label)
    proposal = _with_files(proposal, package.header, place, adapted)
    try:
        outcome = converge.perform(instance, proposal, report, work=work)
        if not outcome.errors:
            # As if it had been stopped: it is in no manifest that could want it so.
            servers.keep_stopped(instance, name, "command")
            servers.flush_stopped(instance, [name])
    finally:
        changes.settle_new(instance)
    return Imported(package.header, name, tuple(adapted.names.values()), outcome)


def _with_files(proposal: Proposal, header: Header, place: str, adapted: Adapted) -> Proposal:
    """The plan, in which the server and its volumes get the files of the export."""
    name, names = adapted.server.name, adapted.names
    # A copy beside the original has an ID of its own.
    machine_id = header.machine_id if name == header.server else ""
    snapshots = tuple(
        replace(one, volumes=tuple(_renamed(dict(one.volumes), names))) for one in header.snapshots
    )
    proposal = proposal.with_steps(
        f"Server/{name}", lambda steps: importing(steps, place, machine_id, snapshots)
    )
    for old, new in names.items():
        fill = partial(importing_volume, staged=place, part=old, server=name)
        proposal = proposal.with_steps(f"Volume/{new}", fill)
    return proposal


def _renamed(volumes: dict[str, str], names: dict[str, str]) -> list[tuple[str, str]]:
    """The volumes of a snapshot by their names here; one of others may have such a name already."""
    new = {old: names.get(old, old) for old in volumes}
    return [(old, old if new[old] in volumes else new[old]) for old in volumes]
