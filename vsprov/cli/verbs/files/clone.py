"""`vsprov clone`: make a copy of a server."""

from __future__ import annotations

import time

import click

from vsprov.cli import complete, options
from vsprov.cli.options import server_name
from vsprov.cli.verb import Settings, verb
from vsprov.engine.work import WorkOptions
from vsprov.render.problems import dump
from vsprov.render.progress import progress
from vsprov.render.screen import clean, err, out


@verb(
    """
vsprov clone web1 web2
vsprov clone web1 test --snapshot before-upgrade
vsprov get server web2 -o yaml > servers/web2.yaml
""",
    outputs=("text", "json"),
)
@click.argument("name", metavar="SERVER", help="Name of the server.", shell_complete=complete.servers)
@click.argument("new", metavar="NEW", help="Name of its clone.")
@click.option(
    "--snapshot",
    metavar="NAME",
    default="",
    help="Copy the files of this snapshot. [default: the files that the server has now]",
    shell_complete=complete.snapshots,
)
@options.work_options
def clone(settings: Settings, work: WorkOptions, name: str, new: str, snapshot: str) -> None:
    """Creates a stopped server with the spec of another server and a copy of its files. A running server is
    frozen while its files are copied. The clone has IDs of its own, and belongs to the same set: add it to
    the manifest, or `apply --prune` removes it.

    Volumes that only the server uses are copied: the copy of `data` for a clone `web2` is `data-web2`. Those
    that other servers use too, or that the server cannot write to, are shared with the clone.

    It publishes no ports, and addresses and MAC addresses that are set in the spec are chosen automatically.
    Keys and IDs that the server has in its files, such as SSH host keys, are the same in both. Labels and
    annotations are copied, but vsprov/deletion is not: no copy is protected from deletion.

    If the command is interrupted or killed, the clone is complete, or the next command removes what there is.
    """
    from vsprov.cli.outcomes import outcome_document
    from vsprov.cli.verbs.apply import conclude
    from vsprov.engine.servers.files import clone as cloning

    server, other = server_name(name), server_name(new)
    since = time.monotonic()
    with progress(settings.stderr, quiet=settings.quiet) as report:
        outcome = cloning.clone(settings.instance, server, other, snapshot, report, work)
    if settings.output == "json":
        out(dump({"server": server, "clone": other, "outcome": outcome_document(outcome)}))
    conclude(settings, outcome, time.monotonic() - since)
    if settings.output == "text" and not settings.quiet:
        err(f"  hint: vsprov start {clean(other)}; its manifest: vsprov get server {clean(other)} -o yaml")
