"""Differences between two canonical specs, key by key, in the words of the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vsprov.model.fields import camel
from vsprov.model.objects import NOT_OF_MOUNT

# Lists whose items have a natural key, so that a changed item is not the whole list.
KEYS = {"mounts": "target", "dependsOn": "name"}
STEPS = "source.build.steps"  # of which each has its place


def flatten(spec: Mapping[str, Any]) -> dict[str, Any]:
    """{dotted path: leaf}; items of keyed lists as `mounts[/srv].readOnly`, other lists are leaves."""
    out: dict[str, Any] = {}

    def walk(value: Any, at: str) -> None:
        if isinstance(value, Mapping) and value:
            for key, item in value.items():
                walk(item, f"{at}.{key}" if at else key)
        elif at == STEPS and isinstance(value, list | tuple):
            for place, item in enumerate(value):
                walk(item, f"{at}[{place}]")
        elif at in KEYS and isinstance(value, list | tuple):
            for item in value:
                own = meant(item) if at == "mounts" else item
                walk({k: v for k, v in own.items() if k != KEYS[at]}, f"{at}[{item[KEYS[at]]}]")
        elif value not in ({}, [], ()):
            out[at] = value

    walk(spec, "")
    return out


def meant(mount: Mapping[str, Any]) -> dict[str, Any]:
    """A mount without the defaults of keys that its type does not have."""
    foreign = {camel(name) for name in NOT_OF_MOUNT[mount["type"]]}
    return {key: value for key, value in mount.items() if key not in foreign}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(path, before, after) of each leaf that differs, None where it lacks; `after` orders, then `before`."""
    if before == after:
        return []
    old, new = flatten(before), flatten(after)
    paths = [*new, *(path for path in old if path not in new)]
    return [(path, old.get(path), new.get(path)) for path in paths if old.get(path) != new.get(path)]


def row_of(path: str) -> str:
    """The path without list keys, to look a cost up: `mounts[/srv].readOnly` is `mounts.readOnly`."""
    head, bracket, rest = path.partition("[")
    return head + rest.rpartition("]")[2] if bracket else head
