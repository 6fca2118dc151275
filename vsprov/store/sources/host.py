"""The `host` source: the host's own /usr over a generated skeleton."""

from __future__ import annotations

from vsprov.model.kinds.image import Image
from vsprov.store import hostimage
from vsprov.store.images import Contents, ImageRecord
from vsprov.store.instance import Instance
from vsprov.store.layers.layers import Batch
from vsprov.store.sources import Resolved


def resolve(instance: Instance, image: Image, known: ImageRecord | None, refresh: bool) -> Resolved:
    assert image.source.host is not None
    hostimage.check(image.source.host, state_root=instance.root)
    digest = hostimage.digest(image.source.host)
    return Resolved(digest, f"host {digest}")


def fetch(batch: Batch, image: Image, resolved: Resolved) -> Contents:
    host = image.source.host
    assert host is not None
    hostimage.check(host, state_root=batch.instance.root)
    batch.make(resolved.digest, lambda into: hostimage.build(host, into))
    return Contents((resolved.digest,), hostimage.binds(host))
