"""What a YAML text that has nothing wrong means."""

from __future__ import annotations

from typing import Any

from vsprov.manifest.syntax.text import parse


def only(text: str) -> Any:
    """The value of the one document of a text that has nothing wrong."""
    documents, problems = parse(text, "f.yaml")
    assert problems == []
    (document,) = documents
    return document.value


def typed(value: object) -> object:
    """Tells 1 from 1.0 and True, which are equal."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    return [typed(item) for item in value] if isinstance(value, list) else (type(value).__name__, value)
