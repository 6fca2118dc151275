"""What there is, as documents: each object with its spec as the kernel shows it, and its status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vsprov.engine import ending, machine, observe, usage
from vsprov.kernel import cgroup
from vsprov.kernel.cgroup import Hierarchies
from vsprov.model.objects import API_VERSION, Object
from vsprov.plan import specs
from vsprov.plan.observed import Machine, Observed, ObservedGroup, ObservedServer
from vsprov.store.instance import RANGE, Instance


@dataclass(frozen=True, slots=True)
class Situation:
    """The host, and everything of an instance on it. `weights` is what `specs.weights` makes of it."""

    hierarchies: Hierarchies
    machine: Machine
    observed: Observed
    weights: Mapping[str, int]


def look(instance: Instance, objects: Iterable[Object] = ()) -> Situation:
    """The situation as it is now; `objects` name block devices whose numbers are wanted. Reads only."""
    hierarchies = cgroup.find()
    host = machine.look(hierarchies, objects, instance.name)
    observed = observe.observe(instance, hierarchies, host)
    return Situation(hierarchies, host, observed, specs.weights(observed, host))


def names(kind: str, now: Situation) -> list[str]:
    """The names of all there are of a kind, sorted."""
    observed = now.observed
    return sorted({"Image": observed.images, "Quota": observed.pools, "Server": observed.servers}[kind])


def document(kind: str, name: str, now: Situation) -> dict[str, Any]:
    """An object as it is: what a manifest says of it, and `status`. KeyError for a name there is not."""
    observed = now.observed
    metadata: dict[str, Any] = {"name": name}
    if kind == "Image":
        image = observed.images[name]
        spec: dict[str, Any] = {"source": dict(image.source)}
        status: dict[str, Any] = {"digest": image.digest or None, "set": set_of(image.owner)}
    elif kind == "Quota":
        pool = observed.pools[name]
        spec = specs.pool_spec(name, pool, now.machine, now.weights)
        status = {"cgroup": pool.path, "set": set_of(pool.owner), "usage": _usage(now, pool)}
    else:
        seen = observed.servers[name]
        spec = specs.server_spec(seen, observed, now.machine, now.weights)
        status = _status(seen, now)
        for key in ("labels", "annotations"):
            if seen.applied and seen.applied.get(key):
                metadata[key] = dict(seen.applied[key])
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec, "status": status}


def _status(seen: ObservedServer, now: Situation) -> dict[str, Any]:
    """`state` and `pid` of its init, since when it runs, where, which host ids it has and what it uses."""
    seconds = usage.uptime()
    return {
        "state": seen.state,
        "pid": seen.init.pid if seen.init else None,
        "startedAt": usage.started_at(seen.init.start, seconds) if seen.init else None,
        "uptimeSeconds": round(usage.age(seen.init.start, seconds), 1) if seen.init else None,
        "cgroup": seen.group.path if seen.group else None,
        "image": seen.applied["image"] if seen.applied else None,
        "addresses": [],
        "idRange": {"first": seen.id_base, "count": RANGE} if seen.id_base else None,
        "usage": _usage(now, seen.group),
        "lastExit": ending.read(now.hierarchies.directory("", seen.group.path)) if seen.group else None,
        "set": set_of(seen.owner or (seen.group.owner if seen.group else None)),
    }


def _usage(now: Situation, group: ObservedGroup | None) -> dict[str, Any]:
    used = usage.read(now.hierarchies, group.path) if group else usage.Usage()
    return {"cpuSeconds": used.cpu_seconds, "memoryBytes": used.memory_bytes, "pids": used.pids}


def set_of(owner: str | None) -> str | None:
    """The set in an owner mark "instance/set"."""
    return owner.partition("/")[2] if owner else None
