"""The host and all objects of an instance at one point in time."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from vsprov.engine.look import machine, observe
from vsprov.engine.look.observe import Since
from vsprov.kernel import cgroup
from vsprov.kernel.cgroup import Hierarchies
from vsprov.model.objects import Object
from vsprov.plan.observed import Machine, Observed
from vsprov.store import claims
from vsprov.store.instance import Instance


class Situation(Struct, frozen=True):
    """The input of planning: cgroup hierarchies, properties of the host, observed objects."""

    instance: str
    hierarchies: Hierarchies
    machine: Machine
    observed: Observed


def look(instance: Instance, objects: Iterable[Object] = (), since: Since | None = None) -> Situation:
    """The current situation, with the numbers of the block devices in `objects`. Read-only.

    With `since`, servers that have not been changed since then are not observed again.
    """
    objects = tuple(objects)
    hierarchies, ranges = cgroup.find(), claims.read(instance)
    claims.check_state_root(instance, ranges)
    host = machine.look(hierarchies, objects, instance.name, ranges, instance.root)
    observed = observe.observe(instance, hierarchies, host, since, objects)
    return Situation(instance.name, hierarchies, host, observed)
