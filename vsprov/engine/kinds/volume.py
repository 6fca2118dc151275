"""Volumes in `get`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from vsprov.engine.kinds.view import KindView, View, disk_of, register
from vsprov.kernel.cgroup import Hierarchies
from vsprov.plan.observed import set_of
from vsprov.store.instance import Instance


def observe(instance: Instance, hierarchies: Hierarchies) -> Mapping[str, Any]:
    """The volumes of the instance by name, {} without the modules that read them."""
    if not os.path.isdir(instance.volumes):
        return {}
    from vsprov.engine.volumes import look

    return look.observe(instance)


def status(name: str, view: View) -> dict[str, Any]:
    """The status of a volume: the servers that mount it, its age, and its size if that is requested."""
    from vsprov.plan.volumes import mounts

    seen = view.shown.observed.more["Volume"][name]
    users = view.shown.observed.servers.values()
    used: dict[str, Any] = {}
    if view.measure is not None:
        from vsprov.store.volumes import directory

        used["diskBytes"] = directory.size(view.measure, name, seen.space)
    owner, mode = seen.root
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seen.created)) if seen.created else None
    return {
        "usedBy": sorted(server.name for server in users if name in mounts.of_record(server)),
        "usage": used,
        "disk": disk_of(seen.space),
        "createdAt": created,
        "ageSeconds": round(max(0.0, time.time() - seen.created), 1) if created else None,
        "root": {"owner": owner, "mode": mode} if owner else None,
        "problem": seen.problem or None,
        "set": set_of(seen.owner),
    }


def metadata(seen: Any) -> dict[str, Any]:
    """The recorded labels and annotations, without empty ones."""
    recorded = seen.applied or {}
    return {key: dict(recorded[key]) for key in ("labels", "annotations") if recorded.get(key)}


register(KindView("Volume", status, metadata, observe))
