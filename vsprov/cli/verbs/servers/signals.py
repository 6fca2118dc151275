"""Verbs that act on the processes of running servers: kill, freeze, thaw."""

from __future__ import annotations

import click

from vsprov.cli import options
from vsprov.cli.results import Result, Words, conclude
from vsprov.cli.verb import Settings, verb
from vsprov.cli.verbs.servers.choice import server_choice
from vsprov.engine.desired.choice import Choice
from vsprov.engine.work import WorkOptions
from vsprov.errors import UsageError
from vsprov.kernel import process
from vsprov.model.values.names import SIGNALS, parse_signal
from vsprov.model.values.units import UnitError
from vsprov.render.progress import progress


def _complete_signal(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    return [name for name in SIGNALS if name.startswith(typed.upper().removeprefix("SIG"))]


@verb(
    """
vsprov kill web1
vsprov kill -s HUP web1                     # the command rereads its configuration
vsprov kill -s TERM --all-processes -l tier=web
""",
    outputs=("text", "json"),
)
@click.option(
    "--signal",
    "-s",
    "name",
    metavar="SIGNAL",
    default="KILL",
    show_default=True,
    help="Name or number of the signal: HUP, SIGUSR1, RTMIN+3, 15, …",
    shell_complete=_complete_signal,
)
@click.option(
    "--all-processes", "everywhere", is_flag=True, help="Signal all processes of the server, not only pid 1."
)
@server_choice
def kill(settings: Settings, choice: Choice, name: str, everywhere: bool) -> None:
    """Sends a signal to pid 1 of each server. It takes no lock, so it works while another command is busy.

    A server that ends by it counts as ended by itself, as if the signal had come from anywhere else: `get`
    shows how it ended, and the next apply starts it again. To stop servers use `vsprov stop`.
    """
    from vsprov.engine.servers import signals

    try:
        word = parse_signal(name)
    except UnitError as error:
        raise UsageError(f"--signal: {error}", hint=error.hint) from error
    process.require_root("kill: sending signals to servers")
    acted = signals.kill(settings.instance, choice, word, everywhere=everywhere)
    done = "killed" if word == "KILL" else f"sent SIG{word}"
    conclude(settings, Words("kill", "", done), Result(acted.done, acted.already, acted.errors))


@verb(
    """
vsprov freeze web1
vsprov freeze -l tier=batch
""",
    outputs=("text", "json"),
)
@server_choice
@options.lock_option
def freeze(settings: Settings, choice: Choice, work: WorkOptions) -> None:
    """Stops all processes of servers from running, without ending them (cgroup.freeze): they keep their
    memory, files and connections. `vsprov thaw` continues them.

    The next plan shows a frozen server that should be running, and the next apply thaws it.
    """
    from vsprov.engine.servers import freezer

    process.require_root("freeze: stopping processes of servers")
    with progress(settings.stderr, quiet=settings.quiet) as report:
        acted = freezer.freeze(settings.instance, choice, report, work)
    words = Words("freeze", "already frozen", "frozen")
    conclude(settings, words, Result(acted.done, acted.already, acted.errors))


@verb(
    """
vsprov thaw web1
vsprov thaw --all
""",
    outputs=("text", "json"),
)
@server_choice
@options.lock_option
def thaw(settings: Settings, choice: Choice, work: WorkOptions) -> None:
    """Continues the processes of frozen servers. Unlike start, it changes nothing else."""
    from vsprov.engine.servers import freezer

    process.require_root("thaw: continuing processes of servers")
    with progress(settings.stderr, quiet=settings.quiet) as report:
        acted = freezer.thaw(settings.instance, choice, report, work)
    words = Words("thaw", "not frozen", "thawed")
    conclude(settings, words, Result(acted.done, acted.already, acted.errors))
