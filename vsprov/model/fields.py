"""Between the model's frozen dataclasses and JSON (a manifest's `spec`), driven by the fields themselves.

A field's name in JSON is its name in camelCase. `value`, `one` and `many` say how a field is read and
written; `read` reports every field that cannot be read through `report(path, error)`, uses the field's
default in its place, and goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

from vsprov.model.units import UnitError

T = TypeVar("T")
Path = tuple[str | int, ...]
Report = Callable[[Path, UnitError], None]


def value(
    default: Any = dataclasses.MISSING,
    *,
    parse: Callable[[Any], Any] | None = None,
    dump: Callable[[Any], Any] | None = None,
) -> Any:
    """A field that is one JSON value; `parse` raises UnitError."""
    return dataclasses.field(default=default, metadata={"parse": parse, "dump": dump})


def one(kind: type, default: Any = dataclasses.MISSING) -> Any:
    """A field that is one object of the model."""
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata={"one": kind})
    return dataclasses.field(default=default, metadata={"one": kind})


def many(kind: type) -> Any:
    """A field that is a tuple of objects of the model; absent is ()."""
    return dataclasses.field(default=(), metadata={"many": kind})


def words() -> Any:
    """A field that is a tuple of strings."""
    return value((), parse=tuple, dump=list)


def mapping(*, parse: Callable[[Any], Any] = dict, dump: Callable[[Any], Any] = dict) -> Any:
    """A field that is a map; absent is {}."""
    return dataclasses.field(default_factory=dict, metadata={"parse": parse, "dump": dump})


@cache
def camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


_FIELDS: dict[type, tuple[tuple[str, str, Mapping[str, Any], bool], ...]] = {}


def _fields(kind: type) -> tuple[tuple[str, str, Mapping[str, Any], bool], ...]:
    """(name, name in JSON, metadata, required) of each field; looked up once for each class."""
    if kind not in _FIELDS:
        missing = dataclasses.MISSING
        _FIELDS[kind] = tuple(
            (f.name, camel(f.name), f.metadata, f.default is missing and f.default_factory is missing)
            for f in dataclasses.fields(kind)
        )
    return _FIELDS[kind]


def read(kind: type[T], raw: Mapping[str, Any], report: Report, at: Path = ()) -> T | None:
    """An object of `kind` from JSON its schema has accepted; None when a required field was not readable."""
    out: dict[str, Any] = {}
    complete = True
    for name, key, meta, required in _fields(kind):
        if key not in raw or raw[key] is None:
            complete &= not required
            continue
        given = raw[key]
        try:
            if "one" in meta:
                out[name] = read(meta["one"], given, report, (*at, key))
            elif "many" in meta:
                items = (read(meta["many"], item, report, (*at, key, i)) for i, item in enumerate(given))
                out[name] = tuple(item for item in items if item is not None)
            else:
                out[name] = meta["parse"](given) if meta.get("parse") else given
        except UnitError as error:
            report((*at, key), error)
            complete &= not required
    return kind(**out) if complete else None


def write(obj: Any) -> dict[str, Any]:
    """The JSON that `read` gives `obj` back from; None and empty collections are left out."""
    out: dict[str, Any] = {}
    for name, key, meta, _ in _fields(type(obj)):
        current = getattr(obj, name)
        if current is None or current == () or current == {}:
            continue
        if "one" in meta:
            out[key] = write(current)
        elif "many" in meta:
            out[key] = [write(item) for item in current]
        else:
            out[key] = meta["dump"](current) if meta.get("dump") else current
    return out
