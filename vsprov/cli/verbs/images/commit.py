"""`vsprov commit`: make an image of a server."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from vsprov.cli import complete, options
from vsprov.cli.options import server_name
from vsprov.cli.verb import Settings, verb
from vsprov.engine.desired.pull import image_name
from vsprov.engine.work import WorkOptions
from vsprov.errors import UsageError
from vsprov.model.values import digests
from vsprov.render import tables
from vsprov.render.problems import counted, dump
from vsprov.render.progress import progress
from vsprov.render.screen import clean, err, out

if TYPE_CHECKING:
    from vsprov.model.kinds.image import ImageLimits
    from vsprov.model.sources import Defaults


@verb(
    """
vsprov commit web1 web-patched
vsprov commit web1 web-patched --replace -m "openssl 3.0.13"
vsprov commit web1 web-app --command "nginx -g 'daemon off;'" --env MODE=live --user www-data
vsprov get image web-patched -o yaml > images/web-patched.yaml
""",
    outputs=("text", "json"),
)
@click.argument("name", metavar="SERVER", help="Name of the server.", shell_complete=complete.servers)
@click.argument("image", metavar="IMAGE", help="Name of the new image.", shell_complete=complete.images)
@click.option("--message", "-m", metavar="TEXT", help="Why the image is made.")
@click.option("--author", "-a", metavar="TEXT", help="Who makes it.")
@click.option("--replace", is_flag=True, help="Replace an image of this name that was made by commit.")
@click.option("--command", metavar="WORDS", help="Default command of servers, with the quotes of a shell.")
@click.option(
    "--env",
    "-e",
    metavar="KEY=VALUE",
    multiple=True,
    help="Default environment variable of servers; may be repeated.",
)
@click.option("--workdir", "-w", metavar="DIR", help="Default working directory of servers.")
@click.option("--user", "-u", metavar="USER[:GROUP]", help="Default user of servers.")
@click.option("--stop-signal", metavar="SIGNAL", help="Default stop signal of servers.")
@click.option(
    "--max-size",
    metavar="SIZE",
    default="64Gi",
    show_default=True,
    help="Maximum size of the new layer; holes of sparse files count.",
)
@options.lock_option
def commit(
    settings: Settings,
    work: WorkOptions,
    name: str,
    image: str,
    message: str | None,
    author: str | None,
    replace: bool,
    max_size: str,
    **defaults: Any,
) -> None:
    """Makes an image of the image of a server and a new layer on top with what the server has written:
    owners, modes, times, hard links, attributes and deletions. Devices, FIFOs and sockets are left out, as in
    every image. What is mounted in the server, such as volumes, is not part of it, nor are its spec, its
    environment and its memory.

    A running server is frozen until its files are copied, and then continues. The image is complete or does
    not exist: if the disk is full, or the command is interrupted or killed, nothing is left of it.

    Servers of any manifest can use the image. It belongs to no set, so --prune keeps it; `vsprov image rm`
    removes it. Files that the server keeps secret, such as keys, are in the image too.
    """
    from vsprov.engine.images import commit as committing

    for option, text, most in (("--message", message, 1000), ("--author", author, 200)):
        if len(text or "") > most:
            raise UsageError(f"{option}: more than {most} characters")
    server, target = server_name(name), image_name(image)
    chosen = committing.Options(
        defaults=_defaults(**defaults),
        limits=_limits(max_size),
        message=message,
        author=author,
        replace=replace,
    )
    with progress(settings.stderr, quiet=settings.quiet) as report:
        made = committing.commit(settings.instance, server, target, chosen, report, work)
    if settings.output == "json":
        document = {
            "server": server,
            "image": target,
            "digest": digests.full(made.digest),
            "layers": made.layers,
            "bytes": made.size.bytes,
            "files": made.size.entries,
            "replaced": digests.full(made.replaced) or None,
        }
        out(dump(document))
    elif not settings.quiet:
        done = "replaced" if made.replaced else "created"
        size = f"{tables.size(made.size.bytes)} in the topmost of {counted(made.layers, 'layer')}"
        err(f"Image/{clean(target)}: {done}, {digests.short(made.digest)}: {size}")


def _limits(size: str) -> ImageLimits:
    from vsprov.model.kinds.image import ImageLimits
    from vsprov.model.values import units

    try:
        return ImageLimits(size=units.parse_bytes(size))
    except units.UnitError as error:
        raise UsageError(f"--max-size: {error}", hint=error.hint) from error


def _defaults(
    command: str | None, env: tuple[str, ...], workdir: str | None, user: str | None, stop_signal: str | None
) -> Defaults:
    """The defaults for servers in the options. Raises UsageError."""
    from vsprov.model import fields
    from vsprov.model.sources import Defaults
    from vsprov.model.values.units import UnitError

    def refuse(path: fields.Path, error: UnitError) -> None:
        option = {"user": "--user", "stopSignal": "--stop-signal"}[str(path[0])]
        raise UsageError(f"{option}: {error}", hint=error.hint)

    try:
        words = shlex.split(command) if command is not None else []
    except ValueError as error:
        raise UsageError(f"--command {command}: {error}") from error
    if command is not None and not words:
        raise UsageError("--command: empty value")
    if workdir is not None and not workdir.startswith("/"):
        raise UsageError(f"--workdir {workdir}: is not an absolute path")
    given = {"command": words, "env": options.variables(env)}
    own = {"workingDir": workdir, "user": user, "stopSignal": stop_signal}
    found = fields.read(Defaults, given | {key: value for key, value in own.items() if value}, refuse)
    assert found is not None
    return found
