"""The registry of functions that observe live aspects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from vsprov.plan import aspects as _aspects  # noqa: F401
from vsprov.plan.aspects.aspect import ASPECTS

if TYPE_CHECKING:
    from vsprov.engine.volumes.mounted import VolumeMounts


class RunningServer(Struct, frozen=True):
    """A running server to observe: the pid of its init, its home group and its recorded spec, {} without a
    record. `volumes` recognizes what is mounted in it.
    """

    pid: int
    home: str
    spec: Mapping[str, Any]
    volumes: VolumeMounts


# Returns None if the process has just exited.
Observer = Callable[[RunningServer], Any]

OBSERVERS: dict[str, Observer] = {}


def observes(aspect: str) -> Callable[[Observer], Observer]:
    """Register the decorated function as observer of an aspect."""

    def register(function: Observer) -> Observer:
        OBSERVERS[aspect] = function
        return function

    return register


def observe(server: RunningServer) -> dict[str, Any]:
    """{aspect: observed value} of a running server."""
    found = {name: observer(server) for name, observer in OBSERVERS.items()}
    return {name: seen for name, seen in found.items() if seen is not None}


def refuse_missing() -> None:
    """Raise TypeError if an aspect is planned but not observed, or observed but not planned."""
    if unpaired := ASPECTS.keys() ^ OBSERVERS.keys():
        raise TypeError(f"live aspects without a module on both sides: {', '.join(sorted(unpaired))}")
