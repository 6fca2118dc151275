"""The record of what was applied to a server, kept on its home cgroup and in its directory.

{"spec": canonical spec, "labels": {…}, "annotations": {…}, "image": digest}, as canonical JSON. A server with
interfaces also has "addresses": {interface: [address in CIDR notation, …]}, and if it was renamed "formerly":
its first name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from vsprov.model import fields, objects
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object

if TYPE_CHECKING:
    from vsprov.plan.steps import WriteMark


def record(
    server: Object,
    image_digest: str,
    addresses: Mapping[str, Sequence[str]] | None = None,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The record of a server with the image of this digest, and the addresses of its interfaces. What only
    records have, its first name, is taken over from the record `before`.

    It does not include the key `state`, which is compared with the kernel, so that `vsprov stop` does not
    make the record wrong.
    """
    assert isinstance(server.spec, Server)
    spec = fields.write(server.spec)
    del spec["state"]
    given = {"addresses": {name: list(each) for name, each in addresses.items()}} if addresses else {}
    return {
        "spec": spec,
        "labels": dict(server.labels),
        "annotations": dict(server.annotations),
        "image": image_digest,
        **given,
        **({"formerly": before["formerly"]} if before and "formerly" in before else {}),
    }


def to_text(applied: Mapping[str, Any]) -> str:
    """A record as canonical JSON."""
    return json.dumps(applied, sort_keys=True, separators=(",", ":"))


# An extended attribute holds 64 kB. A longer record is only on disk, and the mark has its checksum.
LONGEST_MARK = 48_000
_ON_DISK = "@disk"


def is_whole(text: str) -> bool:
    """Whether a mark holds the record itself, and not only the checksum of the one on disk."""
    return len(text) <= LONGEST_MARK


def seal(text: str) -> str:
    """The text of a mark: the record after its checksum, which shows whether the mark was edited."""
    checksum = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{checksum} {text if is_whole(text) else _ON_DISK}"


def unseal(mark: str | None, disk: str | None) -> str | None:
    """The record in a mark; None if it is absent or was edited. `disk` is the record on disk."""
    checksum, _, text = (mark or "").partition(" ")
    if text == _ON_DISK:
        text = disk or ""
    return text if text and seal(text).startswith(checksum + " ") else None


def mark_step(group: str, text: str, before: str | None = None) -> WriteMark:
    """The step that writes the record to a home group; `before` is the current one."""
    from vsprov.plan.steps import WriteMark

    return WriteMark(group, "applied", seal(text), seal(before) if before else None)


def kept_changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether two records may differ in what the keeper works by."""
    old, new = before["spec"], after["spec"]
    return any(old.get(name) != new.get(name) for name in _kept_keys())


@cache
def _kept_keys() -> tuple[str, ...]:
    return tuple(name for name, key in fields.keys(Server).items() if fields.is_kept(key))


def to_object(name: str, applied: Mapping[str, Any]) -> Object:
    """The server that a record describes. UnitError if no version of vsprov can have written it."""
    found = object_of("Server", name, applied)
    assert isinstance(found.spec, Server)
    return found


def object_of(kind: str, name: str, applied: Mapping[str, Any]) -> Object:
    """The object of any kind that a record of it describes. UnitError as from `to_object`."""
    spec = objects.read_spec(kind, applied["spec"])
    assert spec is not None
    return Object(
        kind=kind,
        name=name,
        spec=spec,
        labels=applied.get("labels", {}),
        annotations=applied.get("annotations", {}),
    )


def from_text(text: str) -> dict[str, Any]:
    """The record that `to_text` wrote."""
    record: dict[str, Any] = json.loads(text)
    return record
