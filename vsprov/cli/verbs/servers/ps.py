"""`vsprov ps`: the processes of all servers."""

from __future__ import annotations

import click
from msgspec.structs import asdict

from vsprov.cli import complete
from vsprov.cli.options import server_name
from vsprov.cli.verb import Settings, verb
from vsprov.engine.show import processes
from vsprov.kernel import process
from vsprov.model.suggest import not_found
from vsprov.render.problems import dump
from vsprov.render.screen import out
from vsprov.render.tables import Table, size, text

COLUMNS = ("SERVER", "PID", "NSPID", "USER", "STATE", "RSS", "TIME", "COMMAND")
NUMBERS = frozenset({"PID", "NSPID", "USER", "RSS", "TIME"})
OPTIONAL = ("NSPID", "TIME", "USER", "STATE", "RSS")  # on a narrow terminal, the least important first


@verb(
    """
vsprov ps
vsprov ps web1
vsprov ps -o json
""",
    outputs=("text", "json"),
)
@click.argument(
    "names", metavar="[NAME...]", nargs=-1, help="Names of servers.", shell_complete=complete.servers
)
def ps(settings: Settings, names: tuple[str, ...]) -> None:
    """Lists the processes of all servers, or of the named ones. PID is the process ID on the host, NSPID the
    one in the server, USER the user ID in the server. Control characters in command lines are
    printed as escape sequences.
    """
    process.require_root("ps: reading the processes of other users")
    known = processes.servers(settings.instance)
    chosen = [server_name(name) for name in names]
    for name in chosen:
        if name not in known:
            raise not_found("Server", name, known)
    found = [one for one in processes.listing(settings.instance) if not chosen or one.server in chosen]
    if settings.output == "json":
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
    out(text(Table(COLUMNS, rows, NUMBERS, OPTIONAL), settings.stdout))
