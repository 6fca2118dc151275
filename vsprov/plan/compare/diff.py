"""Differences between two canonical specs, key by key, with the key names of manifests."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import chain
from typing import Any

from vsprov.model.fields import Key
from vsprov.model.limits.knobs import BY_PATH
from vsprov.model.objects import KINDS
from vsprov.model.traits import applicable_keys, lists
from vsprov.model.values.units import format_bytes
from vsprov.plan.plan import show


@cache
def _lists(specs: tuple[type, ...]) -> Mapping[str, Key]:
    """{dotted path: key} of lists of objects, whose items are compared one by one."""
    return dict(chain.from_iterable(map(lists, specs)))


def _known() -> Mapping[str, Key]:
    return _lists(tuple(kind.spec for kind in KINDS.values()))


def flatten(spec: Mapping[str, Any]) -> dict[str, Any]:
    """{dotted path: leaf}.

    Items of lists of objects become `mounts[/srv].readOnly`, by their natural key or their index, without
    keys that do not apply to them. Items that have a short text become that, and their list is a leaf, as
    other lists are.
    """
    out: dict[str, Any] = {}
    known = _known()

    def walk(value: Any, at: str) -> None:
        key = known.get(at)
        if isinstance(value, Mapping) and value:
            for name, item in value.items():
                walk(item, f"{at}.{name}" if at else name)
        elif key and key.many and key.default is None and value in ([], ()):
            out[at] = []  # differs from a list that is not set
        elif key and key.many and key.text and value:
            out[at] = list(map(key.text, value))
        elif key and key.many and isinstance(value, list | tuple):
            for index, item in enumerate(value):
                own = applicable_keys(key.many, item)
                own.pop(key.by, None)
                walk(own, f"{at}[{item[key.by] if key.by else index}]")
        elif value not in ({}, [], ()):
            out[at] = value

    walk(spec, "")
    return out


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(path, before, after) of each leaf that differs, None where it is absent.

    In the order of `after`; leaves that only `before` has come last.
    """
    if before == after:
        return []
    old, new = flatten(before), flatten(after)
    paths = [*new, *(path for path in old if path not in new)]
    return [(path, old.get(path), new.get(path)) for path in paths if old.get(path) != new.get(path)]


def shown(path: str, before: Any, after: Any) -> tuple[str, str]:
    """What a plan shows of a leaf of a server's record, where quantities are plain numbers."""
    row = row_of(path)
    if row == "mounts.size" or row.startswith("resources."):
        return _quantity(row, before), _quantity(row, after)
    return texts(path, before, after)


def _quantity(row: str, value: Any) -> str:
    if row == "mounts.size" and value is not None:
        return format_bytes(value)
    knob = BY_PATH.get(row.removeprefix("resources."))
    return knob.kind.format(knob.kind.parse(value)) if knob and value is not None else show(value)


def texts(path: str, before: Any, after: Any) -> tuple[str, str]:
    """What a plan shows of a leaf that differs, as `PathChange.shown`.

    Of a list whose items have a short text, only those that come and go.
    """
    key = _known().get(path)
    if not (key and key.text):
        return show(before), show(after)
    if key.default is None and None in (before, after):
        return _whole(before), _whole(after)
    old, new = before or [], after or []
    gone = [f"- {text}" for text in old if text not in new]
    come = [f"+ {text}" for text in new if text not in old]
    return ("", ", ".join([*gone, *come])) if gone or come else (_whole(old), _whole(new))


def _whole(value: list[str] | None) -> str:
    return "unrestricted" if value is None else ", ".join(value) or "nothing"


def row_of(path: str) -> str:
    """The path without list indexes, as costs are declared: `mounts.readOnly` for `mounts[/srv].readOnly`."""
    head, bracket, rest = path.partition("[")
    return head + rest.rpartition("]")[2] if bracket else head
