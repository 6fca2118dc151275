"""`vsprov cp`: copy files between the host and a server."""

from __future__ import annotations

import os
import sys

import click

from vsprov.cli import complete, options
from vsprov.cli.verb import Settings, verb
from vsprov.engine.work import WorkOptions
from vsprov.errors import UsageError
from vsprov.render.progress import progress
from vsprov.render.screen import clean, err, out
from vsprov.render.tables import amount


@verb(
    """
vsprov cp ./site web1:/srv                  # creates or updates /srv/site
vsprov cp ./site/. web1:/srv                # the contents of the directory
vsprov cp web1:/var/log/app.log .
vsprov cp -a web1:/etc ./etc-of-web1        # with owners
tar c -C ./site . | vsprov cp - web1:/srv
vsprov cp web1:/srv - | tar t
""",
    outputs=("text", "json"),
)
@click.argument("source", metavar="SRC", help="SERVER:PATH, a path, or -.", shell_complete=complete.places)
@click.argument("target", metavar="DEST", help="SERVER:PATH, a path, or -.", shell_complete=complete.places)
@click.option(
    "--archive",
    "-a",
    "keep_owners",
    is_flag=True,
    help="Keep owners: IDs in the server and on the host are the same. [default: copies belong to root]",
)
@click.option("--follow-link", "-L", "follow", is_flag=True, help="If SRC is a symbolic link, follow it.")
@options.lock_option
def cp(
    settings: Settings, work: WorkOptions, source: str, target: str, keep_owners: bool, follow: bool
) -> None:
    """Copies a file or a directory from the host to a server, or from a server to the host. The server may be
    running or stopped; a stopped server cannot be started meanwhile.

    If DEST is a directory, the copy is made in it, with the name of SRC; SRC/. copies the contents of a
    directory. Directories that exist are merged, files are replaced, each when its copy is complete. Modes,
    times, access control lists and user.* attributes are kept; devices, FIFOs and sockets are left out.

    SRC or DEST - is a tar archive, compressed or not, on standard input, or uncompressed on standard output.
    An archive that is read keeps its owners with -a only; one that is written always has the IDs of the
    server.

    Paths are resolved inside the server, with the rights of its root: no link in it leads to a file of the
    host. On the host, copies lose setuid, setgid and file capabilities; to keep these, write an archive.
    """
    from vsprov.engine.servers.files import copy

    if source == copy.ARCHIVE and os.isatty(0):
        raise UsageError("cp: standard input is a terminal", hint="tar c FILE | vsprov cp - web1:/path")
    if target == copy.ARCHIVE and os.isatty(1):
        raise UsageError("cp: standard output is a terminal", hint="vsprov cp web1:/path - | tar x")
    if target == copy.ARCHIVE and settings.output != "text":
        raise UsageError(f"cp: -o {settings.output}: standard output is the archive")
    places = copy.parse(source), copy.parse(target)
    sys.stdout.flush()
    with progress(settings.stderr, quiet=settings.quiet) as report:
        copied = copy.copy(settings.instance, *places, report, work, keep_owners=keep_owners, follow=follow)
    if settings.output == "json":
        from vsprov.render.problems import dump

        out(
            dump(
                {
                    "source": source,
                    "destination": target,
                    "files": copied.files,
                    "bytes": copied.bytes,
                    "leftOut": copied.left_out_count,
                }
            )
        )
    elif not settings.quiet:
        err(f"{clean(str(places[0]))}: copied {amount(copied.files, copied.bytes)}")
