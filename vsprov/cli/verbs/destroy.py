"""Verbs that remove objects: destroy, delete."""

from __future__ import annotations

import os
import time
from functools import partial

import click

from vsprov.cli import complete, options
from vsprov.cli.approval import Approval, Losses
from vsprov.cli.kinds import chosen
from vsprov.cli.outcomes import outcome_document
from vsprov.cli.verb import Settings, verb
from vsprov.cli.verbs.apply import conclude, converged
from vsprov.engine import destroy as destroying
from vsprov.engine.apply.converge import Outcome, Proposal
from vsprov.engine.desired import saved, wanted
from vsprov.engine.desired.inputs import Inputs
from vsprov.engine.desired.wanted import Volumes
from vsprov.engine.work import WorkOptions
from vsprov.errors import UsageError
from vsprov.kernel import process
from vsprov.manifest.load import Manifest
from vsprov.render import tables
from vsprov.render.problems import counted, dump
from vsprov.render.progress import progress
from vsprov.render.screen import out


@verb(
    """
vsprov destroy servers/
vsprov destroy servers/web.yaml -y
vsprov destroy --all                        # everything of this instance, except volumes
vsprov destroy site/ --volumes --delete-data db   # also empty volumes, and volume db with its data
""",
    outputs=("text", "json"),
)
@click.option("--all", "everything", is_flag=True, help="All objects of the instance, of every set.")
@options.volume_options
@options.yes_option
@options.selector_option
@options.set_name_option
@options.manifest_inputs
@options.work_options
def destroy(
    settings: Settings,
    inputs: Inputs,
    work: WorkOptions,
    everything: bool,
    yes: bool,
    labels: str | None,
    set_name: str | None,
    volumes: Volumes,
) -> None:
    """Stops and removes the servers, networks, quotas and images of the manifest, with all files that the
    servers have written. Volumes are kept, unless --volumes or --delete-data is given. Nothing is removed if
    any of these objects belongs to another set, was not created by vsprov, is used by a server that remains,
    or has the annotation vsprov/deletion: prevent. An image that other sets have as well is kept for them.
    """
    if everything == bool(inputs.paths):
        raise UsageError("destroy: specify either PATH or --all")
    if everything and labels is not None:
        raise UsageError("destroy --all: cannot be combined with -l")
    desired = None
    if inputs.paths:
        desired = wanted.to_remove(
            settings.instance, inputs, set_name=set_name, labels=labels, volumes=volumes
        )
    process.require_root("destroy: stopping and removing servers")
    since = time.monotonic()
    with progress(settings.stderr, quiet=settings.quiet) as report:
        approval = Approval(settings, report, yes, question=partial(_question, settings, everything))
        if desired is None:
            outcome = destroying.destroy_all(
                settings.instance,
                report,
                volumes,
                approve=approval,
                asks=not approval.yes,
                work=work,
            )
        else:
            outcome = converged(settings, desired, approval, work)
    manifest, name = (desired.manifest, desired.set_name) if desired else (Manifest(), "*")
    _finish(settings, outcome, time.monotonic() - since - approval.waited, manifest, name)


@verb(
    """
vsprov delete server web1
vsprov delete network/front image/old-base -y
vsprov delete volume db                     # with all of its data
""",
    outputs=("text", "json"),
)
@click.argument(
    "kind", metavar="KIND", help="server, network, volume, image or quota.", shell_complete=complete.kinds
)
@click.argument(
    "names",
    metavar="[NAME...]",
    nargs=-1,
    help="Names of objects. KIND/NAME gives both in one word.",
    shell_complete=complete.objects,
)
@options.yes_option
@options.work_options
def delete(settings: Settings, work: WorkOptions, kind: str, names: tuple[str, ...], yes: bool) -> None:
    """Stops and removes single objects, as destroy does, whatever set they belong to: a server with all files
    that it has written, a volume with its data. Nothing is removed if one of the objects is used by an object
    that remains, or has the annotation vsprov/deletion: prevent.

    The manifest is not changed: if it has an object, the next apply creates it again, without its files.
    """
    addresses = [f"{one}/{name}" for one, each in chosen("delete", kind, names).items() for name in each]
    if not addresses:
        raise UsageError(f"delete {kind}: no names given", hint="vsprov destroy --all removes everything")
    process.require_root("delete: stopping and removing servers")
    since = time.monotonic()
    with progress(settings.stderr, quiet=settings.quiet) as report:
        approval = Approval(settings, report, yes, question=partial(_question, settings, False))
        outcome = destroying.delete(
            settings.instance, addresses, report, approve=approval, asks=not yes, work=work
        )
    _finish(settings, outcome, time.monotonic() - since - approval.waited, Manifest(), "*")


def _finish(settings: Settings, outcome: Outcome, seconds: float, manifest: Manifest, name: str) -> None:
    if settings.output == "json":
        plan = saved.document(outcome.proposal, manifest, name)
        out(dump({**plan, "outcome": outcome_document(outcome)}))
    conclude(settings, outcome, seconds)


def _question(settings: Settings, everything: bool, proposal: Proposal, losses: Losses) -> str:
    """The question before a destroy, which names what cannot be brought back."""
    images = [one.name for one in proposal.plan.objects if (one.kind, one.action) == ("Image", "delete")]
    servers = sum((one.kind, one.action) == ("Server", "delete") for one in proposal.plan.objects)
    volumes = [one for one in proposal.plan.objects if (one.kind, one.action) == ("Volume", "delete")]
    lost = sum(size for address, size in losses.items() if address.startswith("Server/"))
    written = f", with {tables.size(lost)} of written files" if lost else ""
    what = [f"{counted(servers, 'server')}{written}"] if servers else []
    for one in volumes:
        data = losses.get(one.address)
        what.append(f"volume {one.name}" + (f", with {tables.size(data)} of data" if data else ""))
    what += [f"image{'s' if len(images) > 1 else ''} {', '.join(images)}"] if images else []
    rest = f": {'; '.join(what)}" if what else ""
    objects = "everything" if everything else "these objects"
    return f"Destroy {objects} of instance {settings.instance.name} on {os.uname().nodename}{rest}?"
