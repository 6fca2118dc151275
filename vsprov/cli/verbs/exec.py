"""Verbs that run a program in a server: exec, shell."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any

import typer

from vsprov.cli import complete
from vsprov.cli.options import Verb, server_name, settings_of, verb
from vsprov.engine.guests import join
from vsprov.errors import UsageError

_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=", re.ASCII)
# First the words before "--", so that the options of the command stay its own.
Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="The server.", show_default=False, autocompletion=complete.servers),
]
User = Annotated[
    str | None,
    typer.Option(
        "--user",
        "-u",
        metavar="USER[:GROUP]",
        help="Whom to run as: names or numbers inside. [default: the server's own]",
    ),
]
WorkDir = Annotated[
    str | None,
    typer.Option("--workdir", "-w", metavar="DIR", help="Where to run. [default: the server's own]"),
]
Env = Annotated[
    list[str] | None,
    typer.Option("--env", "-e", metavar="KEY=VALUE", help="Set in the environment; may be repeated."),
]


class ExecVerb(Verb):
    """Options end at the name of the server, or at "--" if there is one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.allow_interspersed_args = "--" in args
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


@verb(
    """
vsprov exec web1 -- ls -l /var/log
vsprov exec -it web1 -- bash
echo "select 1" | vsprov exec db1 --user postgres -- psql
""",
    ExecVerb,
)
def execute(
    ctx: typer.Context,
    name: Name,
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND [ARG]...", help="What to run.", show_default=False)
    ],
    user: User = None,
    workdir: WorkDir = None,
    env: Env = None,
    tty: Annotated[
        bool,
        typer.Option(
            "--tty", "-t", help="Give it a terminal. [default: when input and output are terminals]"
        ),
    ] = False,
    no_tty: Annotated[bool, typer.Option("--no-tty", "-T", help="Give it no terminal.")] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Pass our input on, which is always done.")
    ] = False,
) -> None:
    """Runs a command in a running server, confined and limited as the server is, with our standard input,
    output and error.

    The exit code is the command's: 128 + N when signal N ended it, 127 when it is not found, 126 when it
    cannot be executed.
    """
    settings = settings_of(ctx)
    if tty and no_tty:
        raise UsageError("exec: -t and -T: one or the other")
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
    raise typer.Exit(code)


@verb(
    """
vsprov shell web1
vsprov shell web1 --user www-data
"""
)
def shell(
    ctx: typer.Context, name: Name, user: User = None, workdir: WorkDir = None, env: Env = None
) -> None:
    """Opens a login shell in a running server: /bin/bash, or /bin/sh where the server has no bash. Its exit
    code is ours.
    """
    settings = settings_of(ctx)
    terminal = os.isatty(0) and os.isatty(1)
    code = join.shell(
        settings.instance,
        server_name(name),
        user=user,
        cwd=workdir,
        env=_environment(env, terminal),
        tty=terminal,
    )
    raise typer.Exit(code)


def _environment(given: list[str] | None, terminal: bool) -> dict[str, str]:
    """The variables to set; on a terminal also what kind it is."""
    out = {"TERM": os.environ["TERM"]} if terminal and os.environ.get("TERM") else {}
    for item in given or ():
        if not _ENV.match(item) or "\0" in item:
            raise UsageError(f"--env {item!r}: not a variable", hint="write KEY=VALUE")
        key, _, value = item.partition("=")
        out[key] = value
    return out
