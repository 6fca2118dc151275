"""The host and everything of an instance on it, at one moment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vsprov.engine.look import machine, observe
from vsprov.engine.look.observe import Since
from vsprov.kernel import cgroup
from vsprov.kernel.cgroup import Hierarchies
from vsprov.model.objects import Object
from vsprov.plan.observed import Machine, Observed
from vsprov.store.instance import Instance


@dataclass(frozen=True, slots=True)
class Situation:
    """What plans are made from: where control groups are, what the host can do, what there is."""

    instance: str
    hierarchies: Hierarchies
    machine: Machine
    observed: Observed


def look(instance: Instance, objects: Iterable[Object] = (), since: Since | None = None) -> Situation:
    """The situation as it is now; `objects` name block devices whose numbers are wanted. Reads only.

    With `since` servers that have not been touched are taken to be as they were then.
    """
    hierarchies = cgroup.find()
    host = machine.look(hierarchies, objects, instance.name)
    return Situation(instance.name, hierarchies, host, observe.observe(instance, hierarchies, host, since))
