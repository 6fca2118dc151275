"""Between the sections of the model and JSON (a manifest's `spec`), driven by the fields themselves.

A field's name in JSON is its name in camelCase. `value`, `one`, `many`, `strings` and `mapping` declare
the fields of a `Section` with the metadata of their keys, from which reading, writing, the schema, the
reference, the cost of changes and the checks of references are derived. To add a key, add a field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar, Unpack, dataclass_transform

from msgspec import NODEFAULT, Struct, StructMeta

from vsprov.model.values.units import UnitError
from vsprov.model.values.value_kinds import ValueKind

if TYPE_CHECKING:
    from vsprov.model.cost import Cost

S = TypeVar("S", bound="Section")
Path = tuple[str | int, ...]
Report = Callable[[Path, UnitError], None]


if TYPE_CHECKING:  # creating the class takes 0.3 ms

    class Traits(TypedDict, total=False):
        """Metadata that any field may have, see `Key`."""

        schema: Mapping[str, Any]
        cost: Cost
        required: bool
        choice: bool
        refers: str
        relative: bool
        only: tuple[str, ...]
        name: str
        kept: bool


class Key(NamedTuple):
    """A key of a manifest: a field of the model with its metadata.

    `doc`: description. `schema`: JSON Schema keywords besides those derived from the annotation and `kind`.
    `cost`: cost of a change to a running server; None inherits that of the enclosing key. `required`: a
    manifest must set the key; by default, if the field has no default. `choice`: exactly one of the keys with
    this flag must be set. `refers`: kind of the object that the value names. `relative`: the value is a path
    relative to the manifest. `only`: key of a sibling, and its values with which alone this key applies.
    `kept`: the keeper works by this key, and is told of its changes while the server runs.

    `one`, `many`: class of the object, or of the objects in the list. `by`: key that identifies items of the
    list; "" identifies them by position. `text`: makes the short text of an item; plans show such lists as
    texts. `expand`: turns a short form of the object into its map. `each`: parses an item of a list of
    scalars. `read`: reads a whole map and reports errors itself. `inline`: that map consists of the unknown
    keys of the enclosing map.
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
    only: tuple[str, ...] | None = None
    kept: bool = False
    kind: ValueKind | None = None
    parse: Callable[[Any], Any] | None = None
    dump: Callable[[Any], Any] | None = None
    one: type[Section] | None = None
    many: type[Section] | None = None
    by: str = ""
    text: Callable[[Mapping[str, Any]], str] | None = None
    expand: Callable[[Any], Any] | None = None
    each: Callable[[Any], Any] | None = None
    read: Callable[[Any, Report, Path], Any] | None = None
    inline: bool = False


class Declared(NamedTuple):
    """What `value` and the others declare: the default of a field, NODEFAULT for none, and its metadata."""

    default: Any
    metadata: Mapping[str, Any]


@dataclass_transform(frozen_default=True, kw_only_default=True)
class SectionMeta(StructMeta):
    """Makes the Struct of a section: its fields get their defaults, and their metadata is kept aside."""

    declared: Mapping[str, Declared]

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> SectionMeta:
        own = {field: one for field, one in namespace.items() if isinstance(one, Declared)}
        for field, (default, _) in own.items():
            if default is NODEFAULT:
                del namespace[field]
            else:
                namespace[field] = default
        made = super().__new__(mcls, name, bases, namespace, frozen=True, kw_only=True)
        made.declared = {**getattr(bases[0], "declared", {}), **own}
        return made


class Section(Struct, metaclass=SectionMeta):
    """A part of a manifest, whose fields are declared with `value`, `one`, `many`, `strings` or `mapping`."""


def value(
    default: Any = NODEFAULT,
    *,
    doc: str,
    kind: ValueKind | None = None,
    parse: Callable[[Any], Any] | None = None,
    dump: Callable[[Any], Any] | None = None,
    **traits: Unpack[Traits],
) -> Any:
    """A field with one JSON value. `parse` raises UnitError; `kind` provides schema, `parse` and `dump`."""
    if kind:
        parse, dump = parse or kind.parse, dump or kind.dump
        traits["schema"] = {**kind.schema, **traits.get("schema", {})}
    about = {"doc": doc, "kind": kind, "parse": parse, "dump": dump, **traits}
    return Declared(default, about)


def one(
    kind: type[Section],
    default: Any = NODEFAULT,
    *,
    doc: str,
    expand: Callable[[Any], Any] | None = None,
    **traits: Unpack[Traits],
) -> Any:
    """A field with an object of the model."""
    return Declared(default, {"doc": doc, "one": kind, "expand": expand, **traits})


def many(
    kind: type[Section],
    *,
    doc: str,
    by: str = "",
    text: Callable[[Mapping[str, Any]], str] | None = None,
    expand: Callable[[Any], Any] | None = None,
    optional: bool = False,
    **traits: Unpack[Traits],
) -> Any:
    """A field with a tuple of objects of the model, () by default, or None if `optional`."""
    about = {"doc": doc, "many": kind, "by": by, "text": text, "expand": expand, **traits}
    return Declared(None if optional else (), about)


