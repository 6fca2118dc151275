"""Verbs about snapshots of servers: snapshot create, ls, restore, rm."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click

from vsprov.cli import complete, options
from vsprov.cli.approval import DECLINED, confirm
from vsprov.cli.options import server_name
from vsprov.cli.verb import Settings, verb
from vsprov.engine.work import WorkOptions
from vsprov.model.values import digests
from vsprov.render import tables
from vsprov.render.problems import dump
from vsprov.render.progress import progress
from vsprov.render.screen import clean, err, out
from vsprov.store.written.snapshots import Snapshot

server_argument = click.argument(
    "name", metavar="SERVER", help="Name of the server.", shell_complete=complete.servers
)

TITLES = ("SERVER", "NAME", "AGE", "SIZE", "IMAGE", "VOLUMES", "PROBLEM")
RARE = ("VOLUMES", "PROBLEM")


def _document(one: Snapshot) -> dict[str, Any]:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(one.created)) if one.created else None
    return {
        "server": one.server,
        "name": one.name,
        "createdAt": created,
        "bytes": one.bytes,
        "files": one.files,
        "image": digests.full(one.image) or None,
        "volumes": list(one.volumes),
        "scheduled": one.scheduled,
        "problem": one.problem or None,
    }


@verb(
    """
vsprov snapshot create web1                       # named after the time, such as 20260301-091244
vsprov snapshot create web1 before-upgrade
""",
    outputs=("text", "json"),
)
@server_argument
@click.argument("snapshot", metavar="[NAME]", default="", help="Name of the snapshot.")
@options.lock_option
def create(settings: Settings, work: WorkOptions, name: str, snapshot: str) -> None:
    """Saves what a server has written at one moment: its upper layer, and the volumes that it can write to,
    with owners, times, extended attributes, hard links and holes. Memory and other mounts are not part of it.

    A running server is frozen until its files are copied, and so are others that can write to its volumes;
    then they continue. On file systems with reflinks
    (btrfs, XFS) copying takes no space and little time; on others, as much of both as the files. A snapshot
    is complete or does not exist: if the disk is full, or the command is interrupted or killed, the server
    continues and nothing is left.

    Snapshots belong to their server, and are removed with it. The image of a snapshot stays in the store.
    """
    from vsprov.engine.servers.files import snapshots

    with progress(settings.stderr, quiet=settings.quiet) as report:
        made = snapshots.create(settings.instance, server_name(name), snapshot, report, work)
    if settings.output == "json":
        out(dump(_document(made)))
    elif not settings.quiet:
        err(f"Server/{made.server}: created snapshot {made.name}, {tables.size(made.bytes)}")


@verb(
    """
vsprov snapshot ls
vsprov snapshot ls web1 -o json
""",
    outputs=("text", "json"),
)
@click.argument(
    "names", metavar="[SERVER...]", nargs=-1, help="Names of servers.", shell_complete=complete.servers
)
def ls(settings: Settings, names: tuple[str, ...]) -> None:
    """Lists the snapshots of all servers, or of the named ones, the oldest first. SIZE counts blocks that
    a snapshot shares with other files.
    """
    from vsprov.engine.servers.files import snapshots

    found = snapshots.listing(settings.instance, [server_name(name) for name in names])
    if settings.output == "json":
        out(dump({"items": [_document(one) for one in found]}))
        return
    now = time.time()
    rows = tuple(
        (
            one.server,
            one.name,
            tables.duration(now - one.created) if one.created else "-",
            tables.size(one.bytes) if one.created else "-",
            digests.short(one.image) if one.image else "-",
            ",".join(one.volumes),
            one.problem or "",
        )
        for one in found
    )
    # The last columns only if they have anything.
    shown = [
        place for place, title in enumerate(TITLES) if title not in RARE or any(row[place] for row in rows)
    ]
    table = tables.Table(
        tuple(TITLES[place] for place in shown),
        tuple(tuple(row[place] for place in shown) for row in rows),
        frozenset({"AGE", "SIZE"}),
    )
    out(tables.text(table, settings.stdout))


@verb(
    """
