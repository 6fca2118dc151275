"""Records of networks and pools on disk, as last applied: a sealed file for each, with an owner mark.

They are `<root>/networks/<name>.json` and `<root>/pools/<name>.json`. The kernel shows what exists of an
object. The record says to which set it belongs and what cannot be read back, also after a reboot: its spec,
and what the host had before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from msgspec import Struct

from vsprov.errors import reason
from vsprov.store.disk import durable, folders, marks, ownership, sealed
from vsprov.store.disk.marks import Owner
from vsprov.store.instance import Instance

_SUFFIX = ".json"


class Record(Struct, frozen=True):
    """The record of an object.

    `owner` is None for a file that vsprov did not create. `applied` is what was last passed to `write`; None
    if it is not readable, and then `problem` says why.
    """

    name: str
    owner: Owner | None
    applied: Mapping[str, Any] | None = None
    problem: str = ""


def _folder(instance: Instance, kind: str) -> str:
    return {"Network": instance.networks, "Quota": instance.pools}[kind]


def observe(instance: Instance, kind: str) -> dict[str, Record]:
    """All records of a kind by name. Damage is reported in `problem`, not raised."""
    folder = _folder(instance, kind)
    files = (file for file in folders.names(folder) if file.endswith(_SUFFIX))
    return {
        file.removesuffix(_SUFFIX): _observe(file.removesuffix(_SUFFIX), f"{folder}/{file}") for file in files
    }


def _observe(name: str, path: str) -> Record:
    try:
        owner = marks.read_owner(path)
    except OSError as error:
        return Record(name, None, problem=f"owner mark: {reason(error)}")
    return Record(name, owner, *sealed.read(path))


def write(instance: Instance, kind: str, name: str, owner: Owner, applied: dict[str, Any]) -> None:
    """Record what was applied, safe from power failure. ConflictError if the file has another owner."""
    folder = _folder(instance, kind)
    path = folders.place(folder, name, _SUFFIX)
    with suppress(FileNotFoundError):
        ownership.refuse_foreign(path, instance.name, f"{kind}/{name}")
    folders.prepare(instance, also=(folder,))
    durable.write_file(path, sealed.seal(applied), owner=owner)


def remove(instance: Instance, kind: str, name: str) -> None:
    """Remove a record, if it exists. ConflictError if it belongs to another instance."""
    folder = _folder(instance, kind)
    path = folders.place(folder, name, _SUFFIX)
    try:
        ownership.refuse_foreign(path, instance.name, f"{kind}/{name}")
        os.unlink(path)
        durable.flush_folder(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise durable.failed(path, "remove", error) from error
