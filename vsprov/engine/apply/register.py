"""Which function carries out which class of step."""

from __future__ import annotations

from collections.abc import Callable
from sys import modules
from typing import TYPE_CHECKING, Any, TypeVar

from vsprov.engine.run.schedule import Work
from vsprov.plan.steps import Step

if TYPE_CHECKING:  # commands that only look need nothing of what an apply needs
    from vsprov.engine.run.context import ApplyContext

Function = Callable[["ApplyContext", Any], Work | None]
F = TypeVar("F", bound=Function)

FUNCTIONS: dict[type[Step], Function] = {}


def carries_out(kind: type[Step]) -> Callable[[F], F]:
    """Mark the function that carries out a class of step."""

    def mark(function: F) -> F:
        FUNCTIONS[kind] = function
        return function

    return mark


def refuse_missing() -> None:
    """TypeError for a class of step that no function carries out: a plan with it could not be applied."""
    # dataclass(slots=True) replaces each class by a copy; the first one lingers among the subclasses.
    kinds = [
        kind
        for kind in Step.__subclasses__()
        if getattr(modules[kind.__module__], kind.__name__, None) is kind
    ]
    if missing := [kind.__name__ for kind in kinds if kind not in FUNCTIONS]:
        raise TypeError(f"no function of vsprov.engine carries out {', '.join(sorted(missing))}")
