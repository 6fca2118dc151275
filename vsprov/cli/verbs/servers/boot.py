"""Verbs for the start and the shutdown of the host; the units in packaging/ call them."""

from __future__ import annotations

import click
from msgspec.structs import replace

from vsprov.cli import options
from vsprov.cli.options import duration
from vsprov.cli.verb import Settings, verb
from vsprov.cli.verbs.servers.lifecycle import finish
from vsprov.engine import boot as hosts
from vsprov.engine.work import WorkOptions
from vsprov.kernel import process
from vsprov.render.progress import progress


@verb(
    """
vsprov boot
vsprov --instance lab boot --lock-timeout 1m
""",
    outputs=("text", "json"),
)
@options.work_options
@options.settle_option
@options.condition_option
def boot(settings: Settings, work: WorkOptions) -> None:
    """Starts all servers whose last manifest says that they should run, as they were last applied, with
    their networks and pools. No manifests are needed: the records in the state directory are enough.

    Servers with a higher boot.priority start first, and each server after those that it depends on. Servers
    with boot.autostart: false do not start, nor do those that were stopped by a command, unless their restart
    policy is always. If a server cannot start, the others do nevertheless; the exit
    code is then 1. Other commands can work while servers wait for a condition of a dependency.
    """
    process.require_root("boot: starting servers")
    with progress(settings.stderr, quiet=settings.quiet) as report:
        changed = hosts.boot(settings.instance, report, work=work)
    finish(settings, "start", changed, nothing="Nothing to start: no server starts with the host.")


@verb(
    """
vsprov shutdown
vsprov shutdown --timeout 1m
""",
    outputs=("text", "json"),
)
@click.option(
    "--timeout",
    "-t",
    metavar="TIME",
    help="How long all servers together may take to stop before the rest is killed. 0: kill them at once. "
    "[default: no limit besides the stopTimeout of each]",
)
@options.work_options
def shutdown(settings: Settings, work: WorkOptions, timeout: str | None) -> None:
    """Stops all servers of the instance. It does not change what the next boot starts.

    Servers stop before those that they depend on, and those with a lower boot.priority first. If a server
    cannot be stopped, the others are nevertheless; the exit code is then 1.
    """
    within = duration(timeout, "--timeout") / 1_000_000 if timeout is not None else None
    process.require_root("shutdown: stopping servers")
    with progress(settings.stderr, quiet=settings.quiet) as report:
        changed = hosts.shutdown(settings.instance, report, work=replace(work, stop_within=within))
    finish(settings, "stop", changed, nothing="Nothing to stop: the instance has no servers.")
