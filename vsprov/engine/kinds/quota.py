"""Pools, as `get` shows them; quotas of scope server are nowhere by themselves."""

from __future__ import annotations

from typing import Any

from vsprov.engine.kinds.view import KindView, View, register
from vsprov.engine.look import usage
from vsprov.plan.observed import set_of


def status(name: str, view: View) -> dict[str, Any]:
    pool = view.shown.observed.pools[name]
    used = usage.document(view.hierarchies, pool)
    return {"cgroup": pool.path, "set": set_of(pool.owner), "usage": used}


register(KindView("Quota", status))
