"""`vsprov logs`: what a server wrote to its console."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from vsprov.cli import complete
from vsprov.cli.options import server_name, settings_of, verb
from vsprov.engine.guests import console
from vsprov.engine.look.observe import unknown_server
from vsprov.errors import FailedError, UsageError, reason
from vsprov.kernel import process
from vsprov.render.console import Harmless
from vsprov.store.disk import folders
from vsprov.store.instance import Instance


@verb(
    """
vsprov logs web1
vsprov logs web1 -n 20 -f
vsprov logs web1 | grep -i error
"""
)
def logs(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="The server.", show_default=False, autocompletion=complete.servers
        ),
    ],
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", "-f", help="Go on as more is written, also after a restart; Ctrl-C ends it."
        ),
    ] = False,
    tail: Annotated[
        str,
        typer.Option(
            "--tail", "-n", metavar="LINES", help="Only the last so many lines; all shows everything."
        ),
    ] = "all",
) -> None:
    """Shows what the server's processes wrote to their standard output and error since the server was made.
    On a terminal, what would control the terminal is shown as text; in a pipe or file everything is as
    it was written.
    """
    settings = settings_of(ctx)
    name, lines = server_name(name), _lines(tail)
    process.require_root("logs: reading a server's console")
    known = folders.names(settings.instance.servers)
    if name not in known:
        raise unknown_server(name, known)
    sys.stdout.flush()
    harmless = Harmless() if os.isatty(1) else None
    try:
        for block in _blocks(settings.instance, name, lines, follow):
            _write(harmless.feed(block) if harmless else block)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None  # how one ends it: nothing to be told about
    if harmless:
        _write(harmless.end())


def _lines(given: str) -> int | None:
    if given == "all":
        return None
    if not given.isascii() or not given.isdigit():
        raise UsageError(f"--tail {given}: not a number of lines", hint="write a number, or all")
    return int(given)


def _blocks(instance: Instance, name: str, lines: int | None, follow: bool) -> Iterator[bytes]:
    fd = console.open_log(instance, name)
    start = console.tail(fd, lines) if fd is not None else 0
    if follow:
        yield from console.follow(instance, name, start, fd)
    elif fd is not None:
        yield from console.read(fd, start)
        os.close(fd)


def _write(block: bytes) -> None:
    try:
        while block:
            block = block[os.write(1, block) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FailedError(f"write the output: {reason(error)}") from error
