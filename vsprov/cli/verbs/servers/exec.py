"""Verbs that run a program in a server: exec, shell."""

from __future__ import annotations

import os
from collections.abc import Callable

import click

from vsprov.cli import complete, options
from vsprov.cli.options import server_name
from vsprov.cli.verb import Settings, Verb, verb
from vsprov.engine.guests.commands import join
from vsprov.errors import UsageError
from vsprov.render.screen import err


class ExecVerb(Verb):
    """Options end at the name of the server, or at "--" if there is one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_interspersed_args = "--" in args
        return super().parse_args(ctx, args)


def process_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options about the process to start in a server."""
    for option in (
        click.option(
            "--env", "-e", metavar="KEY=VALUE", multiple=True, help="Environment variable; may be repeated."
        ),
        click.option(
            "--workdir", "-w", metavar="DIR", help="Working directory. [default: that of the server's init]"
        ),
        click.option(
            "--user",
            "-u",
            metavar="USER[:GROUP]",
            help="User and group, by name or number in the server. [default: those of the server's init]",
        ),
    ):
        option(function)
    return function


server_argument = click.argument(
    "name", metavar="NAME", help="Name of the server.", shell_complete=complete.servers
)


@verb(
    """
vsprov exec web1 -- ls -l /var/log
vsprov exec -it web1 -- bash
echo "select 1" | vsprov exec db1 --user postgres -- psql
""",
    cls=ExecVerb,
)
@server_argument
@click.argument("command", metavar="-- COMMAND [ARG]...", nargs=-1, required=True, help="Command to run.")
@process_options
@click.option(
    "--tty", "-t", is_flag=True, help="Allocate a terminal. [default: if input and output are terminals]"
)
@click.option("--no-tty", "-T", is_flag=True, help="Do not allocate a terminal.")
@click.option(
    "--interactive",
    "-i",
    is_flag=True,
    help="Accepted for compatibility; standard input is always passed on.",
)
def execute(
    settings: Settings,
    name: str,
    command: tuple[str, ...],
    user: str | None,
    workdir: str | None,
    env: tuple[str, ...],
    tty: bool,
    no_tty: bool,
    interactive: bool,
) -> None:
    """Runs a command in a running server, with the server's confinement and limits. Its standard input,
    output and error are a terminal of the server, or pipes that vsprov copies to and from its own.

    The exit code is that of the command: 128 + N if signal N ended it, 127 if the command was not found,
    126 if it could not be executed. vsprov ends with the command: processes that the command leaves running
    lose their input and output, unless these were redirected.

    Input from a pipe or a terminal is read ahead, as by ssh, even if the command reads none: redirect it from
    /dev/null in a loop that reads the same input.
    """
    if tty and no_tty:
        raise UsageError("exec: -t and -T cannot be combined")
    terminal = tty or (not no_tty and os.isatty(0) and os.isatty(1))
    code = join.run(
        settings.instance,
        server_name(name),
        command,
        user=user,
        cwd=workdir,
        env=_environment(env, terminal),
        tty=terminal,
    )
    raise click.exceptions.Exit(code)


@verb(
    """
vsprov shell web1
vsprov shell web1 --user www-data
"""
)
@server_argument
@process_options
def shell(settings: Settings, name: str, user: str | None, workdir: str | None, env: tuple[str, ...]) -> None:
    """Opens a login shell in a running server: /bin/bash, or /bin/sh if the server has no bash. The exit code
    is that of the shell.

    In a system server (init.style other than exec) `su --login` opens it, with a session of PAM, so that user
    services can be reached. With --env or --workdir, or if su cannot log in, it is a shell without a session.
    """
    terminal = os.isatty(0) and os.isatty(1)
    code = join.shell(
        settings.instance,
        server_name(name),
        lambda line: err(f"vsprov: {line}"),
        user=user,
        cwd=workdir,
        env=_environment(env, terminal),
        tty=terminal,
    )
    raise click.exceptions.Exit(code)


def _environment(given: tuple[str, ...], terminal: bool) -> dict[str, str]:
    """The variables to set; on a terminal also TERM."""
    own = {"TERM": os.environ["TERM"]} if terminal and os.environ.get("TERM") else {}
    return {**own, **options.variables(given)}
