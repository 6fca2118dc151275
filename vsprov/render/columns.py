"""Columns and the order of the tables of `get`, as the user chooses them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vsprov.errors import UsageError
from vsprov.model.suggest import did_you_mean
from vsprov.render import tables
from vsprov.render.tables import Table

Document = Mapping[str, Any]
# Short names of what is often sorted by; any other is a path, such as status.usage.pids.
SHORT = {
    "name": "metadata.name",
    "state": "status.state",
    "pid": "status.pid",
    "image": "spec.image",
    "quota": "spec.quota",
    "cpu": "status.usage.cpuSeconds",
    "memory": "status.usage.memoryBytes",
    "pids": "status.usage.pids",
    "disk": "status.usage.diskBytes",
    "uptime": "status.uptimeSeconds",
    "set": "status.set",
}
MEASURED = "diskBytes"  # is only measured if somebody asks for it


def value(document: Document, path: str) -> Any:
    """The value at a dotted path in a document; None if there is none. Keys of labels may contain dots."""
    found: Any = document
    keys = path.lstrip(".").split(".")
    while keys:
        if not isinstance(found, Mapping):
            return None
        for length in range(len(keys), 0, -1):
            key = ".".join(keys[:length])
            if key in found:
                found, keys = found[key], keys[length:]
                break
        else:
            return None
    return found


def path_of(word: str) -> str:
    """The path that a word stands for. UsageError for a word that is neither a short name nor a path."""
    word = word.strip()
    if word.lower() in SHORT:
        return SHORT[word.lower()]
    if "." not in word:
        hint = f"use {', '.join(SHORT)}, or a path such as status.usage.pids"
        raise UsageError(f"--sort-by {word}: no such field{did_you_mean(word, SHORT)}", hint=hint)
    return word.lstrip(".")


def sorting(word: str) -> Callable[[list[Any]], list[Any]]:
    """A function that sorts documents by a field; from high to low if the word begins with "-".

    Objects without the field come last.
    """
    descending = word.startswith("-")
    path = path_of(word.removeprefix("-"))

    def sort(documents: list[Any]) -> list[Any]:
        having = [one for one in documents if value(one, path) is not None]
        without = [one for one in documents if value(one, path) is None]
        return [*sorted(having, key=lambda one: _rank(value(one, path)), reverse=descending), *without]

    return sort


def _rank(found: Any) -> tuple[int, Any]:
    """A key that compares values of any type: numbers before texts."""
    return (0, found) if isinstance(found, int | float) else (1, str(found))


def choose(kind: str, documents: Sequence[Document], words: Iterable[str]) -> Table:
    """A table with the chosen columns: titles of the wide table of the kind, or paths.

    UsageError for others.
    """
    full = tables.objects(kind, documents, wide=True)
    columns, cells, right = [], [], set()
    for word in map(str.strip, words):
        title = word.upper()
        if title in full.columns:
            cells.append([row[full.columns.index(title)] for row in full.rows])
            right |= {title} & full.right
        elif "." in word:
            title, path = word, word.lstrip(".")
            cells.append([_text(value(one, path)) for one in documents])
        else:
            message = (
                f"--columns {word}: {kind.lower()}s have no such column{did_you_mean(title, full.columns)}"
            )
            hint = f"use {', '.join(full.columns)}, or a path such as status.usage.pids"
            raise UsageError(message, hint=hint)
        columns.append(title)
    return Table(tuple(columns), tuple(zip(*cells, strict=True)), frozenset(right), wide=True)


def with_labels(table: Table, documents: Sequence[Document]) -> Table:
    """The table with a column for the labels."""
    labels = [one["metadata"].get("labels", {}) for one in documents]
    texts = [",".join(f"{key}={text}" for key, text in each.items()) or "-" for each in labels]
    rows = tuple((*row, text) for row, text in zip(table.rows, texts, strict=True))
    return Table((*table.columns, "LABELS"), rows, table.right, table.optional, table.wide)


def _text(found: Any) -> str:
    if found is None:
        return "-"
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
