"""Verbs about the keeper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from vsprov.cli import options
from vsprov.cli.verb import Settings, verb
from vsprov.engine.work import WorkOptions
from vsprov.kernel import process
from vsprov.render.problems import dump, error_lines
from vsprov.render.progress import progress
from vsprov.render.screen import clean, err, out


@verb(
    """
vsprov keeper status
vsprov keeper status -o json
""",
    outputs=("text", "json"),
)
def status(settings: Settings) -> None:
    """Prints what the keeper of the instance does: its memory, how many servers it watches, which of them are
    started again and when, when snapshots are made by schedule, and what it could not do. Exits with 1 if
    servers run that no keeper watches.
    """
    from vsprov.engine.show import keeper

    process.require_root("keeper status: talking to the keeper")
    found = keeper.document(settings.instance)
    out(dump(found) if settings.output == "json" else "\n".join(_lines(found)))
    if found["unattended"]:
        raise click.exceptions.Exit(1)


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    from vsprov.render.tables import size

    if found["running"]:
        yield f"Keeper:    running since {found['startedAt']}, pid {found['pid']}"
        yield f"Memory:    {size(found['memoryBytes'])}"
        yield f"Servers:   {len(found['servers'])}"
        acting = f", one is running: pid {found['acting']}" if found["acting"] else ""
        yield f"Actions:   {found['actions']}{acting}"
        for each in found["restarts"]:
            yield f"Restart:   Server/{clean(each['server'])} at {each['at']}"
        for each in found["snapshots"]:
            yield f"Snapshot:  Server/{clean(each['server'])} at {each['at']}"
        for line in found["problems"]:
            yield f"Problem:   {clean(line)}"
    else:
        yield "Keeper:    not running"
    if found["unattended"]:
        yield f"Unwatched: {clean(', '.join(found['unattended']))}"
        yield "  hint: apply, start and restart start a keeper that watches them"


@verb(
    """
vsprov keeper run
vsprov --instance lab keeper run
""",
)
@options.work_options
def run(settings: Settings, work: WorkOptions) -> None:
    """Starts the keeper if there is none, and waits; when it dies, starts it again. For a service manager:
    the commands that start servers start the keeper too. Returns at once if the instance has no servers.
    """
    from vsprov.engine import supervise

    process.require_root("keeper run: starting the keeper")
    with progress(settings.stderr, quiet=settings.quiet) as report:
        found = supervise.connection(settings.instance, report, work)
    if found is not None:
        supervise.watch(settings.instance, found)
    elif not settings.quiet:
        err("There is nothing to watch: the instance has no servers.")


@verb(
    """
vsprov keeper act
""",
)
def act(settings: Settings) -> None:
    """Starts the servers again whose restart is due, and makes the snapshots that are. The keeper runs this;
    there is no need to run it by hand.
    """
    from vsprov.engine import act as engine

    process.require_root("keeper act: starting servers")
    engine.leave_keeper(settings.instance)
    with progress(settings.stderr, quiet=settings.quiet) as report:
        errors = engine.act(settings.instance, report)
    for error in errors.values():
        err("\n".join(error_lines(error)))
    if errors:
        raise click.exceptions.Exit(1)
