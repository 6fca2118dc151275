"""`vsprov rename`: give a server another name."""

from __future__ import annotations

import os
import time

import click

from vsprov.cli import complete, options
from vsprov.cli.approval import Approval, Losses
from vsprov.cli.options import server_name
from vsprov.cli.outcomes import outcome_document
from vsprov.cli.verb import Settings, verb
from vsprov.cli.verbs.apply import conclude
from vsprov.engine.apply.converge import Proposal
from vsprov.engine.work import WorkOptions
from vsprov.kernel import process
from vsprov.render.progress import progress
from vsprov.render.screen import clean, err


@verb(
    """
vsprov rename web1 front1
vsprov rename web1 front1 -y
""",
    outputs=("text", "json"),
)
@click.argument("old", metavar="NAME", help="Name of the server.", shell_complete=complete.servers)
@click.argument("new", metavar="NEW", help="Its new name.")
@options.yes_option
@options.work_options
def rename(settings: Settings, work: WorkOptions, old: str, new: str, yes: bool) -> None:
    """Gives a server another name. It keeps its files, IDs and addresses; a hostname that was its name
    changes with it. A running server is restarted. Servers that depend on it depend on the new name.

    Change the name in the manifest as well, or the next apply creates a server of the old name. To rename a
    server by its manifest, set metadata.renamedFrom there.
    """
    from vsprov.engine.servers import rename as renaming

    process.require_root("rename: stopping and starting servers")
    name, other = server_name(old), server_name(new)

    def question(proposal: Proposal, losses: Losses) -> str:
        restart = " and restart it" if proposal.plan.summary()["restart"] else ""
        return f"Rename Server/{name} to {other} on {os.uname().nodename}{restart}?"

    since = time.monotonic()
    with progress(settings.stderr, quiet=settings.quiet) as report:
        approval = Approval(settings, report, yes, question=question)
        outcome = renaming.rename(
            settings.instance, name, other, report, approve=approval, asks=not yes, work=work
        )
    if settings.output == "json":
        from vsprov.engine.desired import saved
        from vsprov.manifest.load import Manifest
        from vsprov.render.problems import dump
        from vsprov.render.screen import out

        plan = saved.document(outcome.proposal, Manifest(), "*")
        out(dump({**plan, "outcome": outcome_document(outcome)}))
    conclude(settings, outcome, time.monotonic() - since - approval.waited)
    if settings.output == "text" and not settings.quiet:
        err(f"  hint: in its manifest, write name: {clean(other)} and renamedFrom: {clean(name)}")
