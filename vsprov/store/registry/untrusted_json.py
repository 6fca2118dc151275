"""JSON from strangers, read so that whatever it holds ends in an ImageError and never in a traceback.

`label` is what to call the document in an error. A key that is missing is one that is null.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from vsprov.errors import ImageError
from vsprov.model.units import short

T = TypeVar("T")

LIMIT = 4 << 20  # bytes of one document: the least that a registry has to take, and what docker allows


def parse(data: bytes, label: str) -> dict[str, Any]:
    """The JSON object in `data`; ImageError for anything else, also for a key given twice."""
    content = parse_any(data, label)
    if not isinstance(content, dict):
        raise ImageError(f"{label}: a JSON object is wanted: there is {_type(content)}")
    return content


def parse_any(data: bytes, label: str) -> Any:
    """As `parse`, for whatever JSON there is."""
    if len(data) > LIMIT:
        raise too_large(label)
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{label}: not a JSON document: {short(_first_line(error))}") from None


def too_large(label: str) -> ImageError:
    """The error for a document of more than `LIMIT` bytes."""
    return ImageError(f"{label}: a document of more than {LIMIT >> 20} MiB describes it: that is refused")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key is given twice")
    return out


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def sha256_hex(text: str, label: str) -> str:
    """The hex of `sha256:<hex>`; nothing else may become part of a path or an address (CVE-2026-48769)."""
    match = re.match(r"sha256:([0-9a-f]{64})\Z", text)
    if match is None:
        raise ImageError(f"{label}: a digest sha256:… is wanted: there is {short(text, repr)}")
    return match[1]


def get(content: Mapping[str, Any], key: str, kind: type[T], label: str) -> T | None:
    """The value of `key`; None when it is missing or null."""
    value = content.get(key)
    if value is None or isinstance(value, kind):
        return value
    raise ImageError(f"{label}: {key} is {_type(value)}: {_TYPES[kind]} is wanted")


def many(content: Mapping[str, Any], key: str, kind: type[T], label: str) -> list[T]:
    """The list at `key`, of nothing but `kind`; [] when it is missing or null."""
    items: list[Any] = get(content, key, list, label) or []
    for item in items:
        if not isinstance(item, kind):
            raise ImageError(f"{label}: {key} holds {_type(item)}: {_TYPES[kind]} is wanted")
    return items


def text(content: Mapping[str, Any], key: str, label: str) -> str:
    """The text at `key`; "" when it is missing or null."""
    return _sound(get(content, key, str, label) or "", key, label)


def words(content: Mapping[str, Any], key: str, label: str) -> tuple[str, ...]:
    """The list of texts at `key`; () when it is missing or null."""
    return tuple(_sound(word, key, label) for word in many(content, key, str, label))


def text_map(content: Mapping[str, Any], key: str, label: str) -> dict[str, str]:
    """The object of texts at `key`; {} when it is missing or null."""
    raw: dict[str, Any] = get(content, key, dict, label) or {}
    many({key: [*raw.values()]}, key, str, label)
    return {_sound(name, key, label): _sound(value, key, label) for name, value in raw.items()}


def _sound(text: str, key: str, label: str) -> str:
    """Text that can be an argument of a program: no NUL, no half of a surrogate pair."""
    if re.search("[\0\ud800-\udfff]", text):
        raise ImageError(f"{label}: {key} is {short(text, ascii)}: no program can be given that")
    return text


_TYPES: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a number",
}


def _type(value: object) -> str:
    return _TYPES.get(type(value), "null" if value is None else "a number")
