"""Where a copy goes, by the rules of cp(1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..refused import Refused

FOLDER, FILE, ABSENT = "folder", "file", "absent"  # what is at a path, with symbolic links followed


class Source(NamedTuple):
    """What is copied: its name, whether it is a directory, and whether only the contents of that are copied.

    The name is "" for an archive whose members are copied each under its own name.
    """

    name: str
    is_folder: bool
    contents: bool = False


def place(target: str, source: Source, kind: Callable[[str], str]) -> str:
    """The path of the copy; `kind` returns what is at a path. Refused if it cannot be there.

    >>> place("/srv", Source("a.txt", False), {"/srv": FOLDER}.__getitem__)
    '/srv/a.txt'
    """
    found = kind(target)
    if not source.name:
        if found != FOLDER:
            raise Refused(
                f"{target!r}: is not a directory", "an archive is unpacked in an existing directory"
            )
        return target
    if found == FOLDER and not source.contents:
        target = f"{target.rstrip('/')}/{source.name}"
        found = kind(target)
        if found == FOLDER and not source.is_folder:
            raise Refused(f"{target!r}: is a directory", "specify the path of a file")
    elif found == ABSENT:
        above = target.rstrip("/").rpartition("/")[0] or "/"
        if kind(above) != FOLDER:
            raise Refused(f"{above!r}: no such directory")
        if target.endswith("/") and not source.is_folder:
            raise Refused(f"{target!r}: no such directory")
    if found == FILE and source.is_folder:
        raise Refused(f"{target!r}: is not a directory")
    if found == FILE and target.endswith("/"):
        raise Refused(f"{target!r}: is not a directory")
    return target
