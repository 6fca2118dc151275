"""What `vsprov diff` compares: manifests of what is there and of what is wanted, object by object."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from vsprov.cli.options import Settings
from vsprov.engine.look import documents
from vsprov.engine.look.documents import Weighed
from vsprov.manifest.dump import to_yaml
from vsprov.manifest.load import document_of
from vsprov.model.objects import Object, Quota
from vsprov.plan import servers, specs
from vsprov.render.screen import Screen, clean


def compare(settings: Settings, objects: Sequence[Object]) -> list[str]:
    """The lines of a unified diff from what is there to what is wanted; [] when the manifest is met."""
    now = documents.look(settings.instance, objects)
    out: list[str] = []
    for one in objects:
        if isinstance(one.spec, Quota) and one.spec.scope == "server":
            continue  # it is part of the servers that name it, and nowhere by itself
        before = _text(_observed(one, now))
        after = _text(_settled(document_of(one), now))
        lines = difflib.unified_diff(
            before, after, f"observed/{one.address}", f"wanted/{one.address}", lineterm=""
        )
        out += [_painted(line, settings.stdout) for line in lines]
    return out


def _observed(one: Object, now: Weighed) -> dict[str, Any] | None:
    if one.name not in documents.names(one.kind, now):
        return None
    document = documents.document(one.kind, one.name, now, servers.ignored(one))
    # Only a server's labels and annotations are kept anywhere.
    metadata = document["metadata"] if one.kind == "Server" else document_of(one)["metadata"]
    return _settled({**document, "metadata": metadata}, now)


def _settled(document: dict[str, Any], now: Weighed) -> dict[str, Any]:
    kind, spec = document["kind"], document["spec"]
    return {**document, "spec": specs.readable(kind, specs.settled(kind, spec, now.machine))}


def _text(document: dict[str, Any] | None) -> list[str]:
    """The lines of a document with its keys in one order, so that only values differ."""
    if document is None:
        return []
    shown = {key: _sorted(document[key]) for key in ("apiVersion", "kind", "metadata", "spec")}
    return to_yaml([shown]).splitlines()


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _painted(line: str, screen: Screen) -> str:
    if line.startswith(("---", "+++")):
        return screen.paint(clean(line), "bold")
    color = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
    return screen.paint(clean(line), color)
