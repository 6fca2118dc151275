"""Verbs that change whether servers run, but not their manifest: start, stop, restart."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from vsprov.cli import options
from vsprov.cli.options import duration
from vsprov.cli.verb import Settings, verb
from vsprov.cli.verbs.servers.choice import server_choice
from vsprov.engine.run import spawn
from vsprov.engine.work import WorkOptions
from vsprov.kernel import process

if TYPE_CHECKING:
    from vsprov.engine.desired.choice import Choice
    from vsprov.engine.lifecycle import Changed
    from vsprov.plan.builder import RequestedAction

ALREADY = {"start": "already running", "stop": "already stopped"}

timeout_option = click.option(
    "--timeout",
    "-t",
    metavar="TIME",
    help="How long to wait for each server to stop before it is killed. 0: do not wait. "
    "[default: its stopTimeout]",
)


@verb(
    """
vsprov start web1
vsprov start -l tier=web
vsprov start --rescue web1                  # then: vsprov shell --user root web1
""",
    outputs=("text", "json"),
)
@click.option(
    "--rescue",
    is_flag=True,
    help="Start stopped servers for their repair: with a shell that waits instead of their own init, and "
    "without restarts and probes.",
)
@server_choice
@options.work_options
@options.settle_option
@options.wait_option
def start(settings: Settings, choice: Choice, work: WorkOptions, rescue: bool) -> None:
    """Starts servers as they were last applied, in the order of their dependencies. Other drift of these
    servers, such as a limit changed by hand, is repaired on the way. Running servers are not changed;
    frozen ones are thawed, and those in rescue are restarted.

    The manifest is not changed: the next apply stops a server that should be stopped according to its
    manifest.
    """
    _change(settings, "start", choice, work, rescue=rescue)


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
@options.work_options
@options.settle_option
@options.wait_option
def restart(settings: Settings, choice: Choice, work: WorkOptions, timeout: str | None) -> None:
    """Stops servers and starts them again as they were last applied, without other drift. Stopped servers
    are started.
    """
    _change(settings, "restart", choice, work, timeout)


def _change(
    settings: Settings,
    action: RequestedAction,
    choice: Choice,
    work: WorkOptions,
    timeout: str | None = None,
    rescue: bool = False,
) -> None:
    longest = duration(timeout, "--timeout") if timeout is not None else None
    process.require_root(f"{action}: changing the state of servers")
    with spawn.ahead() if action != "stop" else nullcontext() as spawner:
        from vsprov.engine import lifecycle
        from vsprov.render.progress import progress

        with progress(settings.stderr, quiet=settings.quiet) as report:
            changed = lifecycle.change_state(
                settings.instance,
                action,
                choice,
                report,
                timeout=longest,
                work=replace(work, spawner=spawner),
                rescue=rescue,
            )
    nothing = f"Nothing to {action}: the instance has no servers." if choice.everything else ""
    finish(settings, action, changed, "already in rescue" if rescue else "", nothing)


def finish(
    settings: Settings, action: RequestedAction, changed: Changed, same: str = "", nothing: str = ""
) -> None:
    """Print what became of servers that were to start or stop; `same` is said of those that are as wanted,
    `nothing` if there are none. Exit code 1 if one failed.
    """
    from vsprov.cli.outcomes import failed
    from vsprov.cli.results import Result, Words, conclude

    outcome = changed.outcome
    ended = {seen.name for seen in outcome.proposal.now.observed.servers.values() if seen.ended}
    made = [change.address for change in outcome.proposal.plan.objects if not failed(outcome, change.address)]
    already = [f"Server/{name}" for name in changed.already]
    result = Result(made, already, outcome.errors, outcome.exits, outcome.unhandled, outcome.unready)
    words = Words(action, same or ALREADY.get(action, ""), nothing=nothing)
    if action == "stop":
        words = replace(words, others={f"Server/{name}": "already exited" for name in ended})
    conclude(settings, words, result)
