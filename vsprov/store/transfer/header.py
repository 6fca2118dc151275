"""The header of an exported server. One that is read is hostile."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from vsprov import __version__
from vsprov.errors import ImageError
from vsprov.model.values import digests
from vsprov.model.values.patterns import NAME_PATTERN
from vsprov.plan.servers.imports import ImportedSnapshot
from vsprov.store.registry import untrusted_json as given

FORMAT = 1
UPPER, VOLUMES, SNAPSHOTS = "upper", "volumes", "snapshots"
_LAST = 253_402_300_799  # the end of the year 9999; later times have no text
_ID = re.compile(r"([0-9a-f]{32})?")


class Part(Struct, frozen=True):
    """A directory tree in the archive: its path there, the number of its entries, the bytes of its files, and
    those that they take on disk.
    """

    path: str
    files: int
    bytes: int
    disk_bytes: int


class Header(Struct, frozen=True):
    """What an archive contains. `image` is the digest of the server's image, `machine_id` "" if it had none
    yet, `created` in Unix time.
    """

    server: str
    created: int
    image: str
    machine_id: str
    parts: tuple[Part, ...]
    snapshots: tuple[ImportedSnapshot, ...] = ()

    @property
    def volumes(self) -> tuple[str, ...]:
        """The names of the volumes whose files are in the archive."""
        prefix = f"{VOLUMES}/"
        return tuple(one.path.removeprefix(prefix) for one in self.parts if one.path.startswith(prefix))

    @property
    def files(self) -> int:
        return sum(one.files for one in self.parts)

    @property
    def bytes(self) -> int:
        return sum(one.bytes for one in self.parts)

    @property
    def disk_bytes(self) -> int:
        return sum(one.disk_bytes for one in self.parts)


def to_text(header: Header) -> bytes:
    content = {
        "format": FORMAT,
        "vsprov": __version__,
        "server": header.server,
        "createdAt": header.created,
        "image": digests.full(header.image),
        "machineId": header.machine_id,
        "parts": [
            {"path": one.path, "files": one.files, "bytes": one.bytes, "diskBytes": one.disk_bytes}
            for one in header.parts
        ],
        "snapshots": [
            {
                "name": one.name,
                "createdAt": one.created,
                "image": digests.full(one.image),
                "volumes": [name for name, _ in one.volumes],
                "scheduled": one.scheduled,
            }
            for one in header.snapshots
        ],
    }
    return json.dumps(content, indent=2).encode() + b"\n"


def parse(text: bytes, label: str) -> Header:
    """The header in an archive. ImageError if it is none, or has a newer format."""
    content = given.parse(text, label)
    version = given.get(content, "format", int, label)
    if version is None:
        raise ImageError(f"{label}: format is missing")
    if version > FORMAT:
        raise ImageError(
            f"{label}: was written by a newer vsprov (format {version}, this one reads {FORMAT})",
            hint="update vsprov here",
        )
    machine_id = given.text(content, "machineId", label)
    if not _ID.fullmatch(machine_id):
        raise ImageError(f"{label}: machineId is not one")
    snapshots = tuple(_snapshot(one, label) for one in given.many(content, "snapshots", dict, label))
    parts = tuple(_part(one, label) for one in given.many(content, "parts", dict, label))
    header = Header(
        _name(content, "server", label),
        _number(content, "createdAt", label, _LAST),
        _digest(content, label),
        machine_id,
        parts,
        snapshots,
    )
    _check_parts(header, label)
    return header


def _part(content: Mapping[str, Any], label: str) -> Part:
    numbers = [_number(content, key, label) for key in ("files", "bytes", "diskBytes")]
    return Part(given.text(content, "path", label), *numbers)


def _snapshot(content: Mapping[str, Any], label: str) -> ImportedSnapshot:
    names = given.words(content, "volumes", label)
    for name in names:
        _refuse_name(name, "volumes", label)
    return ImportedSnapshot(
        _name(content, "name", label),
        _number(content, "createdAt", label, _LAST),
        _digest(content, label),
        tuple((name, name) for name in names),
        bool(given.get(content, "scheduled", bool, label)),
    )


def trees_of(one: ImportedSnapshot) -> list[str]:
    """The paths of the trees of a snapshot in the archive."""
    trees = (UPPER, *(f"{VOLUMES}/{name}" for name, _ in one.volumes))
    return [f"{SNAPSHOTS}/{one.name}/{tree}" for tree in trees]


def _check_parts(header: Header, label: str) -> None:
    """Nothing is in an archive twice, and nothing else than trees of a server."""
    kept = [tree for one in header.snapshots for tree in trees_of(one)]
    volumes = [f"{VOLUMES}/{name}" for name in header.volumes if re.fullmatch(NAME_PATTERN, name)]
    found = [one.path for one in header.parts]
    if found != [UPPER, *volumes, *kept] or len(set(found)) != len(found):
        raise ImageError(f"{label}: parts are not those of a server")


def _name(content: Mapping[str, Any], key: str, label: str) -> str:
    text = given.text(content, key, label)
    _refuse_name(text, key, label)
    return text


def _refuse_name(text: str, key: str, label: str) -> None:
    if not re.fullmatch(NAME_PATTERN, text):
        raise ImageError(f"{label}: {key} is not a name")


def _number(content: Mapping[str, Any], key: str, label: str, most: int = (1 << 63) - 1) -> int:
    number = given.get(content, key, int, label)
    if isinstance(number, bool) or number is None or not 0 <= number <= most:
        raise ImageError(f"{label}: {key} is not a number that is possible")
    return number


def _digest(content: Mapping[str, Any], label: str) -> str:
    return given.sha256_hex(given.text(content, "image", label), f"{label}: image")
