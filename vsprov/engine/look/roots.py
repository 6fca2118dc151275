"""What the root file system of a running server consists of, to notice that it is no longer on disk.

A mount keeps its directories even if they are removed. A server whose upper layer or image layers were
removed, or removed and made again, therefore keeps running, but on something that nothing else can see. The
mark `root` on its home group identifies the directories that were mounted: those of upper/ and work/, and of
the layers, lowest first. An inode number is not used again while the directory is mounted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from vsprov.store import servers
from vsprov.store.disk import marks
from vsprov.store.instance import Instance
from vsprov.store.layers import layers
from vsprov.store.space.disks import place

MARK = "root"
MISSING = "-"


def write(instance: Instance, home: str, name: str, keys: Iterable[str]) -> None:
    """Mark the home group of a server that has just mounted the layers `keys`."""
    folder = place(f"{instance.servers}/{name}")
    own = (_identity(f"{folder}/{part}") for part in ("upper", "work"))
    marks.write_mark(home, MARK, " ".join((*own, *(of_layer(instance, key) for key in keys))))


def of_layer(instance: Instance, key: str) -> str:
    """The identity of a layer in the store; that of none for a damaged one, which is to be made again."""
    return MISSING if layers.is_damaged(instance, key) else _identity(layers.tree(instance, key))


def detached(
    mounted: Sequence[str], own: Mapping[str, str], keys: Sequence[str], of_layer: Callable[[str], str]
) -> tuple[str, ...]:
    """The parts of a server's root that are not those on disk: "upper", "work" and keys of layers.

    `mounted` are the words of the mark, `own` the identities of upper/ and work/ by name.
    """
    now = [own.get("upper", MISSING), own.get("work", MISSING), *map(of_layer, keys)]
    if len(now) != len(mounted):
        return ()
    pairs = zip(("upper", "work", *keys), mounted, now, strict=True)
    return tuple(part for part, before, after in pairs if before != after)


def _identity(path: str) -> str:
    try:
        return servers.identity(os.lstat(path))
    except FileNotFoundError:
        return MISSING
