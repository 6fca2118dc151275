"""What planning needs to know of a kind, and all kinds by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vsprov.model.objects import KINDS, Object
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.observed import Machine, Observed
from vsprov.plan.plan import Change


@dataclass(frozen=True, slots=True)
class Shown:
    """What an object's spec is shown from: everything observed, and the CPU weights that it leads to."""

    observed: Observed
    machine: Machine
    weights: Mapping[str, int]


def _nothing(value: Any) -> tuple[str, ...]:
    return ()


def _as_it_is(spec: Mapping[str, Any], *context: Any) -> dict[str, Any]:
    return dict(spec)


@dataclass(frozen=True, slots=True)
class KindPlanner:
    """How one kind is planned.

    `observed` gives the objects of the kind by name, `owners` the owner marks that such an object bears,
    None for a part without one. `plan` adds to the builder what happens to the wanted objects. `remove` gives
    the change that removes an observed object; None with a problem in the builder.

    `needs` are the addresses that a wanted object cannot be without, `holds` those that an observed one
    cannot, and `follows` those that an observed one must be removed before.

    `show` is an object's spec as the kernel has it, without the knobs to ignore; `rounded` a spec as this
    machine would keep it, and `readable` one as people write it.
    """

    kind: str
    observed: Callable[[Observed], Mapping[str, Any]]
    owners: Callable[[Any], tuple[str | None, ...]]
    plan: Callable[[PlanBuilder], None]
    remove: Callable[[PlanBuilder, str], Change | None]
    show: Callable[[str, Shown, frozenset[str]], dict[str, Any]]
    needs: Callable[[Object], Iterable[str]] = _nothing
    holds: Callable[[Any], Iterable[str]] = _nothing
    follows: Callable[[Any], Iterable[str]] = _nothing
    rounded: Callable[[Mapping[str, Any], Machine], dict[str, Any]] = _as_it_is
    readable: Callable[[Mapping[str, Any]], dict[str, Any]] = _as_it_is


PLANNERS: dict[str, KindPlanner] = {}


def register(planner: KindPlanner) -> None:
    """Add a kind's row."""
    PLANNERS[planner.kind] = planner


def ordered() -> list[KindPlanner]:
    """The rows in the order of the kinds: each after those whose objects its own refer to."""
    return [PLANNERS[kind] for kind in KINDS]
