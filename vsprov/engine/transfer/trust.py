"""How a server of an archive would reach the host it is imported on. An archive may come from anybody."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

from vsprov.model import fields
from vsprov.model.kinds.image import Image
from vsprov.model.kinds.network import Network
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object


def reasons(objects: Iterable[Object], carried: Iterable[str]) -> list[str]:
    """What of these objects reaches further than a server by itself does, as lines for people. The volumes
    `carried` are those of the archive; others have the data of this host.
    """
    own = frozenset(carried)
    found: list[str] = []
    for one in objects:
        spec = one.spec
        if isinstance(spec, Server):
            lines = _of_server(spec, own)
        elif isinstance(spec, Network):
            lines = _of_network(spec)
        elif isinstance(spec, Image):
            lines = _of_image(spec)
        else:
            continue
        found += [f"{one.address}: {line}" for line in lines]
    return found


def _of_server(spec: Server, own: Container[str]) -> Iterator[str]:
    for place, mount in enumerate(spec.mounts):
        rights = "read-only" if mount.read_only else "read and write"
        if mount.type == "bind":
            yield f"spec.mounts[{place}]: {mount.source} of the host ({rights})"
        elif mount.type == "volume" and mount.source not in own:
            yield f"spec.mounts[{place}]: volume {mount.source} of the host ({rights})"
    for when, hooks in fields.write(spec).get("hooks", {}).items():
        for hook in hooks:
            yield f"spec.hooks.{when}: runs {' '.join(hook['exec'])} on the host, as root"
    if spec.security.capabilities.add:
        yield f"spec.security.capabilities.add: {', '.join(spec.security.capabilities.add)}"


def _of_network(spec: Network) -> Iterator[str]:
    if spec.type != "bridge" or spec.bridge:
        yield f"spec.type: {spec.type}{f' {spec.bridge}' if spec.bridge else ''}: a link of the host"
    if spec.host_access:
        yield "spec.hostAccess: all services of the host"


def _of_image(spec: Image) -> Iterator[str]:
    """An image that has to be imported: from a registry it is what its digest says, and one that a commit has
    made is in the store, or cannot be imported at all.
    """
    source = spec.source
    if source.commit is not None:
        return
    if source.host is not None and not source.host.paths:
        return
    if source.oci is not None and source.oci.ref is not None and not source.oci.insecure:
        return
    yield f"spec.source.{source.kind}: is read or run on this host"
