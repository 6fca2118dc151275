"""What a live aspect is, and all of them by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vsprov.model.objects import Server
from vsprov.plan.observed import Machine
from vsprov.plan.plan import PathChange
from vsprov.plan.steps import Step


@dataclass(frozen=True, slots=True)
class Running:
    """A running server beside what is wanted of it.

    `recorded` is the spec that was last applied, {} where its record is lost; `seen` is what this aspect's
    observer returned; `ignore` are the knobs that are left to others.
    """

    name: str
    spec: Server
    recorded: Mapping[str, Any]
    seen: Any
    machine: Machine
    ignore: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs, for people, and the step that repairs it; None where only a restart does."""

    path: PathChange
    step: Step | None


def _no_refusals(spec: Server, machine: Machine) -> Mapping[str, str]:
    return {}


def _no_notes(paths: Iterable[PathChange]) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Aspect:
    """One live aspect.

    `keys` are the keys of a server's spec that it stands for, with all below them: of a running server they
    are compared with what was seen instead of what was recorded. `show` gives the spec with what was seen in
    place of what was recorded, except for the knobs to ignore. `refuse` gives {knob path: why this host
    cannot do it} before anything is done, and `hint` what to do about that; `notes` explain costs.
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
    """Add an aspect; TypeError for one whose name or key another aspect has."""
    for other in ASPECTS.values():
        if other.name == aspect.name or any(other.covers(key) for key in aspect.keys):
            raise TypeError(f"aspect {aspect.name}: aspect {other.name} has its name or one of its keys")
    ASPECTS[aspect.name] = aspect


def covering(key: str) -> Aspect | None:
    """The aspect that a key of a server's spec belongs to."""
    return next((aspect for aspect in ASPECTS.values() if aspect.covers(key)), None)