vsprov snapshot restore web1 before-upgrade
vsprov snapshot restore web1 before-upgrade -y
vsprov snapshot restore db1 nightly-20260301-0300 --volumes
""",
    outputs=("text", "json"),
)
@server_argument
@click.argument("snapshot", metavar="NAME", help="Name of the snapshot.", shell_complete=complete.snapshots)
@click.option(
    "--volumes",
    is_flag=True,
    help="Restore the volumes of the snapshot, too. Refused if another server uses one.",
)
@click.option(
    "--volume",
    "named",
    metavar="NAME",
    multiple=True,
    help="Restore this volume, too, even if other servers, which have to be stopped, use it. Repeatable.",
    shell_complete=complete.volumes,
)
@options.yes_option
@options.work_options
def restore(
    settings: Settings,
    work: WorkOptions,
    name: str,
    snapshot: str,
    volumes: bool,
    named: tuple[str, ...],
    yes: bool,
) -> None:
    """Replaces what a server has written by a snapshot of it, which is kept. Volumes stay as they are, unless
    they are asked for. A running server is restarted,
    with the image that it had then; it stops only when the copy of the snapshot is complete. If it cannot be
    started, it gets back the files that it had, in volumes too. The spec of the server does not change.

    What the server has written since the snapshot is lost: make a snapshot of that before.
    """
    from vsprov.cli.outcomes import outcome_document
    from vsprov.cli.verbs.apply import conclude
    from vsprov.engine.servers.files import restore as restoring

    server, chosen = server_name(name), restoring.ChosenVolumes(volumes, named)
    if not yes:
        replaced = restoring.affected(settings.instance, server, snapshot, chosen)
        if not confirm(_question(server, snapshot, replaced)):
            raise click.exceptions.Exit(DECLINED)
    since = time.monotonic()
    with progress(settings.stderr, quiet=settings.quiet) as report:
        outcome = restoring.restore(settings.instance, server, snapshot, report, work, chosen)
    if settings.output == "json":
        document = {"server": server, "snapshot": snapshot, "restarted": outcome is not None}
        out(dump({**document, "outcome": outcome_document(outcome)} if outcome else document))
    if outcome is not None:
        conclude(settings, outcome, time.monotonic() - since)
    if settings.output == "text" and not settings.quiet:
        err(f"Server/{clean(server)}: restored snapshot {clean(snapshot)}")


def _question(server: str, snapshot: str, replaced: Mapping[str, list[str]]) -> str:
    """What is asked before a restore; `replaced` are volumes, with the other servers that use them."""
    lost = [f"what Server/{clean(server)} has written"]
    for volume, users in replaced.items():
        used = f", which {', '.join(map(clean, users))} use" if users else ""
        lost.append(f"volume {clean(volume)}{used}")
    return f"Replace {' and '.join(lost)} by snapshot {clean(snapshot)}?"


@verb(
    """
vsprov snapshot rm web1 before-upgrade
vsprov snapshot rm web1 before-upgrade after-upgrade -y
"""
)
@server_argument
@click.argument(
    "chosen",
    metavar="NAME...",
    nargs=-1,
    required=True,
    help="Names of snapshots.",
    shell_complete=complete.snapshots,
)
@options.yes_option
@options.lock_option
def rm(settings: Settings, work: WorkOptions, name: str, chosen: tuple[str, ...], yes: bool) -> None:
    """Removes snapshots of a server, with the copies of volumes in them. Their images stay in the store until
    the next apply.
    """
    from vsprov.engine.servers.files import snapshots

    server, names = server_name(name), list(dict.fromkeys(chosen))
    found = snapshots.named(settings.instance, server, names)
    if not yes:
        what = f"snapshot {clean(names[0])}" if len(names) == 1 else f"{len(names)} snapshots"
        size = tables.size(sum(one.bytes for one in found))
        if not confirm(f"Remove {what} of Server/{clean(server)}, with {size}?"):
            raise click.exceptions.Exit(DECLINED)
    with progress(settings.stderr, quiet=settings.quiet) as report:
        snapshots.remove(settings.instance, server, names, report, work)
    if not settings.quiet:
        for one in found:
            err(f"Server/{clean(server)}: removed snapshot {clean(one.name)}, {tables.size(one.bytes)}")
