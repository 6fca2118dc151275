"""`vsprov ps`: the processes of all servers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from vsprov.cli import complete
from vsprov.cli.options import server_name, settings_of, verb
from vsprov.engine.look import processes
from vsprov.engine.look.observe import unknown_server
from vsprov.kernel import process
from vsprov.render.problems import dump
from vsprov.render.screen import out
from vsprov.render.tables import Table, size, text

COLUMNS = ("SERVER", "PID", "NSPID", "USER", "STATE", "RSS", "TIME", "COMMAND")


@verb(
    """
vsprov ps
vsprov ps web1
vsprov ps -o json
"""
)
def ps(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...",
            help="Only of these servers.",
            show_default=False,
            autocompletion=complete.servers,
        ),
    ] = None,
) -> None:
    """Lists the processes of servers: PID is the host's number, NSPID the server's own, USER the user id
    inside. What a command line holds that is not plain text is shown as escapes.

    Outputs (-o): text, json.
    """
    settings = settings_of(ctx)
    form = settings.choose("text", "json")
    process.require_root("ps: looking at other users' processes")
    known = processes.servers(settings.instance)
    chosen = [server_name(name) for name in names or ()]
    for name in chosen:
        if name not in known:
            raise unknown_server(name, known)
    found = [one for one in processes.listing(settings.instance) if not chosen or one.server in chosen]
    if form == "json":
        out(dump({"items": [asdict(one) for one in found]}))
        return
    rows = tuple(
        (
            one.server,
            str(one.pid),
            str(one.inner),
            "-" if one.user is None else str(one.user),
            one.state,
            size(one.resident),
            f"{one.seconds:.1f}s",
            one.command,
        )
        for one in found
    )
    out(text(Table(COLUMNS, rows, frozenset({"PID", "NSPID", "USER", "RSS", "TIME"})), settings.stdout))
