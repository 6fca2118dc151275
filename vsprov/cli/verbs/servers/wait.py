"""`vsprov wait`: wait until servers are in a state."""

from __future__ import annotations

from typing import Any

import click

from vsprov.cli.options import duration
from vsprov.cli.verb import Settings, verb
from vsprov.cli.verbs.servers.choice import server_choice
from vsprov.engine.desired.choice import Choice
from vsprov.engine.servers import waiting
from vsprov.engine.servers.waiting import STATES
from vsprov.errors import UsageError
from vsprov.kernel import process
from vsprov.model.suggest import did_you_mean
from vsprov.render.problems import dump
from vsprov.render.screen import clean, out


def _complete(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    return [state for state in STATES if state.startswith(typed)]


@verb(
    """
vsprov wait web1                            # until it runs
vsprov wait --for exited migration --timeout 10m
vsprov wait --for deleted -l tier=web
""",
    outputs=("text", "json"),
)
@click.option(
    "--for",
    "state",
    metavar="STATE",
    default="running",
    show_default=True,
    help=f"{'; '.join(f'{name}: {state.doc}' for name, state in STATES.items())}.",
    shell_complete=_complete,
)
@click.option(
    "--timeout",
    "-t",
    metavar="TIME",
    help="How long to wait. 0: only look. [default: without a limit]",
)
@server_choice
def wait(settings: Settings, choice: Choice, state: str, timeout: str | None) -> None:
    """Waits until each of the servers has been in a state, and prints it, with the exit code of a server that
    has ended. A server that is in the state already is not waited for. Nothing is polled: the kernel
    announces all changes.

    Exit code 1 after the timeout, and if a server is removed or does not exist, unless that is what was
    waited for.
    """
    wanted = STATES.get(state.lower())
    if wanted is None:
        hint = f"choose from {', '.join(STATES)}"
        raise UsageError(f"--for {state}: no such state{did_you_mean(state, STATES)}", hint=hint)
    seconds = None if timeout is None else duration(timeout, "--timeout") / 1_000_000
    process.require_root("wait: reading the state of servers")
    reached: list[dict[str, Any]] = []
    try:
        for one in waiting.wait(settings.instance, _names(settings, choice), wanted, seconds):
            shown = one.seen.state if one.seen else "Deleted"
            reached.append({"address": f"Server/{one.name}", "state": shown, "lastExit": one.last_exit})
            if settings.output == "text" and not settings.quiet:
                out(f"Server/{clean(one.name)}: {clean(shown)}")
    finally:
        if settings.output == "json":
            out(dump({"items": reached}))


def _names(settings: Settings, choice: Choice) -> list[str]:
    """The names of the servers, of those that exist if they are chosen by labels or all."""
    if choice.names:
        return list(choice.names)
    from vsprov.engine.look import situation

    observed = situation.look(settings.instance).observed
    return [seen.name for seen in choice.of(observed, settings.instance.name)]
