"""Pools as they are recorded on disk, because control groups do not outlive a reboot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vsprov.model.objects import prevents_deletion
from vsprov.plan.compare import applied
from vsprov.plan.observed import ObservedGroup
from vsprov.store import recorded
from vsprov.store.instance import Instance


def recorded_pools(
    instance: Instance, pools: Mapping[str, ObservedGroup]
) -> tuple[dict[str, ObservedGroup], dict[str, ObservedGroup]]:
    """(pools with the texts of their records, recorded pools that have no group)."""
    found, lost = dict(pools), {}
    for name, record in recorded.observe(instance, "Quota").items():
        text = applied.to_text(record.applied) if record.applied else None
        if name in pools:
            found[name] = replace(pools[name], disk=text)
        else:
            known, owner = record.applied or {}, str(record.owner) if record.owner else None
            lost[name] = ObservedGroup(
                f"{instance.name}/{name}",
                owner,
                applied=known.get("spec"),
                disk=text,
                protected=prevents_deletion(known.get("annotations", {})),
            )
    return found, lost
