"""What observes which live aspect of a running server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vsprov.plan import aspects as _aspects  # noqa: F401
from vsprov.plan.aspects.aspect import ASPECTS

# Given the pid of a server's init; None where nothing can be seen, because it has just ended.
Observer = Callable[[int], Any]

OBSERVERS: dict[str, Observer] = {}


def observes(aspect: str) -> Callable[[Observer], Observer]:
    """Mark the function that observes an aspect."""

    def mark(function: Observer) -> Observer:
        OBSERVERS[aspect] = function
        return function

    return mark


def observe(pid: int) -> dict[str, Any]:
    """{aspect: what was seen} of the running server whose init this is."""
    found = {name: observer(pid) for name, observer in OBSERVERS.items()}
    return {name: seen for name, seen in found.items() if seen is not None}


def refuse_missing() -> None:
    """TypeError for an aspect that is planned and not observed, or observed and not planned."""
    if unpaired := ASPECTS.keys() ^ OBSERVERS.keys():
        raise TypeError(f"live aspects without a module on both sides: {', '.join(sorted(unpaired))}")
