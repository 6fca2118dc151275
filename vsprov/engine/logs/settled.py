"""Whether the logs of running servers are complete."""

from __future__ import annotations

import os
from collections.abc import Collection

from vsprov.engine.run import keeper
from vsprov.store.disk import folders
from vsprov.store.instance import Instance

SECONDS = 2.0  # for the keeper


def settle(instance: Instance, names: Collection[str]) -> dict[str, str]:
    """Wait until the keeper has copied what these servers have written so far; {server: why it cannot}."""
    connection = keeper.connect(instance, SECONDS)
    if connection is None:
        why = "no keeper answers; apply, start and restart start it"
        return {name: why for name in names if _is_written(instance, name)}
    try:
        problems = connection.settle(next(iter(names)) if len(names) == 1 else None, SECONDS)["problems"]
    except keeper.KeeperGone as error:
        return {name: str(error) for name in names if _is_written(instance, name)}
    finally:
        connection.close()
    found: dict[str, str] = {}
    for line in problems:
        name, _, why = line.removeprefix("Server/").partition(": ")
        if name in names:
            found[name] = f"{found[name]}; {why}" if name in found else why
    return found


def unattended(instance: Instance) -> list[str]:
    """The running servers whose output no keeper copies to their logs."""
    written = [name for name in folders.names(instance.servers) if _is_written(instance, name)]
    connection = keeper.connect(instance, SECONDS) if written else None
    if connection is None:
        return written
    try:
        kept = frozenset(connection.settle("", SECONDS)["kept"])
    except keeper.KeeperGone:
        kept = frozenset()
    finally:
        connection.close()
    return [name for name in written if name not in kept]


def _is_written(instance: Instance, name: str) -> bool:
    """Whether a process has the console open; fifo(7): otherwise it cannot be opened for writing alone."""
    try:
        os.close(os.open(f"{instance.servers}/{name}/console", os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW))
    except OSError:  # ENXIO, or ENOENT for one that never ran
        return False
    return True
