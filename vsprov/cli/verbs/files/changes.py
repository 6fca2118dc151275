"""`vsprov changes`: what a server has changed of its image."""

from __future__ import annotations

import click
from msgspec.structs import asdict

from vsprov.cli import complete
from vsprov.cli.options import server_name
from vsprov.cli.verb import Settings, verb
from vsprov.errors import UsageError
from vsprov.render.problems import dump
from vsprov.render.screen import clean, out

LETTERS = {"added": "A", "changed": "C", "deleted": "D"}


@verb(
    """
vsprov changes web1
vsprov changes web1 /etc /var/lib
vsprov changes web1 -o json
""",
    outputs=("text", "json"),
)
@click.argument("name", metavar="NAME", help="Name of the server.", shell_complete=complete.servers)
@click.argument("paths", metavar="[PATH...]", nargs=-1, help="Only these paths, and what is below them.")
def changes(settings: Settings, name: str, paths: tuple[str, ...]) -> None:
    """Lists the files by which a server, running or stopped, differs from its image: A for those that it has
    added, C for changed ones, D for deleted ones. A directory is changed if anything in it is.

    Files on other file systems, such as mounts and /dev, are not compared. The differences between a server
    and its manifest are what `vsprov diff` shows.
    """
    from vsprov.engine.servers.files import changes as looking

    tops = [f"/{path.strip('/')}" for path in paths]
    if any(part in (".", "..", "") for top in tops if top != "/" for part in top[1:].split("/")):
        raise UsageError("changes: PATH has to be a plain path", hint="vsprov changes web1 /etc")
    found = (
        one
        for one in looking.changes(settings.instance, server_name(name))
        if not tops or any(top == "/" or f"{one.path}/".startswith(f"{top}/") for top in tops)
    )
    if settings.output == "json":
        out(dump({"items": [asdict(one) for one in found]}))
        return
    for one in found:
        out(f"{LETTERS[one.what]} {clean(one.path)}")
