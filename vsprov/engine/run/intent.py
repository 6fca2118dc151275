"""The intent file: what an apply is about to create, so that the next one can clean up after a crash.

The file is in /run, because after a reboot there is nothing to clean up. It has one line for each group, with
its path, and one for the spawner: "spawner PID START".
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from vsprov.kernel import proc
from vsprov.plan.observed import Process
from vsprov.store.instance import Instance


def path(instance: Instance) -> str:
    return f"{instance.run}/intent"


def write(instance: Instance, groups: Iterable[str]) -> None:
    """Write the groups that are about to be created."""
    with open(path(instance), "w") as file:
        file.writelines(f"{group}\n" for group in groups)


def add_groups(instance: Instance, groups: Iterable[str]) -> None:
    """Add groups that are about to be created."""
    with open(path(instance), "a") as file:
        file.writelines(f"{group}\n" for group in groups)


def add_spawner(instance: Instance, spawner: Process) -> None:
    """Add the spawner, whose children wait at their gates."""
    with open(path(instance), "a") as file:
        file.write(f"spawner {spawner.pid} {spawner.start}\n")


def forget(instance: Instance) -> None:
    """Remove the file: everything has been created or cleaned up."""
    with suppress(FileNotFoundError):
        os.unlink(path(instance))


def groups(instance: Instance) -> list[str]:
    """The paths of groups that an interrupted apply was about to create.

    A crash between mkdir(2) and setxattr(2) leaves a group without a mark. Only this file distinguishes it
    from groups that vsprov did not create.
    """
    lines = (proc.read(path(instance)) or "").splitlines()
    return [line for line in lines if line and " " not in line]


def spawner(instance: Instance) -> Process | None:
    """The spawner of an interrupted apply; it and the servers at their gates may still be running."""
    for line in (proc.read(path(instance)) or "").splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "spawner" and words[1].isdigit() and words[2].isdigit():
            return Process(int(words[1]), int(words[2]))
    return None
