"""Directories of volumes under a temporary name, until they are complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from vsprov.kernel.paths import WRITABLE_BY_SERVERS
from vsprov.model.disk_backends import IMAGE, QGROUP
from vsprov.plan.volumes.state import Space
from vsprov.store.disk import durable, marks, sealed
from vsprov.store.disk.marks import Owner
from vsprov.store.space import disks

DATA, RECORD = "data", "volume.json"
CREATED = "createdAt"  # in volume.json, beside the keys of what was applied
Fill = Callable[[str], object]


def build(
    making: str, owner: Owner, applied: Mapping[str, Any], created: float, space: Space, fill: Fill
) -> None:
    """Make the directory of a volume, safe from power failure; `fill` as in `volumes.make`."""
    durable.remove_tree(making)
    os.mkdir(making, 0o700)
    marks.write_owner(making, owner)
    fill_files(making, space, fill)
    write_record(making, applied, created)
    durable.flush_all(making)


def fill_files(making: str, space: Space, fill: Fill) -> None:
    """Make the files of a volume in its directory, where `space` limits them; `fill` as in `volumes.make`."""
    if space.backend == IMAGE:
        from vsprov.store.space import shared

        def fill_image(top: str) -> None:
            _mark_root(top)
            fill(top)

        shared.make(making, space.space, space.inodes, fill_image)
    else:
        top = f"{making}/{DATA}"
        if space.backend == QGROUP:
            from vsprov.store.space import subvolume

            subvolume.make_volume(top, space.space)
            _mark_root(top)
        else:
            make_root(top)
            if space.backend:
                limit(making, space)
        fill(top)


def make_root(top: str) -> None:
    os.mkdir(top, 0o755)
    _mark_root(top)


def _mark_root(top: str) -> None:
    from vsprov.store.trees import acl

    acl.remove(top)  # inherited from the state root
    os.chmod(top, 0o755)  # whatever the umask is
    os.setxattr(top, WRITABLE_BY_SERVERS, b"1")


def limit(path: str, space: Space) -> None:
    """Limit what is in the directory of a volume, from now on or otherwise than before, by a quota."""
    if space.backend == QGROUP:
        from vsprov.store.space import subvolume

        subvolume.limit_volume(f"{path}/{DATA}", space.space)
        return
    from vsprov.store.space import project

    number = project.find(path, DATA) or project.free(f"{path}/{DATA}")
    project.limit(path, number, space.space, space.inodes, (DATA,))


def write_record(path: str, applied: Mapping[str, Any], created: float) -> None:
    durable.write_file(f"{path}/{RECORD}", sealed.seal({**applied, CREATED: created}))


def wait_until_unused(path: str) -> None:
    """Wait until the kernel has detached the image at this path, if there is one."""
    if disks.has_image(path):
        from vsprov.store.space import image

        image.wait_until_detached(path)
