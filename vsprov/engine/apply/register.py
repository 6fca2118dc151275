"""The registry of functions that carry out steps."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from sys import modules
from typing import TYPE_CHECKING, Any, TypeVar

from vsprov.plan.step import Step

if TYPE_CHECKING:  # read-only commands do not need the imports of an apply
    from vsprov.engine.run.context import ApplyContext
    from vsprov.engine.run.schedule import Work

Function = Callable[["ApplyContext", Any], "Work | None"]
F = TypeVar("F", bound=Function)

FUNCTIONS: dict[type[Step], Function] = {}
# Modules of steps that few plans have, and those of their functions, loaded with the first such step.
LATE = {
    "vsprov.plan.network.steps": "vsprov.engine.networks.steps",
    "vsprov.plan.servers.disk_steps": "vsprov.engine.disks",
    "vsprov.plan.limits.pool_disk": "vsprov.engine.disks",
    "vsprov.plan.volumes.steps": "vsprov.engine.volumes.steps",
    "vsprov.plan.servers.hooks": "vsprov.engine.hooks",
    "vsprov.plan.servers.files": "vsprov.engine.servers.files.steps",
    "vsprov.plan.servers.imports": "vsprov.engine.transfer.steps",
    "vsprov.plan.servers.conditions": "vsprov.engine.apply.conditions.patience",
}


def carries_out(kind: type[Step]) -> Callable[[F], F]:
    """Register the decorated function for a class of steps."""

    def register(function: F) -> F:
        FUNCTIONS[kind] = function
        return function

    return register


def function_of(kind: type[Step]) -> Function:
    """The function that carries out a class of steps."""
    if kind not in FUNCTIONS:
        import_module(LATE[kind.__module__])
    return FUNCTIONS[kind]


def refuse_missing() -> None:
    """Raise TypeError if a class of steps has no function: plans with such steps could not be applied."""
    kinds = [kind for kind in Step.__subclasses__() if LATE.get(kind.__module__, __name__) in modules]
    if missing := [kind.__name__ for kind in kinds if kind not in FUNCTIONS]:
        raise TypeError(f"no function of vsprov.engine carries out {', '.join(sorted(missing))}")
