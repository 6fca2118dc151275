"""Observed objects as documents, with their current spec and status, for `get` and `diff`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vsprov.engine import kinds as _kinds  # noqa: F401  registers the views
from vsprov.engine.kinds.view import VIEWS, View
from vsprov.engine.look import devices, situation, watched
from vsprov.engine.look.situation import Situation
from vsprov.model.objects import API_VERSION, Object
from vsprov.plan.compare import applied
from vsprov.plan.kinds import quota
from vsprov.plan.kinds.planner import PLANNERS, Shown
from vsprov.plan.limits import resources
from vsprov.plan.observed import is_of
from vsprov.store.instance import Instance


class SituationWithWeights(Situation, frozen=True):
    """A situation with the CPU weights that result from the recorded weights and reservations, by address;
    and the servers that should be watched and are not, as `watched.unwatched` returns them.
    """

    weights: Mapping[str, int]
    unwatched: Mapping[str, tuple[str, ...]]

    @property
    def shown(self) -> Shown:
        return Shown(self.observed, self.machine, self.weights)


def look(
    instance: Instance, objects: Iterable[Object] = (), *, ask_keeper: bool = False
) -> SituationWithWeights:
    """The current situation, with a path for every limited device; see `situation.look`.

    `ask_keeper`: which servers it watches; otherwise `unwatched` is empty.
    """
    now = situation.look(instance, objects)
    machine = devices.with_names(now.machine, now.observed)
    weights = quota.weights(now.observed, machine)
    lost = watched.unwatched(instance, now.observed) if ask_keeper else {}
    return SituationWithWeights(now.instance, now.hierarchies, machine, now.observed, weights, lost)


def names(kind: str, now: SituationWithWeights) -> list[str]:
    """The sorted names of all objects of a kind that have at least one owner mark of this instance."""
    planner = PLANNERS[kind]
    found = planner.observed(now.observed).items()
    return sorted(
        name for name, seen in found if any(is_of(mark, now.instance) for mark in planner.owners(seen))
    )


def document(
    kind: str,
    name: str,
    now: SituationWithWeights,
    ignore: frozenset[str] = frozenset(),
    *,
    measured: Instance | None = None,
) -> dict[str, Any]:
    """The document of an object: the keys of a manifest, and `status`. KeyError if it does not exist.

    The knobs in `ignore` have their recorded values instead of the current ones. Measuring the disk usage of
    a server takes time, so it is only included with `measured`, the instance.
    """
    seen = PLANNERS[kind].observed(now.observed)[name]
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, **VIEWS[kind].metadata(seen)},
        "spec": PLANNERS[kind].show(name, now.shown, ignore),
        "status": VIEWS[kind].status(name, View(now.hierarchies, now.shown, now.unwatched, measured)),
    }


def left_to_others(kind: str, name: str, now: SituationWithWeights) -> frozenset[str]:
    """The ignored knobs in the recorded annotations of a server; those of other kinds are not recorded."""
    seen = now.observed.servers.get(name) if kind == "Server" else None
    applied_to = seen.applied if seen else None
    return resources.ignored(applied.to_object(name, applied_to)) if applied_to else frozenset()
