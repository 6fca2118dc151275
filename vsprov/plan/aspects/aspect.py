"""The definition of a live aspect, and the registry of all aspects by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct

from vsprov.model.kinds.server import Server
from vsprov.plan.observed import Machine
from vsprov.plan.plan import PathChange
from vsprov.plan.step import Step


class Running(Struct, frozen=True):
    """A running server and its wanted spec.

    `recorded` is the spec that was last applied, {} if there is no record. `seen` is the result of this
    aspect's observer. `ignore` are the knobs that vsprov leaves to other programs.
    """

    name: str
    spec: Server
    recorded: Mapping[str, Any]
    seen: Any
    machine: Machine
    ignore: frozenset[str] = frozenset()


class Difference(Struct, frozen=True):
    """A difference as the plan shows it, and the step that removes it; None if that takes a restart."""

    path: PathChange
    step: Step | None


def _no_refusals(spec: Server, machine: Machine) -> Mapping[str, str]:
    return {}


def _no_notes(paths: Iterable[PathChange]) -> tuple[str, ...]:
    return ()


class Aspect(Struct, frozen=True):
    """One live aspect.

    `keys` are the keys of a server's spec that it covers, including all keys below them. For a running server
    they are compared with the observed values instead of the recorded ones. `show` returns the spec with the
    observed values, except for the knobs to ignore. `refuse` returns {knob path: why this host cannot apply
    it} while planning, and `hint` says what to do about it. `notes` explain the cost of changes.
    """

    name: str
    keys: tuple[str, ...]
    compare: Callable[[Running], Iterable[Difference]]
    show: Callable[[Mapping[str, Any], Any, frozenset[str]], Mapping[str, Any]]
    refuse: Callable[[Server, Machine], Mapping[str, str]] = _no_refusals
    hint: str = ""
    notes: Callable[[Iterable[PathChange]], tuple[str, ...]] = _no_notes

    def covers(self, key: str) -> bool:
        """Whether a key of the spec ("resources.rlimits.nofile") is this aspect's."""
        return any(key == own or key.startswith(f"{own}.") for own in self.keys)


ASPECTS: dict[str, Aspect] = {}


def register(aspect: Aspect) -> None:
    """Add an aspect. TypeError if another aspect has its name or one of its keys."""
    for other in ASPECTS.values():
        if other.name == aspect.name or any(other.covers(key) for key in aspect.keys):
            raise TypeError(f"aspect {aspect.name}: aspect {other.name} has its name or one of its keys")
    ASPECTS[aspect.name] = aspect


def covering(key: str) -> Aspect | None:
    """The aspect that covers a key of a server's spec; None if there is none."""
    return next((aspect for aspect in ASPECTS.values() if aspect.covers(key)), None)
