"""`vsprov logs`: the console output of a server."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import click

from vsprov.cli import complete
from vsprov.cli.options import server_name
from vsprov.cli.verb import Settings, verb
from vsprov.engine.guests import console_log
from vsprov.errors import FailedError, UsageError, reason
from vsprov.kernel import process
from vsprov.model.suggest import not_found
from vsprov.render.console import TerminalFilter
from vsprov.render.screen import clean, err
from vsprov.store.disk import folders
from vsprov.store.instance import Instance


@verb(
    """
vsprov logs web1
vsprov logs web1 -n 20 -f
vsprov logs web1 | grep -i error
"""
)
@click.argument("name", metavar="NAME", help="Name of the server.", shell_complete=complete.servers)
@click.option(
    "--follow", "-f", is_flag=True, help="Keep printing new output, also after a restart, until Ctrl-C."
)
@click.option(
    "--tail",
    "-n",
    metavar="LINES",
    default="all",
    show_default=True,
    help="Number of lines to print from the end, or all.",
)
def logs(settings: Settings, name: str, follow: bool, tail: str) -> None:
    """Prints what the processes of a server wrote to standard output and standard error since the server was
    created. On a terminal, control characters are printed as escape sequences; in a pipe or file the
    output is not changed.
    """
    name, lines = server_name(name), _lines(tail)
    process.require_root("logs: reading a server's console")
    known = folders.names(settings.instance.servers)
    if name not in known:
        raise not_found("Server", name, known)
    if problem := console_log.settle(settings.instance, name):
        err(f"vsprov: Server/{clean(name)}: the end of the log may be missing: {problem}")
    if sys.stdout is not None:
        sys.stdout.flush()
    terminal_filter = TerminalFilter() if os.isatty(1) else None
    try:
        for block in _blocks(settings.instance, name, lines, follow):
            _write(terminal_filter.feed(block) if terminal_filter else block)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(130) from None  # the usual way to end --follow: no message
    if terminal_filter:
        _write(terminal_filter.end())


def _lines(given: str) -> int | None:
    if given == "all":
        return None
    if not given.isascii() or not given.isdigit():
        raise UsageError(f"--tail {given}: not a number of lines", hint="use a number, or all")
    return int(given)


def _blocks(instance: Instance, name: str, lines: int | None, follow: bool) -> Iterator[bytes]:
    fd = console_log.open_log(instance, name)
    start = console_log.tail(fd, lines) if fd is not None else 0
    if follow:
        yield from console_log.follow(instance, name, start, fd)
    elif fd is not None:
        yield from console_log.read(fd, start)
        os.close(fd)


def _write(block: bytes) -> None:
    try:
        while block:
            block = block[os.write(1, block) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FailedError(f"write the output: {reason(error)}") from error
