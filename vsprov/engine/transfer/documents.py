"""The documents in an export: a server as it was last applied, and what it refers to."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from vsprov.manifest.load import document_of
from vsprov.manifest.syntax.dump import to_yaml
from vsprov.model.kinds.server import Server
from vsprov.model.kinds.volume import Volume
from vsprov.model.objects import Object
from vsprov.plan.compare import applied
from vsprov.plan.observed import ObservedServer
from vsprov.store import images, recorded
from vsprov.store.instance import Instance
from vsprov.store.volumes import directory


def of_server(instance: Instance, seen: ObservedServer) -> list[Object]:
    """The objects: image, pool, networks, volumes, and at the end the server itself."""
    assert seen.applied is not None
    server = applied.to_object(seen.name, seen.applied)
    assert isinstance(server.spec, Server)
    spec = replace(server.spec, state="Running" if seen.init else "Stopped")
    return [*_referred(instance, spec), replace(server, spec=spec)]


def _referred(instance: Instance, spec: Server) -> Iterator[Object]:
    image = images.observe(instance).get(spec.image)
    if image is not None and image.spec:
        yield applied.object_of("Image", spec.image, {"spec": image.spec})
    if spec.quota is not None:
        yield from _recorded(instance, "Quota", [spec.quota])
    yield from _recorded(instance, "Network", [one.network for one in spec.interfaces if one.network])
    known = directory.observe(instance)
    for name in mounted(spec):
        found = known.get(name)
        if found is not None and found.applied is not None:
            volume = applied.object_of("Volume", name, found.applied)
            assert isinstance(volume.spec, Volume)
            # Its files are in the export: the source has no effect any more, and may not exist elsewhere.
            yield replace(volume, spec=replace(volume.spec, source=None))


def mounted(spec: Server) -> list[str]:
    """The volumes that a server mounts, each once."""
    return list(dict.fromkeys(one.source for one in spec.mounts if one.type == "volume" and one.source))


def _recorded(instance: Instance, kind: str, names: list[str]) -> Iterator[Object]:
    known = recorded.observe(instance, kind) if names else {}
    for name in dict.fromkeys(names):
        record = known.get(name)
        if record is not None and record.applied is not None:
            yield applied.object_of(kind, name, record.applied)


def to_text(objects: list[Object]) -> bytes:
    """The documents as YAML."""
    return to_yaml(document_of(one) for one in objects).encode()
