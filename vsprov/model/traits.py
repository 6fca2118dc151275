"""Lookups in the metadata of the model's fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

from msgspec.structs import replace

from vsprov.model.cost import Cost
from vsprov.model.fields import Key, Path, Section, keys

S = TypeVar("S", bound=Section)
Trait = Literal["refers", "relative"]


def lists(kind: type[Section], under: str = "") -> Iterator[tuple[str, Key]]:
    """(dotted path, key) of each list of objects in a `kind`, except those inside other lists."""
    for name, key in keys(kind).items():
        if key.many:
            yield f"{under}{name}", key
        elif key.one:
            yield from lists(key.one, f"{under}{name}.")


def applicable_keys(kind: type[Section], item: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a `kind` without keys that do not apply to it, such as `size` of a bind mount."""
    limited = ((key.name, key.only) for key in keys(kind).values() if key.only)
    foreign = {name for name, only in limited if item.get(only[0]) not in only[1:]}
    return {name: value for name, value in item.items() if name not in foreign}


def marked(obj: Any, trait: Trait, at: Path = ()) -> Iterator[tuple[Path, Key, Any]]:
    """(path, key, value) of each value in `obj` that is set and whose key has the trait."""
    for key in _leading_to(type(obj), trait):
        current = getattr(obj, key.field)
        if current is None:
            continue
        if key.one:
            yield from marked(current, trait, (*at, key.name))
        elif key.many:
            for place, item in enumerate(current):
                yield from marked(item, trait, (*at, key.name, place))
        else:
            yield (*at, key.name), key, current


def replaced(obj: S, trait: Trait, change: Callable[[Any], Any]) -> S:
    """`obj` with each value that `marked` finds replaced by `change(value)`."""
    new: dict[str, Any] = {}
    for key in _leading_to(type(obj), trait):
        current = getattr(obj, key.field)
        if current is None:
            continue
        if key.one:
            new[key.field] = replaced(current, trait, change)
        elif key.many:
            new[key.field] = tuple(replaced(item, trait, change) for item in current)
        else:
            new[key.field] = change(current)
    return replace(obj, **new) if new else obj


_LEADING: dict[tuple[type, Trait], tuple[Key, ...]] = {}


def _leading_to(kind: type[Section], trait: Trait) -> tuple[Key, ...]:
    """The keys of a `kind` that have the trait or contain keys that do."""
    if (kind, trait) not in _LEADING:
        _LEADING[kind, trait] = tuple(
            key
            for key in keys(kind).values()
            if getattr(key, trait) or ((inner := key.one or key.many) and _leading_to(inner, trait))
        )
    return _LEADING[kind, trait]


def cost_of(kind: type[Section], path: str) -> Cost:
    """The cost of changing the key at `path` ("init.env.A"). Raises KeyError for a key that `kind` lacks."""
    cost: Cost | None = None
    inside: type | None = kind
    for name in path.split("."):
        key = keys(inside).get(name) if inside else None
        if key is None:
            break
        cost = key.cost or cost
        inside = key.one or key.many
    if cost is None:
        raise KeyError(path)
    return cost
