"""The registry of functions that carry out steps."""

from __future__ import annotations

from collections.abc import Callable
from sys import modules
from typing import TYPE_CHECKING, Any, TypeVar

from vsprov.engine.run.schedule import Work
from vsprov.plan.steps import Step

if TYPE_CHECKING:  # read-only commands do not need the imports of an apply
    from vsprov.engine.run.context import ApplyContext

Function = Callable[["ApplyContext", Any], Work | None]
F = TypeVar("F", bound=Function)

FUNCTIONS: dict[type[Step], Function] = {}


def carries_out(kind: type[Step]) -> Callable[[F], F]:
    """Register the decorated function for a class of steps."""

    def register(function: F) -> F:
        FUNCTIONS[kind] = function
        return function

    return register


def refuse_missing() -> None:
    """Raise TypeError if a class of steps has no function: plans with such steps could not be applied."""
    # dataclass(slots=True) creates a second class; the original remains in __subclasses__().
    kinds = [
        kind
        for kind in Step.__subclasses__()
        if getattr(modules[kind.__module__], kind.__name__, None) is kind
    ]
    if missing := [kind.__name__ for kind in kinds if kind not in FUNCTIONS]:
        raise TypeError(f"no function of vsprov.engine carries out {', '.join(sorted(missing))}")
