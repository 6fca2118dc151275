"""What an apply is about to make, written down for the next one to clear away should it die.

The file lies in /run: after a reboot there is nothing to clear away. It holds the paths of groups, a line
each, and the spawner as "spawner PID START".
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
    """Write down which groups are about to be made and marked."""
    with open(path(instance), "w") as file:
        file.writelines(f"{group}\n" for group in groups)


def add_groups(instance: Instance, groups: Iterable[str]) -> None:
    """Write down further groups."""
    with open(path(instance), "a") as file:
        file.writelines(f"{group}\n" for group in groups)


def add_spawner(instance: Instance, spawner: Process) -> None:
    """Write down the process that holds servers at their gates."""
    with open(path(instance), "a") as file:
        file.write(f"spawner {spawner.pid} {spawner.start}\n")


def forget(instance: Instance) -> None:
    """All of it is made, or cleared away."""
    with suppress(FileNotFoundError):
        os.unlink(path(instance))


def groups(instance: Instance) -> list[str]:
    """Paths of the groups an apply that did not end was about to make.

    mkdir and mark are two system calls; a crash between them leaves a group without mark, which only this
    file tells from a stranger's.
    """
    lines = (proc.read(path(instance)) or "").splitlines()
    return [line for line in lines if line and " " not in line]


def spawner(instance: Instance) -> Process | None:
    """The spawner of an apply that did not end; it may be on its way out yet, its servers at their gates."""
    for line in (proc.read(path(instance)) or "").splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "spawner" and words[1].isdigit() and words[2].isdigit():
            return Process(int(words[1]), int(words[2]))
    return None
