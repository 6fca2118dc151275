"""Pools in `get`. Quotas of scope server are not shown: they are part of servers."""

from __future__ import annotations

from typing import Any

from vsprov.engine.kinds.view import KindView, View, disk_of, not_enforced, register
from vsprov.model.objects import DELETION, PREVENT
from vsprov.plan.limits import resources
from vsprov.plan.observed import ObservedGroup, set_of


def status(name: str, view: View) -> dict[str, Any]:
    """The status of a pool: its group, its set, and the usage of all its servers."""
    from vsprov.engine.show import usage

    pool = view.shown.observed.all_pools[name]
    used = usage.document(view.hierarchies, pool)
    if pool.space:
        used["diskBytes"] = pool.space.used
    return {
        "cgroup": pool.path,
        "set": set_of(pool.owner),
        "usage": used,
        "disk": disk_of(pool.space),
        "notEnforced": not_enforced(resources.of_pool(pool), view),
    }


def metadata(pool: ObservedGroup) -> dict[str, Any]:
    """Its protection from removal, the only annotation of pools that is recorded."""
    return {"annotations": {DELETION: PREVENT}} if pool.protected else {}


register(KindView("Quota", status, metadata))
