"""Find a key of a manifest in its schema, for `vsprov explain`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from vsprov.errors import UsageError
from vsprov.manifest.schema import document_schema
from vsprov.model import objects
from vsprov.model.suggest import did_you_mean
from vsprov.model.traits import cost_of


class KeyInfo(Struct, frozen=True):
    """A key: its path in a document ("spec.mounts[].source", "" for the document), its schema, whether it is
    required, and what its change costs a running server; "" if that does not apply.
    """

    kind: str
    path: str
    schema: dict[str, Any]
    required: bool
    cost: str

    @property
    def below(self) -> dict[str, Any]:
        """The schema of the map that the key holds, or of each map in its list; {} for any other value."""
        inner: dict[str, Any] = self.schema.get("items", self.schema)
        return inner if "properties" in inner else {}

    def children(self) -> Iterator[KeyInfo]:
        """The keys in its map, or in the maps of its list."""
        for name in self.below.get("properties", {}):
            yield child(self, name)


def find(kind: str, path: str) -> KeyInfo:
    """The key at a path; `spec` may be omitted. UsageError, with a suggestion, if there is none."""
    found = KeyInfo(kind, "", document_schema(kind), True, "")
    words = [word for word in re.split(r"\.|\[\w*\]\.?", path) if word]
    if words and words[0] not in found.below["properties"]:
        found = child(found, "spec")
    for word in words:
        known = found.below.get("properties", {})
        if word not in known:
            where = f"{kind}.{found.path}" if found.path else kind
            hint = f"vsprov explain {where.lower() if not found.path else kind.lower() + '.' + found.path}"
            raise UsageError(f"explain: {where} has no key {word}{did_you_mean(word, known)}", hint=hint)
        found = child(found, word)
    return found


def child(parent: KeyInfo, name: str) -> KeyInfo:
    """A key in the map of another, or in the maps of its list."""
    listed = "[]" if "items" in parent.schema else ""
    path = f"{parent.path}{listed}.{name}" if parent.path else name
    required = name in parent.below.get("required", ())
    kind = objects.KINDS[parent.kind]
    inside = path.removeprefix("spec.").replace("[]", "")
    cost = cost_of(kind.spec, inside) if kind.costs and path.startswith("spec.") else ""
    return KeyInfo(parent.kind, path, parent.below["properties"][name], required, cost)
