"""Servers in `get`."""

from __future__ import annotations

from typing import Any

from vsprov.engine.kinds.view import KindView, View, disk_of, not_enforced, register
from vsprov.engine.look import last_exit, probes, restarts, scheduled
from vsprov.model.values import digests
from vsprov.plan.limits import resources
from vsprov.plan.observed import ObservedServer, set_of
from vsprov.plan.ranges import RANGE


def status(name: str, view: View) -> dict[str, Any]:
    """The status of a server: its init, group, image, id range on the host, usage and last exit."""
    from vsprov.engine.show import usage
    from vsprov.store.layers import sizes

    seen, hierarchies = view.shown.observed.servers[name], view.hierarchies
    seconds = usage.uptime()
    used = usage.document(hierarchies, seen.group)
    interfaces = interfaces_of(seen, view)
    if view.measure is not None:
        folder = f"{view.measure.servers}/{name}"
        known = seen.space is not None and seen.space.counted
        used["diskBytes"] = seen.space.used if seen.space and known else sizes.upper_size(f"{folder}/upper")
    return {
        "state": seen.state,
        "pid": seen.init.pid if seen.init else None,
        "startedAt": usage.started_at(seen.init.start, seconds) if seen.init else None,
        "uptimeSeconds": round(usage.age(seen.init.start, seconds), 1) if seen.init else None,
        "cgroup": seen.group.path if seen.group else None,
        "image": digests.full(seen.applied["image"]) if seen.applied else None,
        "addresses": [address for one in interfaces for address in one["addresses"]],
        "interfaces": interfaces,
        "ports": ports(seen),
        "idRange": {"first": seen.id_base, "count": RANGE} if seen.id_base else None,
        "usage": used,
        "disk": _disk(seen, view),
        "notEnforced": not_enforced(resources.of_record(seen.applied), view) if seen.applied else [],
        "conditions": [*probes.conditions(seen), *scheduled.conditions(seen)],
        "lastExit": last_exit.document(seen.last_exit),
        "restart": restarts.document(seen),
        "snapshots": scheduled.document(seen),
        "watched": name not in view.unwatched if seen.init or seen.restarts else None,
        "startsWithHost": seen.starts_with_host,
        "set": set_of(seen.owner or (seen.group.owner if seen.group else None)),
    }


def _disk(seen: ObservedServer, view: View) -> dict[str, Any] | None:
    """What limits a server, and the pool in whose limit it counts, null for none."""
    found = disk_of(seen.space)
    if seen.space is None or found is None:
        return None
    pools = view.shown.observed.all_pools.items()
    shared = [name for name, pool in pools if pool.space and pool.space.pools == seen.space.pools]
    return {**found, "pool": shared[0] if shared else None}


def interfaces_of(seen: ObservedServer, view: View) -> list[dict[str, Any]]:
    """The interfaces that a running server has, those of its record first and in that order."""
    networks = view.shown.observed.networks
    recorded = seen.applied["spec"].get("interfaces", ()) if seen.applied else ()
    named = {one["name"]: one["network"] for one in recorded}
    order = [*named]
    found = []
    for one in (networks.interfaces.get(seen.name, {}) if networks else {}).values():
        name = one.altname if one.altname in named else one.name
        found.append(
            {
                "name": name,
                "network": named.get(name),
                "link": one.link or None,
                "mac": one.mac or None,
                "mtu": one.mtu,
                "up": one.up and one.link_up,
                "addresses": sorted(one.addresses, key=lambda text: (":" in text, text)),
            }
        )
    return sorted(found, key=lambda one: order.index(one["name"]) if one["name"] in named else len(order))


def ports(seen: ObservedServer) -> list[dict[str, Any]]:
    """The published ports of a running server, as in its record."""
    recorded = seen.applied["spec"].get("ports", ()) if seen.init and seen.applied else ()
    return [dict(port) for port in recorded]


def metadata(seen: ObservedServer) -> dict[str, Any]:
    """The recorded labels and annotations, without empty ones."""
    recorded = seen.applied or {}
    return {key: dict(recorded[key]) for key in ("labels", "annotations") if recorded.get(key)}


register(KindView("Server", status, metadata))
