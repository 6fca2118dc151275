"""Verbs that change a server's state and leave what it should be as it is: start, stop, restart."""

from __future__ import annotations

from typing import Annotated

import typer

from vsprov.cli import complete
from vsprov.cli.options import (
    Selector,
    Verb,
    duration,
    server_name,
    settings,
    settings_of,
    verb,
    work,
    work_of,
)
from vsprov.engine import lifecycle
from vsprov.engine.desired import selector
from vsprov.engine.lifecycle import Action, Choice
from vsprov.errors import UsageError
from vsprov.kernel import process
from vsprov.render.problems import dump
from vsprov.render.progress import progress
from vsprov.render.screen import clean, err, out

Timeout = Annotated[
    str | None,
    typer.Option(
        "--timeout", "-t", metavar="TIME", help="How long each may take to end. [default: its stopTimeout]"
    ),
]
ALREADY = {"start": "is running already", "stop": "is stopped already"}


def choice(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...", help="Names of servers.", show_default=False, autocompletion=complete.servers
        ),
    ] = None,
    labels: Selector = None,
    everything: Annotated[bool, typer.Option("--all", help="All servers of this instance.")] = False,
) -> Choice:
    if sum((bool(names), labels is not None, everything)) != 1:
        raise UsageError("give either names of servers, -l, or --all")
    bare = tuple(map(server_name, names or ()))
    return Choice(bare, selector.parse(labels) if labels is not None else None, everything)


class ServersVerb(Verb):
    """A verb that is about some servers."""

    shared = (choice, work, settings)


@verb(
    """
vsprov start web1
vsprov start -l tier=web
""",
    ServersVerb,
)
def start(ctx: typer.Context) -> None:
    """Starts servers as they were last applied, those others depend on first. A server that is running is
    left alone.

    The manifest stays the manifest: a server it wants stopped is stopped again by the next apply.

    Outputs (-o): text, json.
    """
    _change(ctx, "start")


@verb(
    """
vsprov stop web1
vsprov stop --all --timeout 30s
""",
    ServersVerb,
)
def stop(ctx: typer.Context, timeout: Timeout = None) -> None:
    """Sends each server its stop signal, waits its stopTimeout, and then ends what is left of it. Its files
    stay.

    The next `vsprov plan` shows a stopped server that should be running, and the next apply starts it.

    Outputs (-o): text, json.
    """
    _change(ctx, "stop", timeout)


@verb(
    """
vsprov restart web1
vsprov restart -l "tier in (web,api)"
""",
    ServersVerb,
)
def restart(ctx: typer.Context, timeout: Timeout = None) -> None:
    """Stops servers and starts them again as they were last applied. A stopped server is started.

    Outputs (-o): text, json.
    """
    _change(ctx, "restart", timeout)


def _change(ctx: typer.Context, action: Action, timeout: str | None = None) -> None:
    settings, work = settings_of(ctx), work_of(ctx)
    form = settings.choose("text", "json")
    longest = duration(timeout, "--timeout") if timeout is not None else None
    process.require_root(f"{action}: changing what servers do")
    with progress(settings.stderr, quiet=settings.quiet) as report:
        changed = lifecycle.change_state(
            settings.instance,
            action,
            ctx.obj["choice"],
            report,
            timeout=longest,
            parallelism=work.parallelism,
            lock_timeout=work.lock_timeout,
        )
    outcome = changed.outcome
    ended = outcome.exits if action != "stop" else {}
    made = [change.address for change in outcome.draft.plan.objects if change.key not in outcome.errors]
    if form == "json":
        errors = [
            {"address": key, "message": str(error), "hint": error.hint}
            for key, error in outcome.errors.items()
        ]
        out(
            dump(
                {
                    "done": made,
                    "already": [f"Server/{name}" for name in changed.already],
                    "errors": errors,
                    "exits": dict(ended),
                }
            )
        )
    elif not settings.quiet:
        for name in changed.already:
            err(f"Server/{clean(name)}: {ALREADY[action]}")
        if not made and not changed.already and not outcome.errors:
            err(f"Nothing to {action}: no server is selected.")
    for name, how in ended.items():
        err(f"vsprov: Server/{clean(name)}: its command {clean(how)}\n  hint: vsprov logs {clean(name)}")
    if outcome.errors or ended:
        raise typer.Exit(1)
