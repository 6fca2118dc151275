"""Records of networks on disk: `<root>/networks/<name>.json` with an owner mark, sealed, as last applied.

The kernel shows what exists of a network. The record says to which set it belongs, and what cannot be read
back: its spec, and what the host had before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from vsprov.errors import reason
from vsprov.store.disk import durable, folders, marks, ownership, sealed
from vsprov.store.disk.marks import Owner
from vsprov.store.instance import Instance

_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """The record of a network.

    `owner` is None for a file that vsprov did not create. `applied` is what was last passed to `write`; None
    if it is not readable, and then `problem` says why.
    """

    name: str
    owner: Owner | None
    applied: Mapping[str, Any] | None = None
    problem: str = ""


def observe(instance: Instance) -> dict[str, NetworkRecord]:
    """All records by name. Damage is reported in `problem`, not raised."""
    files = (file for file in folders.names(instance.networks) if file.endswith(_SUFFIX))
    return {
        file.removesuffix(_SUFFIX): _observe(file.removesuffix(_SUFFIX), f"{instance.networks}/{file}")
        for file in files
    }


def _observe(name: str, path: str) -> NetworkRecord:
    try:
        owner = marks.read_owner(path)
    except OSError as error:
        return NetworkRecord(name, None, problem=f"owner mark: {reason(error)}")
    return NetworkRecord(name, owner, *sealed.read(path))


def write(instance: Instance, name: str, owner: Owner, applied: dict[str, Any]) -> None:
    """Record what was applied, safe from power failure. ConflictError if the file has another owner."""
    path = folders.place(instance.networks, name, _SUFFIX)
    with suppress(FileNotFoundError):
        ownership.refuse_foreign(path, instance.name, f"Network/{name}")
    folders.prepare(instance, also=(instance.networks,))
    durable.write_file(path, sealed.seal(applied), owner=owner)


def remove(instance: Instance, name: str) -> None:
    """Remove a record, if it exists. ConflictError if it belongs to another instance."""
    path = folders.place(instance.networks, name, _SUFFIX)
    try:
        ownership.refuse_foreign(path, instance.name, f"Network/{name}")
        os.unlink(path)
        durable.flush_folder(instance.networks)
    except FileNotFoundError:
        return
    except OSError as error:
        raise durable.failed(path, "remove", error) from error
