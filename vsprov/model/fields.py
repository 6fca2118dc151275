"""Between the model's frozen dataclasses and JSON (a manifest's `spec`), driven by the fields themselves.

A field's name in JSON is its name in camelCase. `value`, `one`, `many`, `strings` and `mapping` make the
fields, each with what there is to say of its key: reading, writing, the schema, the reference, the cost of a
change and the checks of references all follow from it. A new key is a new field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar, Unpack

from vsprov.model.kinds import Kind
from vsprov.model.units import UnitError

if TYPE_CHECKING:
    from vsprov.model.cost import Cost

T = TypeVar("T")
Path = tuple[str | int, ...]
Report = Callable[[Path, UnitError], None]


if TYPE_CHECKING:  # to make such a class takes 0.3 ms

    class Traits(TypedDict, total=False):
        """What can be said of any field; see `Key`."""

        schema: Mapping[str, Any]
        cost: Cost
        required: bool
        choice: bool
        refers: str
        relative: bool
        only: tuple[str, str]


class Key(NamedTuple):
    """A key of a manifest: a field of the model and what was said of it.

    `doc` describes it; `schema` holds the keywords of JSON Schema that its annotation and `kind` do not give.
    `cost` is what a change costs a running server; None: as much as the key around it. `required`: a manifest
    must set it, which by default holds of fields without a default. `choice`: exactly one of the keys of its
    object that are marked so is set. `refers` is the kind of the object that it names. `relative`: a path,
    relative to the manifest. `only`: it applies where another key of its object, by name, has this value.

    `one` and `many` are the class of its object or of those in its list; items of a list are told apart by
    their key `by`, or by their place. `expand` turns a shorter spelling of an object into the object.
    `read` reads a whole map and reports by itself; with `inline` that map is what is left of the map around.
    """

    field: str
    name: str
    doc: str
    default: Any
    required: bool
    schema: Mapping[str, Any] = {}
    cost: Cost | None = None
    choice: bool = False
    refers: str = ""
    relative: bool = False
    only: tuple[str, str] | None = None
    kind: Kind | None = None
    parse: Callable[[Any], Any] | None = None
    dump: Callable[[Any], Any] | None = None
    one: type | None = None
    many: type | None = None
    by: str = ""
    expand: Callable[[Any], Any] | None = None
    read: Callable[[Any, Report, Path], Any] | None = None
    inline: bool = False


def value(
    default: Any = MISSING,
    *,
    doc: str,
    kind: Kind | None = None,
    parse: Callable[[Any], Any] | None = None,
    dump: Callable[[Any], Any] | None = None,
    **traits: Unpack[Traits],
) -> Any:
    """A field that is one JSON value; `parse` raises UnitError. `kind` gives schema, `parse` and `dump`."""
    if kind:
        parse, dump = parse or kind.parse, dump or kind.dump
        traits["schema"] = {**kind.schema, **traits.get("schema", {})}
    about = {"doc": doc, "kind": kind, "parse": parse, "dump": dump, **traits}
    return dataclasses.field(default=default, metadata=about)


def one(
    kind: type,
    default: Any = MISSING,
    *,
    doc: str,
    expand: Callable[[Any], Any] | None = None,
    **traits: Unpack[Traits],
) -> Any:
    """A field that is one object of the model."""
    return dataclasses.field(default=default, metadata={"doc": doc, "one": kind, "expand": expand, **traits})


def many(kind: type, *, doc: str, by: str = "", **traits: Unpack[Traits]) -> Any:
    """A field that is a tuple of objects of the model; absent is ()."""
    return dataclasses.field(default=(), metadata={"doc": doc, "many": kind, "by": by, **traits})


def strings(default: tuple[str, ...] = (), *, doc: str, **traits: Unpack[Traits]) -> Any:
    """A field that is a tuple of strings."""
    return value(default, doc=doc, parse=tuple, dump=list, **traits)


def mapping(*, doc: str, **traits: Unpack[Traits]) -> Any:
    """A field that is a map of texts; absent is {}."""
    about = {"doc": doc, "parse": dict, "dump": dict, **traits}
    return dataclasses.field(default_factory=dict, metadata=about)


@cache
def camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


_KEYS: dict[type, Mapping[str, Key]] = {}


def keys(kind: type) -> Mapping[str, Key]:
    """{name in JSON: key} of a dataclass, in the order of its fields. TypeError for a field not made here."""
    if kind not in _KEYS:
        _KEYS[kind] = {key.name: key for key in _keys(kind)}
    return _KEYS[kind]


def _keys(kind: type) -> Iterator[Key]:
    for field in dataclasses.fields(kind):
        if "doc" not in field.metadata:
            raise TypeError(f"{kind.__name__}.{field.name} says nothing of its key")
        default = field.default if field.default_factory is MISSING else field.default_factory()
        about = {"default": default, "required": default is MISSING, **field.metadata}
        yield Key(field=field.name, name=camel(field.name), **about)


def fail(path: Path, error: UnitError) -> None:
    """A report that stops reading at the first error, by raising it."""
    raise error


def read(kind: type[T], raw: Mapping[str, Any], report: Report = fail, at: Path = ()) -> T | None:
    """An object of `kind` from JSON that its schema has accepted.

    Every field that cannot be read goes to `report(path, error)`, and its default takes its place; None when
    it has none.
    """
    known = keys(kind)
    out: dict[str, Any] = {}
    complete = True
    for name, key in known.items():
        if key.inline and key.read:
            rest = {other: inner for other, inner in raw.items() if other not in known}
            out[key.field] = key.read(rest, report, at)
            continue
        given = raw.get(name)
        found = None if given is None else _read(key, given, report, (*at, name))
        if found is not None:
            out[key.field] = found
        else:
            complete &= key.default is not MISSING
    return kind(**out) if complete else None


def _read(key: Key, given: Any, report: Report, at: Path) -> Any:
    """The value of a key, or None (reported)."""
    try:
        if key.one:
            return read(key.one, key.expand(given) if key.expand else given, report, at)
        if key.many:
            items = (read(key.many, item, report, (*at, i)) for i, item in enumerate(given))
            return tuple(item for item in items if item is not None)
        if key.read:
            return key.read(given, report, at)
        return key.parse(given) if key.parse else given
    except UnitError as error:
        report(at, error)
        return None


def write(obj: Any) -> dict[str, Any]:
    """The JSON that `read` gives `obj` back from; None and empty collections are left out."""
    out: dict[str, Any] = {}
    for name, key in keys(type(obj)).items():
        current = getattr(obj, key.field)
        if current is None or current == () or current == {}:
            continue
        if key.one:
            out[name] = write(current)
        elif key.many:
            out[name] = [write(item) for item in current]
        elif key.inline and key.dump:
            out.update(key.dump(current))
        else:
            out[name] = key.dump(current) if key.dump else current
    return out
