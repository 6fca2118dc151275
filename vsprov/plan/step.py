"""The interface of the steps of a plan, without their classes: most commands make no plan."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Step:
    """The interface of all steps."""

    def describe(self) -> str:
        """One line for -v and error messages."""
        raise NotImplementedError

    def undo(self) -> Step | None:
        """The step that undoes this one; None if nothing has to be or can be undone."""
        return None

    def to_json(self) -> dict[str, Any]:
        """The step in the JSON of the plan: the name of its class at "step", and its fields."""
        return {"step": type(self).__name__, **_plain(self)}


def _plain(value: Any) -> Any:
    """A value in JSON: objects for dataclasses, sorted lists for sets."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, frozenset):
        return [_plain(each) for each in sorted(value)]
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
