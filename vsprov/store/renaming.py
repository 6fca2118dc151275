"""The rename that a command is carrying out, so that the next command finishes it if that one dies.

Which server `vsprov rename` has stopped, and what it was to be called, is in no manifest. It is in a mark of
the directory of all servers, so a reboot of the host does not lose it: `vsprov boot` finishes it, too.
"""

from __future__ import annotations

import os

from msgspec import Struct

from vsprov.kernel import proc
from vsprov.store.disk import durable, marks
from vsprov.store.instance import Instance

MARK = "renaming"
_RUNS, _STOPPED = "runs", "stopped"


class Renaming(Struct, frozen=True):
    """The names of a server before and after, and whether it is to run then: it ran before, and the host has
    not been rebooted since. What runs after a reboot, `boot` decides.
    """

    old: str
    new: str
    runs: bool


def write(instance: Instance, renaming: Renaming) -> None:
    """Record what is about to be carried out, safe from power failure."""
    words = renaming.old, renaming.new, _RUNS if renaming.runs else _STOPPED, proc.boot_id()
    marks.write_mark(instance.servers, MARK, " ".join(words))
    _flush(instance)


def read(instance: Instance) -> Renaming | None:
    """What a command has begun and not ended; None if there is no such thing."""
    words = (marks.find_mark(instance.servers, MARK) or "").split()
    if len(words) != 4:
        return None
    return Renaming(words[0], words[1], words[2] == _RUNS and words[3] == proc.boot_id())


def forget(instance: Instance) -> None:
    """Remove the record: the rename was carried out, or has failed."""
    if os.path.isdir(instance.servers):
        marks.remove_mark(instance.servers, MARK)
        _flush(instance)


def _flush(instance: Instance) -> None:
    try:
        durable.flush_folder(instance.servers)
    except OSError as error:
        raise durable.failed(instance.servers, "fsync", error) from error
