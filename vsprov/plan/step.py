"""The interface of the steps of a plan, without their classes: most commands make no plan."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import asdict


class Step(Struct, frozen=True):
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
    """A value in JSON: objects for records, sorted lists for sets."""
    if isinstance(value, Struct):
        return {name: _plain(each) for name, each in asdict(value).items()}
    if isinstance(value, frozenset):
        return [_plain(each) for each in sorted(value)]
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
