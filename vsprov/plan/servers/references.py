"""The objects that a server refers to."""

from __future__ import annotations

from collections.abc import Iterable

from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.plan.observed import ObservedServer


def dependencies(want: Object) -> list[str]:
    """The addresses of the servers that it depends on."""
    assert isinstance(want.spec, Server)
    return [f"Server/{dependency.name}" for dependency in want.spec.depends_on]


def needs(want: Object) -> Iterable[str]:
    """The server's image, pool, networks and volumes. Quotas of scope server are merged in and no objects."""
    assert isinstance(want.spec, Server)
    yield f"Image/{want.spec.image}"
    if want.spec.quota:
        yield f"Quota/{want.spec.quota}"
    for interface in want.spec.interfaces:
        yield f"Network/{interface.network}"
    for mount in want.spec.mounts:
        if mount.type == "volume":
            yield f"Volume/{mount.source}"


def holds(seen: ObservedServer) -> Iterable[str]:
    """The image that the server runs on, the pool that it is in, the networks that it is connected to, and
    the volumes that it mounts.
    """
    if seen.group and seen.group.path.count("/") == 2:
        yield f"Quota/{seen.group.path.split('/')[1]}"
    elif seen.group is None and seen.applied and seen.applied["spec"].get("quota"):
        yield f"Quota/{seen.applied['spec']['quota']}"
    if seen.applied:
        yield f"Image/{seen.applied['spec']['image']}"
        for interface in seen.applied["spec"].get("interfaces", ()):
            yield f"Network/{interface['network']}"
        for mount in seen.applied["spec"].get("mounts", ()):
            if mount["type"] == "volume":
                yield f"Volume/{mount['source']}"


def follows(seen: ObservedServer) -> Iterable[str]:
    """The servers that it depends on, from its record."""
    recorded = seen.applied["spec"].get("dependsOn", ()) if seen.applied else ()
    return [f"Server/{dependency['name']}" for dependency in recorded]
