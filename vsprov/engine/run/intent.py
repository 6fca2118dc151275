"""The intent file: what an apply is about to create, so that the next one can clean up after a crash.

The file is in /run, because after a reboot there is nothing to clean up. It has one line for each group, with
its path, one for the spawner, "spawner PID START", and "has networks" if the apply changes networks: links,
tables of the firewall and sysctls may then be left although no record of a network is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from msgspec import Struct

from vsprov.engine.run import run_directory
from vsprov.plan.observed import Process
from vsprov.store.instance import Instance

NAME = "intent"  # in the run directory
_NETWORKS = "has networks"


class Intent(Struct, frozen=True):
    """What an interrupted apply was about to create: the paths of groups, and whether it changed networks.

    A crash between mkdir(2) and setxattr(2) leaves a group without a mark. Only this file distinguishes it
    from groups that vsprov did not create.
    """

    groups: tuple[str, ...] = ()
    networks: bool = False


def exists(instance: Instance) -> bool:
    """Whether there is an intent file, or something else in its place."""
    return os.path.lexists(f"{instance.run}/{NAME}")


def write(instance: Instance, groups: Iterable[str], *, networks: bool = False) -> None:
    """Write the groups that are about to be created, and whether networks are about to be changed."""
    _add(instance, [*groups, *([_NETWORKS] if networks else ())], replace=True)


def add_groups(instance: Instance, groups: Iterable[str]) -> None:
    """Add groups that are about to be created."""
    _add(instance, groups)


def add_spawner(instance: Instance, spawner: Process) -> None:
    """Add the spawner, whose children wait at their gates."""
    _add(instance, [f"spawner {spawner.pid} {spawner.start}"])


def _add(instance: Instance, lines: Iterable[str], *, replace: bool = False) -> None:
    with run_directory.opened(instance) as folder:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        with open(run_directory.open_file(instance, folder, NAME, flags), "ab") as file:
            if replace:
                file.truncate(0)
            file.writelines(os.fsencode(f"{line}\n") for line in lines)


def forget(instance: Instance) -> None:
    """Remove the file: everything has been created or cleaned up."""
    with suppress(FileNotFoundError):
        os.unlink(f"{instance.run}/{NAME}")


def read(instance: Instance) -> Intent:
    """What an interrupted apply was about to create; nothing without the file."""
    lines = _lines(instance)
    return Intent(tuple(line for line in lines if line and " " not in line), _NETWORKS in lines)


def spawner(instance: Instance) -> Process | None:
    """The spawner of an interrupted apply; it and the servers at their gates may still be running."""
    for line in _lines(instance):
        words = line.split()
        if len(words) == 3 and words[0] == "spawner" and words[1].isdigit() and words[2].isdigit():
            return Process(int(words[1]), int(words[2]))
    return None


def _lines(instance: Instance) -> list[str]:
    try:
        with (
            run_directory.opened(instance) as folder,
            open(run_directory.open_file(instance, folder, NAME, os.O_RDONLY), "rb") as file,
        ):
            return os.fsdecode(file.read()).splitlines()
    except FileNotFoundError:
        return []
