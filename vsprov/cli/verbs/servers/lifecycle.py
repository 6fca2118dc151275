"""Verbs that change whether servers run, but not their manifest: start, stop, restart."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from vsprov.cli import complete, options
from vsprov.cli.options import WorkOptions, duration, server_name
from vsprov.cli.verb import Settings, verb
from vsprov.cli.verbs.apply import failed, show_exit
from vsprov.engine import lifecycle
from vsprov.engine.desired import selector
from vsprov.engine.lifecycle import Choice
from vsprov.errors import UsageError
from vsprov.kernel import process
from vsprov.plan.builder import RequestedAction
from vsprov.render.problems import dump, errors_as_json
from vsprov.render.progress import progress
from vsprov.render.screen import clean, err, out

ALREADY = {"start": "already running", "stop": "already stopped"}

timeout_option = click.option(
    "--timeout",
    "-t",
    metavar="TIME",
    help="How long to wait for each server to stop. [default: its stopTimeout]",
)


def server_choice(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose servers; the verb gets them as `choice`, a `Choice`."""

    @click.argument(
        "names", metavar="[NAME...]", nargs=-1, help="Names of servers.", shell_complete=complete.servers
    )
    @options.server_selector_option
    @click.option("--all", "everything", is_flag=True, help="All servers of the instance.")
    @wraps(function)
    def call(names: tuple[str, ...], labels: str | None, everything: bool, **rest: Any) -> None:
        if sum((bool(names), labels is not None, everything)) != 1:
            raise UsageError("specify exactly one of: names of servers, -l, --all")
        matches = selector.parse(labels) if labels is not None else None
        function(choice=Choice(tuple(map(server_name, names)), matches, everything), **rest)

    return call


@verb(
    """
vsprov start web1
vsprov start -l tier=web
""",
    outputs=("text", "json"),
)
@server_choice
@options.settle_option
@options.work_options
def start(settings: Settings, choice: Choice, work: WorkOptions, settle: float) -> None:
    """Starts servers as they were last applied, in the order of their dependencies. Other drift of these
    servers, such as a limit changed by hand, is repaired on the way. Running servers are not changed;
    frozen ones are thawed.

    The manifest is not changed: the next apply stops a server that should be stopped according to its
    manifest.
    """
    _change(settings, "start", choice, work, settle=settle)


@verb(
    """
vsprov stop web1
vsprov stop --all --timeout 30s
""",
    outputs=("text", "json"),
)
@timeout_option
@server_choice
@options.work_options
def stop(settings: Settings, choice: Choice, work: WorkOptions, timeout: str | None) -> None:
    """Sends the stop signal to each server, waits for its stopTimeout, and then kills its remaining
    processes. The files of the server are kept.

    The next plan shows a stopped server that should be running, and the next apply starts it.
    """
    _change(settings, "stop", choice, work, timeout)


@verb(
    """
vsprov restart web1
vsprov restart -l "tier in (web,api)"
""",
    outputs=("text", "json"),
)
@timeout_option
@server_choice
@options.settle_option
@options.work_options
def restart(
    settings: Settings, choice: Choice, work: WorkOptions, timeout: str | None, settle: float
) -> None:
    """Stops servers and starts them again as they were last applied, without other drift. Stopped servers
    are started.
    """
    _change(settings, "restart", choice, work, timeout, settle)


def _change(
    settings: Settings,
    action: RequestedAction,
    choice: Choice,
    work: WorkOptions,
    timeout: str | None = None,
    settle: float = 0,
) -> None:
    longest = duration(timeout, "--timeout") if timeout is not None else None
    process.require_root(f"{action}: changing the state of servers")
    with progress(settings.stderr, quiet=settings.quiet) as report:
        changed = lifecycle.change_state(
            settings.instance,
            action,
            choice,
            report,
            timeout=longest,
            parallelism=work.parallelism,
            lock_timeout=work.lock_timeout,
            settle_seconds=settle,
        )
    outcome = changed.outcome
    exits = outcome.exits
    made = [change.address for change in outcome.proposal.plan.objects if not failed(outcome, change.address)]
    if settings.output == "json":
        already = [f"Server/{name}" for name in changed.already]
        out(
            dump(
                {
                    "done": made,
                    "already": already,
                    "errors": errors_as_json(outcome.errors),
                    "exits": dict(exits),
                    "unhandledSignals": dict(outcome.unhandled),
                }
            )
        )
    elif not settings.quiet:
        for name in changed.already:
            err(f"Server/{clean(name)}: {ALREADY[action]}")
        if not made and not changed.already and not outcome.errors:
            err(f"Nothing to {action}: no server is selected.")
    for name, how in exits.items():
        show_exit(settings, name, how)
    if outcome.errors or exits:
        raise click.exceptions.Exit(1)
