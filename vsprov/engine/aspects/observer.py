"""The registry of functions that observe live aspects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vsprov.plan import aspects as _aspects  # noqa: F401
from vsprov.plan.aspects.aspect import ASPECTS

# Takes the pid of a server's init and the server's home group; returns None if the process has just exited.
Observer = Callable[[int, str], Any]

OBSERVERS: dict[str, Observer] = {}


def observes(aspect: str) -> Callable[[Observer], Observer]:
    """Register the decorated function as observer of an aspect."""

    def register(function: Observer) -> Observer:
        OBSERVERS[aspect] = function
        return function

    return register


def observe(pid: int, home: str) -> dict[str, Any]:
    """{aspect: observed value} of the running server whose init has this pid, in its home group."""
    found = {name: observer(pid, home) for name, observer in OBSERVERS.items()}
    return {name: seen for name, seen in found.items() if seen is not None}


def refuse_missing() -> None:
    """Raise TypeError if an aspect is planned but not observed, or observed but not planned."""
    if unpaired := ASPECTS.keys() ^ OBSERVERS.keys():
        raise TypeError(f"live aspects without a module on both sides: {', '.join(sorted(unpaired))}")