def strings(
    default: tuple[str, ...] = (),
    *,
    doc: str,
    each: Callable[[Any], str] | None = None,
    **traits: Unpack[Traits],
) -> Any:
    """A field with a tuple of strings. `each` parses one of them and raises UnitError."""
    about = {"doc": doc, "parse": tuple, "dump": list, "each": each, **traits}
    return Declared(default, about)


def mapping(*, doc: str, **traits: Unpack[Traits]) -> Any:
    """A field with a map of strings, {} by default."""
    about = {"doc": doc, "parse": dict, "dump": dict, **traits}
    return Declared({}, about)


@cache
def camel(name: str) -> str:
    """`readOnly` for `read_only`."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


_KEYS: dict[type[Section], Mapping[str, Key]] = {}


def keys(kind: type[Section]) -> Mapping[str, Key]:
    """{name in JSON: key} of a section, in order. Raises TypeError for a field without metadata."""
    if kind not in _KEYS:
        _KEYS[kind] = {key.name: key for key in _keys(kind)}
    return _KEYS[kind]


def _keys(kind: type[Section]) -> Iterator[Key]:
    for field in kind.__struct_fields__:
        if field not in kind.declared:
            raise TypeError(f"{kind.__name__}.{field} has no description of its key")
        default, metadata = kind.declared[field]
        about = {"default": default, "required": default is NODEFAULT, "name": camel(field)}
        yield Key(field=field, **{**about, **metadata})


def fail(path: Path, error: UnitError) -> None:
    """The report that raises the first error."""
    raise error


def read(kind: type[S], raw: Mapping[str, Any], report: Report = fail, at: Path = ()) -> S | None:
    """An object of `kind` from JSON that passed its schema.

    Calls `report(path, error)` for every field that cannot be read, and uses its default instead. Returns
    None if such a field has no default.
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
            complete &= key.default is not NODEFAULT
    return kind(**out) if complete else None


def _read(key: Key, given: Any, report: Report, at: Path) -> Any:
    """The value of a key, or None after reporting an error."""
    try:
        if key.one:
            return read(key.one, key.expand(given) if key.expand else given, report, at)
        if key.many or key.each:
            items = (_read_item(key, item, report, (*at, i)) for i, item in enumerate(given))
            return tuple(item for item in items if item is not None)
        if key.read:
            return key.read(given, report, at)
        return key.parse(given) if key.parse else given
    except UnitError as error:
        report(at, error)
        return None


def _read_item(key: Key, given: Any, report: Report, at: Path) -> Any:
    """An item of a list, or None after reporting an error."""
    try:
        if key.many:
            return read(key.many, key.expand(given) if key.expand else given, report, at)
        return key.each(given) if key.each else given
    except UnitError as error:
        report(at, error)
        return None


def write(obj: Any) -> dict[str, Any]:
    """The JSON that `read` turns back into `obj`, without None and without what is empty by default."""
    out: dict[str, Any] = {}
    for name, key in keys(type(obj)).items():
        current = getattr(obj, key.field)
        if current is None or (current in _EMPTY and key.default in (*_EMPTY, NODEFAULT)):
            continue
        if key.one:
            inner = write(current)
            if inner or current != key.default:
                out[name] = inner
        elif key.many:
            out[name] = [write(item) for item in current]
        elif key.inline and key.dump:
            out.update(key.dump(current))
        else:
            out[name] = key.dump(current) if key.dump else current
    return out


_EMPTY: tuple[Any, ...] = ((), {})


def kept(obj: Any) -> dict[str, Any]:
    """What the keeper works by: {name in JSON: value} of the keys with the flag `kept`, whole, and of the
    objects that have such keys inside, these alone.

    No such key is left out, and values are as in the model: durations in microseconds, sizes in bytes.
    """
    out: dict[str, Any] = {}
    for name, key in keys(type(obj)).items():
        if key.kept:
            out[name] = _plain(getattr(obj, key.field))
        elif is_kept(key):
            inner = getattr(obj, key.field)
            out[name] = None if inner is None else kept(inner)
    return out


@cache
def _has_kept(kind: type[Section]) -> bool:
    return any(is_kept(key) for key in keys(kind).values())


def is_kept(key: Key) -> bool:
    """Whether the keeper works by a key, or by a key inside its object."""
    return key.kept or (key.one is not None and _has_kept(key.one))


def _plain(current: Any) -> Any:
    if isinstance(current, Section):
        return {name: _plain(getattr(current, key.field)) for name, key in keys(type(current)).items()}
    if isinstance(current, tuple):
        return [_plain(item) for item in current]
    return dict(current) if isinstance(current, Mapping) else current
