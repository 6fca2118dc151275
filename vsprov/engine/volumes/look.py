"""Observation of volumes on disk."""

from __future__ import annotations

import stat

from vsprov.plan.volumes.state import ObservedVolume
from vsprov.store.instance import Instance
from vsprov.store.volumes import directory


def observe(instance: Instance) -> dict[str, ObservedVolume]:
    """The volumes of the instance by name. Read-only."""
    return {name: _observed(one) for name, one in directory.observe(instance).items()}


def _observed(found: directory.VolumeDirectory) -> ObservedVolume:
    root = ("", "")
    if found.root is not None:
        root = f"{found.root.st_uid}:{found.root.st_gid}", f"{stat.S_IMODE(found.root.st_mode):04o}"
    return ObservedVolume(
        found.name,
        str(found.owner) if found.owner else None,
        found.applied,
        found.created,
        found.empty,
        found.problem,
        root,
        space=found.space,
    )
