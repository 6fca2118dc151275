"""The registry of kinds for planning: one `KindPlanner` per kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct

from vsprov.model import fields
from vsprov.model.objects import KINDS, Object, prevents_deletion
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.observed import Machine, Observed
from vsprov.plan.plan import Change


class Shown(Struct, frozen=True):
    """The input of `KindPlanner.show`: the observed state and the CPU weights, by address, it results in."""

    observed: Observed
    machine: Machine
    weights: Mapping[str, int]


def _nothing(value: Any) -> tuple[str, ...]:
    return ()


def _unchanged(spec: Mapping[str, Any], *context: Any) -> dict[str, Any]:
    return dict(spec)


def _is_protected(seen: Any) -> bool:
    """Whether its recorded annotations say that it must not be removed."""
    record = getattr(seen, "applied", None)  # not every kind keeps one
    return record is not None and prevents_deletion(record.get("annotations", {}))


def _as_wanted(want: Object, observed: Mapping[str, Any]) -> dict[str, Any]:
    return fields.write(want.spec)


class KindPlanner(Struct, frozen=True):
    """How objects of one kind are planned.

    `observed` returns the observed objects by name, and `owners` the owner marks of the parts of one of them
    (None for a part without a mark). `plan` adds the changes of the wanted objects to the builder. `remove`
    returns the change that removes an observed object, or None after adding a problem to the builder.

    If objects of the kind are `shared`, each of `owners` is a set that has the object in its manifest. Then
    `remove` ends the ownership of one set, and removes the object with its last owner.

    `needs` returns the addresses that a wanted object requires, `holds` those that an observed object
    requires, and `follows` those of objects that must be removed after an observed object.

    `protected` returns whether an observed object must not be removed, by its annotation.

    `show` returns the spec with current values from the kernel, except those of the given knobs. `rounded`
    returns a spec with the values that this machine would store, `readable` one with values as people write
    them, and `comparable` the wanted spec without differences from an observed one that are not changes.
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
    rounded: Callable[[Mapping[str, Any], Machine], dict[str, Any]] = _unchanged
    readable: Callable[[Mapping[str, Any]], dict[str, Any]] = _unchanged
    shared: bool = False
    protected: Callable[[Any], bool] = _is_protected
    comparable: Callable[[Object, Mapping[str, Any]], dict[str, Any]] = _as_wanted


PLANNERS: dict[str, KindPlanner] = {}


def register(planner: KindPlanner) -> None:
    """Register the planner of a kind."""
    PLANNERS[planner.kind] = planner


def ordered() -> list[KindPlanner]:
    """The planners in the order of KINDS: each kind follows the kinds that it refers to."""
    return [PLANNERS[kind] for kind in KINDS]
