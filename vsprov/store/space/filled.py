"""What a server writes to, with any limit, and with its contents before the server gets it.

It is, in the directory of the server: disk.img; or else what is in disk/; or else upper/ and work/.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from msgspec import Struct

from vsprov.errors import FailedError
from vsprov.model.disk_backends import IMAGE, PROJECT, QGROUP, UNLIMITED
from vsprov.plan.servers.disk_steps import MakeDisk, MoveDisk
from vsprov.store.disk.exchange import Pair
from vsprov.store.instance import DISK_IMAGE, DISK_SUBVOLUME, Instance
from vsprov.store.space import project, subvolume
from vsprov.store.space.disks import has_image, has_subvolume
from vsprov.store.space.parts import MODES, make_part
from vsprov.store.space.pools import must_find

Fill = Callable[[str], object]
_FIRST = (DISK_SUBVOLUME, DISK_IMAGE)  # an image goes before a subvolume


class Limit(Struct, frozen=True):
    """What limits a server: the backend, UNLIMITED for none, bytes and inodes, as the backends take them, and
    the numbers of the projects or quota groups of pools.
    """

    backend: str
    space: int = 0
    inodes: int | None = None
    pools: tuple[int, ...] = ()

    @staticmethod
    def of(instance: Instance, disk: MakeDisk | MoveDisk | None) -> Limit:
        """The limit that a step wants."""
        if disk is None:
            return Limit(UNLIMITED)
        shared = (must_find(instance, disk.pool).number,) if disk.pool else ()
        return Limit(disk.backend, disk.space, disk.inodes, shared)


def limit_of(folder: str) -> Limit:
    """What limits the server with this directory now."""
    if has_image(folder):
        from vsprov.store.space import image_state

        return Limit(IMAGE, *image_state.made_with(folder))
    if has_subvolume(folder):
        space, pools = subvolume.limit_of(folder)
        return Limit(QGROUP, space, None, pools)
    found = project.observe(folder)
    return Limit(PROJECT, found.space, found.inodes, found.pools) if found else Limit(UNLIMITED)


def make(target: str, base: int, fill: Fill, limit: Limit) -> None:
    """Make in the directory `target` what a server whose ids begin at `base` is to write to.

    `fill` makes its upper/ in the directory that it is called with.
    """
    if limit.backend == PROJECT:
        project.begin(target, max(limit.pools, default=base), limit.space, limit.inodes)
    if limit.backend in (PROJECT, UNLIMITED):
        fill(target)
        make_part(target, "work", base)
        project.leave(target)
        return
    if limit.backend == QGROUP:
        subvolume.make(target, base, limit.space, limit.pools)
        made = subvolume.path(target)
        os.rmdir(f"{made}/upper")
        fill(made)
    elif limit.backend == IMAGE:
        _fill_image(target, base, fill, limit)
    else:
        raise FailedError(f"{target}: unknown backend {limit.backend}")
    for part in MODES:
        make_part(target, part, base)


def _fill_image(target: str, base: int, fill: Fill, limit: Limit) -> None:
    """An image that nothing has mounted in the end, and that is written to its file."""
    from vsprov.store.space import image, writing

    image.make(target, limit.space, limit.inodes)
    mounted = image.attach(target, base)
    try:
        with writing.written(target, mounted):
            os.rmdir("upper", dir_fd=mounted)
            fill(f"/proc/self/fd/{mounted}")
    finally:
        os.close(mounted)
    image.wait_until_detached(target)


def pairs(folder: str, making: str) -> list[Pair]:
    """What has to be exchanged for the stopped server in `folder` to have what was made in `making`, and the
    other way round.

    In this order, one exchange switches between them: the server has the one or the other at any moment.
    """
    incoming = [part for part in _FIRST if os.path.lexists(f"{making}/{part}")]
    outgoing = [part for part in _FIRST if os.path.lexists(f"{folder}/{part}")]
    parts = [] if incoming and outgoing else ["work", "upper"]
    found = [(f"{folder}/{part}", f"{making}/{part}") for part in (*incoming, *parts)]
    return found + [(f"{making}/{part}", f"{folder}/{part}") for part in outgoing if part not in incoming]
