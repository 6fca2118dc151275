"""A unified diff of two documents."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from vsprov.manifest.syntax.dump import to_yaml
from vsprov.render.screen import Screen, clean


def unified(
    before: str,
    observed: Mapping[str, Any] | None,
    address: str,
    wanted: Mapping[str, Any] | None,
    screen: Screen,
) -> list[str]:
    """The lines of a unified diff from the observed document of an object to the wanted one, each with the
    address of the object; [] when they are equal.
    """
    lines = difflib.unified_diff(
        _text(observed), _text(wanted), f"observed/{before}", f"wanted/{address}", lineterm=""
    )
    return [_painted(line, screen) for line in lines]


def _text(document: Mapping[str, Any] | None) -> list[str]:
    """The lines of a document with its keys in one order, so that only values differ."""
    return (
        [] if document is None else to_yaml([{key: _sorted(document[key]) for key in document}]).splitlines()
    )


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _painted(line: str, screen: Screen) -> str:
    if line.startswith(("---", "+++")):
        return screen.paint(clean(line), "bold")
    color = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
    return screen.paint(clean(line), color)
