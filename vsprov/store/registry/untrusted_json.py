"""Reading untrusted JSON: invalid content always raises ImageError.

`label` names the document in errors. A missing key and null are the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from vsprov.errors import ImageError
from vsprov.model.values.units import short

T = TypeVar("T")

LIMIT = 4 << 20  # bytes of one document: the minimum that registries must accept, and the limit of docker


def parse(data: bytes, label: str) -> dict[str, Any]:
    """The JSON object in `data`. ImageError for anything else, and for duplicate keys."""
    content = parse_any(data, label)
    if not isinstance(content, dict):
        raise ImageError(f"{label}: expected a JSON object, got {_type(content)}")
    return content


def parse_any(data: bytes, label: str) -> Any:
    """Like `parse`, for JSON of any type."""
    if len(data) > LIMIT:
        raise too_large(label)
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{label}: not a JSON document: {short(_first_line(error))}") from None


def too_large(label: str) -> ImageError:
    """The error for a document of more than `LIMIT` bytes."""
    return ImageError(f"{label}: document larger than {LIMIT >> 20} MiB")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("duplicate key")
    return out


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def sha256_hex(text: str, label: str) -> str:
    """The hex digits of `sha256:…`. Nothing else may become part of a path or URL (CVE-2026-48769)."""
    match = re.match(r"sha256:([0-9a-f]{64})\Z", text)
    if match is None:
        raise ImageError(f"{label}: expected a digest sha256:…, got {short(text, repr)}")
    return match[1]


def get(content: Mapping[str, Any], key: str, kind: type[T], label: str) -> T | None:
    """The value of `key`, of type `kind`; None if it is missing or null."""
    value = content.get(key)
    if value is None or isinstance(value, kind):
        return value
    raise ImageError(f"{label}: {key} is {_type(value)}; expected {_TYPES[kind]}")


def many(content: Mapping[str, Any], key: str, kind: type[T], label: str) -> list[T]:
    """The list at `key`, with items of type `kind`; [] if it is missing or null."""
    items: list[Any] = get(content, key, list, label) or []
    for item in items:
        if not isinstance(item, kind):
            raise ImageError(f"{label}: {key} contains {_type(item)}; expected {_TYPES[kind]}")
    return items


def text(content: Mapping[str, Any], key: str, label: str) -> str:
    """The text at `key`; "" if it is missing or null."""
    return _sound(get(content, key, str, label) or "", key, label)


def words(content: Mapping[str, Any], key: str, label: str) -> tuple[str, ...]:
    """The list of texts at `key`; () if it is missing or null."""
    return tuple(_sound(word, key, label) for word in many(content, key, str, label))


def text_map(content: Mapping[str, Any], key: str, label: str) -> dict[str, str]:
    """The object at `key`, with texts as values; {} if it is missing or null."""
    raw: dict[str, Any] = get(content, key, dict, label) or {}
    many({key: [*raw.values()]}, key, str, label)
    return {_sound(name, key, label): _sound(value, key, label) for name, value in raw.items()}


def _sound(text: str, key: str, label: str) -> str:
    """The text, if it can be an argument of a program: without NUL and lone surrogates."""
    if re.search("[\0\ud800-\udfff]", text):
        raise ImageError(f"{label}: {key} is {short(text, ascii)}, which cannot be passed to a program")
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
