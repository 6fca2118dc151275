"""What there is, as documents: each object with its spec as the kernel shows it, and its status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vsprov.engine.look import devices, last_exit, situation, usage
from vsprov.engine.look.situation import Situation
from vsprov.model import digests
from vsprov.model.objects import API_VERSION, Object
from vsprov.plan import applied, servers, specs
from vsprov.plan.observed import ObservedGroup, ObservedServer, is_of
from vsprov.store.instance import RANGE, Instance
from vsprov.store.layers import sizes


@dataclass(frozen=True, slots=True)
class SituationWithWeights(Situation):
    """A situation with the CPU weights (`specs.weights`) that all in it lead to."""

    weights: Mapping[str, int]


def look(instance: Instance, objects: Iterable[Object] = ()) -> SituationWithWeights:
    """The situation as it is now, with a path for every device; see `situation.look`."""
    now = situation.look(instance, objects)
    machine = devices.with_names(now.machine, now.observed)
    weights = specs.weights(now.observed, machine)
    return SituationWithWeights(now.instance, now.hierarchies, machine, now.observed, weights)


def names(kind: str, now: SituationWithWeights) -> list[str]:
    """The names of all there are of a kind, sorted; what bears no mark of ours at all is none."""
    observed = now.observed
    owners: dict[str, dict[str, tuple[str | None, ...]]] = {
        "Image": {name: (image.owner,) for name, image in observed.images.items()},
        "Quota": {name: (pool.owner,) for name, pool in observed.pools.items()},
        "Server": {name: seen.owners() for name, seen in observed.servers.items()},
    }
    ours = owners[kind].items()
    return sorted(name for name, marks in ours if any(is_of(mark, now.instance) for mark in marks))


def document(
    kind: str,
    name: str,
    now: SituationWithWeights,
    ignore: frozenset[str] = frozenset(),
    *,
    measured: Instance | None = None,
) -> dict[str, Any]:
    """An object as it is: what a manifest says of it, and `status`. KeyError for a name there is not.

    The knobs in `ignore` are shown as they were applied, whatever the kernel has now. What a server has
    written takes a while to measure, so its size is told only of the instance `measured`.
    """
    observed = now.observed
    metadata: dict[str, Any] = {"name": name}
    if kind == "Image":
        image = observed.images[name]
        spec: dict[str, Any] = dict(image.spec)
        status: dict[str, Any] = {"digest": digests.full(image.digest) or None, "set": set_of(image.owner)}
    elif kind == "Quota":
        pool = observed.pools[name]
        spec = specs.pool_spec(name, pool, now.machine, now.weights, ignore)
        status = {"cgroup": pool.path, "set": set_of(pool.owner), "usage": _usage(now, pool)}
    else:
        seen = observed.servers[name]
        spec = specs.server_spec(seen, observed, now.machine, now.weights, ignore)
        status = _status(seen, now)
        if measured is not None:
            status["usage"]["diskBytes"] = sizes.upper_size(f"{measured.servers}/{name}/upper")
        for key in ("labels", "annotations"):
            if seen.applied and seen.applied.get(key):
                metadata[key] = dict(seen.applied[key])
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec, "status": status}


def left_to_others(kind: str, name: str, now: SituationWithWeights) -> frozenset[str]:
    """The knobs that a server's recorded annotations leave to others; a pool's are kept nowhere."""
    seen = now.observed.servers.get(name) if kind == "Server" else None
    applied_to = seen.applied if seen else None
    return servers.ignored(applied.to_object(name, applied_to)) if applied_to else frozenset()


def _status(seen: ObservedServer, now: SituationWithWeights) -> dict[str, Any]:
    """`state` and `pid` of its init, since when it runs, where, which host ids it has and what it uses."""
    seconds = usage.uptime()
    return {
        "state": seen.state,
        "pid": seen.init.pid if seen.init else None,
        "startedAt": usage.started_at(seen.init.start, seconds) if seen.init else None,
        "uptimeSeconds": round(usage.age(seen.init.start, seconds), 1) if seen.init else None,
        "cgroup": seen.group.path if seen.group else None,
        "image": digests.full(seen.applied["image"]) if seen.applied else None,
        "addresses": [],
        "idRange": {"first": seen.id_base, "count": RANGE} if seen.id_base else None,
        "usage": _usage(now, seen.group),
        "lastExit": last_exit.read(now.hierarchies.directory("", seen.group.path)) if seen.group else None,
        "set": set_of(seen.owner or (seen.group.owner if seen.group else None)),
    }


def _usage(now: SituationWithWeights, group: ObservedGroup | None) -> dict[str, Any]:
    used = usage.read(now.hierarchies, group.path) if group else usage.Usage()
    return {"cpuSeconds": used.cpu_seconds, "memoryBytes": used.memory_bytes, "pids": used.pids}


def set_of(owner: str | None) -> str | None:
    """The set in an owner mark "instance/set"."""
    return owner.partition("/")[2] if owner else None
