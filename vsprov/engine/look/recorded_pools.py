"""Pools as they are recorded on disk, because control groups do not outlive a reboot."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from vsprov.model.objects import prevents_deletion
from vsprov.plan.compare import applied
from vsprov.plan.observed import ObservedGroup
from vsprov.plan.seen_disk import SeenDisk
from vsprov.store import recorded
from vsprov.store.disk import folders
from vsprov.store.instance import DISK_OF_POOL, Instance


def recorded_pools(
    instance: Instance, pools: Mapping[str, ObservedGroup], shared: Mapping[str, SeenDisk]
) -> tuple[dict[str, ObservedGroup], dict[str, ObservedGroup]]:
    """(pools with the texts of their records, recorded pools that have no group); `shared` limits disks."""
    found = {name: replace(pool, space=shared.get(name)) for name, pool in pools.items()}
    lost = {}
    for name, record in recorded.observe(instance, "Quota").items():
        text = applied.to_text(record.applied) if record.applied else None
        if name in pools:
            found[name] = replace(found[name], disk=text)
        else:
            known, owner = record.applied or {}, str(record.owner) if record.owner else None
            lost[name] = ObservedGroup(
                f"{instance.name}/{name}",
                owner,
                applied=known.get("spec"),
                disk=text,
                protected=prevents_deletion(known.get("annotations", {})),
                space=shared.get(name),
            )
    return found, lost


def shared_disks(instance: Instance) -> Mapping[str, SeenDisk]:
    """{pool: what limits what its servers write together}."""
    if not any(name.endswith(DISK_OF_POOL) for name in folders.names(instance.pools)):
        return {}
    from vsprov.store.space import pools  # loaded only if there is any

    return pools.observe(instance)
