"""What was applied to a server, recorded on its home cgroup and in its directory, to compare with the wanted.

{"spec": canonical spec, "labels": {…}, "annotations": {…}, "image": digest}, as canonical JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from vsprov.model import fields, objects
from vsprov.model.objects import Object, Server
from vsprov.plan.steps import WriteMark


def record(server: Object, image_digest: str) -> dict[str, Any]:
    """The record of a server that runs on this image.

    Whether it should run is no part of it: the kernel shows that, and `vsprov stop` must not make it wrong.
    """
    assert isinstance(server.spec, Server)
    spec = fields.write(server.spec)
    del spec["state"]
    return {
        "spec": spec,
        "labels": dict(server.labels),
        "annotations": dict(server.annotations),
        "image": image_digest,
    }


def to_text(applied: Mapping[str, Any]) -> str:
    return json.dumps(applied, sort_keys=True, separators=(",", ":"))


# An extended attribute holds 64 kB; a longer record stays on disk alone and the mark says which one it is.
LONGEST_MARK = 48_000
_ON_DISK = "@disk"


def is_whole(text: str) -> bool:
    """Whether the mark holds the whole record, and not only says which one on disk it is."""
    return len(text) <= LONGEST_MARK


def seal(text: str) -> str:
    """The text of a mark: a checksum, so that an edited mark shows, and the record."""
    checksum = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{checksum} {text if is_whole(text) else _ON_DISK}"


def unseal(mark: str | None, disk: str | None) -> str | None:
    """The record in a mark; None if absent or edited. `disk`: the record in the server's directory."""
    checksum, _, text = (mark or "").partition(" ")
    if text == _ON_DISK:
        text = disk or ""
    return text if text and seal(text).startswith(checksum + " ") else None


def mark_step(group: str, text: str) -> WriteMark:
    """The step that records on a home group what was applied."""
    return WriteMark(group, "applied", seal(text))


def to_object(name: str, applied: Mapping[str, Any]) -> Object:
    """The server that a record describes; raises UnitError for a record no version of vsprov wrote."""
    spec = objects.read_spec("Server", applied["spec"])
    assert isinstance(spec, Server)
    return Object(
        kind="Server", name=name, spec=spec, labels=applied["labels"], annotations=applied["annotations"]
    )


def from_text(text: str) -> dict[str, Any]:
    """The record that `to_text` wrote."""
    record: dict[str, Any] = json.loads(text)
    return record
