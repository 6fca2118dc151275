"""The files that a server has changed of its image."""

from __future__ import annotations

from collections.abc import Iterator

from vsprov.engine.guests.commands import join
from vsprov.engine.servers.record import record_of
from vsprov.kernel import process
from vsprov.store import images
from vsprov.store.instance import Instance
from vsprov.store.layers import layers
from vsprov.store.space import disks
from vsprov.store.written import comparison
from vsprov.store.written.comparison import Change


def changes(instance: Instance, name: str) -> Iterator[Change]:
    """What differs between a server's root and its image, parents before children.

    FailedError if there is no such server.
    """
    process.require_root("changes: reading the files of servers")
    seen = join.find(instance, name)[2]
    image = images.contents(instance, record_of(seen)["image"])
    lower = [layers.tree(instance, key) for key in reversed(image.layers)]
    with disks.upper(f"{instance.servers}/{name}", seen.id_base or 0) as upper:
        yield from comparison.changes(upper, lower)
