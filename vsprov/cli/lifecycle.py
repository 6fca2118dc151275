"""Verbs that change a server's state and leave what it should be as it is: start, stop, restart."""

from __future__ import annotations

from typing import Annotated

import typer

from vsprov.cli import complete, selector
from vsprov.cli.options import LockTimeout, Parallelism, Selector, at_once, duration, settings_of, verb
from vsprov.engine import lifecycle
from vsprov.engine.lifecycle import Action, Choice
from vsprov.errors import UsageError
from vsprov.render.problems import dump
from vsprov.render.progress import progress
from vsprov.render.screen import clean, err, out

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME...", help="Names of servers.", show_default=False, autocompletion=complete.servers
    ),
]
All = Annotated[bool, typer.Option("--all", help="All servers of this instance.")]
Timeout = Annotated[
    str | None,
    typer.Option(
        "--timeout", "-t", metavar="TIME", help="How long each may take to end. [default: its stopTimeout]"
    ),
]
ALREADY = {"start": "is running already", "stop": "is stopped already"}


@verb(
    """
vsprov start web1
vsprov start -l tier=web
"""
)
def start(
    ctx: typer.Context,
    names: Names = None,
    labels: Selector = None,
    everything: All = False,
    parallelism: Parallelism = "32",
    lock_timeout: LockTimeout = "0s",
) -> None:
    """Starts servers as they were last applied, those others depend on first. A server that is running is
    left alone.

    The manifest stays the manifest: a server it wants stopped is stopped again by the next apply.
    """
    _change(ctx, "start", names, labels, everything, parallelism, lock_timeout)


@verb(
    """
vsprov stop web1
vsprov stop --all --timeout 30s
"""
)
def stop(
    ctx: typer.Context,
    names: Names = None,
    labels: Selector = None,
    everything: All = False,
    timeout: Timeout = None,
    parallelism: Parallelism = "32",
    lock_timeout: LockTimeout = "0s",
) -> None:
    """Sends each server its stop signal, waits its stopTimeout, and then ends what is left of it. Its files
    stay.

    The next `vsprov plan` shows a stopped server that should be running, and the next apply starts it.
    """
    _change(ctx, "stop", names, labels, everything, parallelism, lock_timeout, timeout)


@verb(
    """
vsprov restart web1
vsprov restart -l "tier in (web,api)"
"""
)
def restart(
    ctx: typer.Context,
    names: Names = None,
    labels: Selector = None,
    everything: All = False,
    timeout: Timeout = None,
    parallelism: Parallelism = "32",
    lock_timeout: LockTimeout = "0s",
) -> None:
    """Stops servers and starts them again as they were last applied. A stopped server is started."""
    _change(ctx, "restart", names, labels, everything, parallelism, lock_timeout, timeout)


def _change(
    ctx: typer.Context,
    action: Action,
    names: list[str] | None,
    labels: str | None,
    everything: bool,
    parallelism: str,
    lock_timeout: str,
    timeout: str | None = None,
) -> None:
    settings = settings_of(ctx)
    form = settings.choose("text", "json")
    if sum((bool(names), labels is not None, everything)) != 1:
        raise UsageError(f"{action}: give either names of servers, -l, or --all")
    bare = tuple(name.removeprefix("Server/").removeprefix("server/") for name in names or ())
    choice = Choice(bare, selector.parse(labels) if labels is not None else None, everything)
    microseconds = duration(timeout, "--timeout") if timeout is not None else None
    with progress(settings.stderr, quiet=settings.quiet) as report:
        changed = lifecycle.change_state(
            settings.instance,
            action,
            choice,
            report,
            timeout=microseconds,
            parallelism=at_once(parallelism),
            lock_timeout=duration(lock_timeout, "--lock-timeout") / 1_000_000,
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
