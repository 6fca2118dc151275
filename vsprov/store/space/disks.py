"""The disks of servers: what this host can limit them by, and what limits each of them.

The modules of the backends are loaded only if a server is limited.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vsprov.model import disk_backends
from vsprov.plan.seen_disk import SeenDisk
from vsprov.store.instance import DISK_IMAGE, DISK_SUBVOLUME


def lacks(root: str) -> dict[str, str]:
    """{backend: why this host does not support it in this state root, "" if it does}."""
    from vsprov.store.space import image, project, subvolume

    return {
        disk_backends.PROJECT: project.lack(root),
        disk_backends.QGROUP: subvolume.lack(root),
        disk_backends.IMAGE: image.lack(),
    }


def has_image(folder: str) -> bool:
    """Whether what a server writes is in an image, and not in its directory."""
    return os.path.lexists(f"{folder}/{DISK_IMAGE}")


def has_subvolume(folder: str) -> bool:
    """Whether what a server writes is in a subvolume of its own."""
    return os.path.lexists(f"{folder}/{DISK_SUBVOLUME}") and not has_image(folder)


def place(folder: str) -> str:
    """The path of the directory that upper/ and work/ of a server are in, unless they are in an image."""
    return f"{folder}/{DISK_SUBVOLUME}" if has_subvolume(folder) else folder


@contextmanager
def upper(folder: str, base: int) -> Iterator[str]:
    """The path, for this process, of what a server has written, whether it runs or not. Its ids begin at
    `base`.

    A stopped server whose image this is cannot be started meanwhile.
    """
    if not has_image(folder):
        yield f"{place(folder)}/upper"
        return
    from vsprov.store.space import image

    with image.opened(folder, base) as mounted:
        yield f"/proc/self/fd/{mounted}/upper"


class Disks:
    """What limits servers. The loop devices of the host are listed once, if a server has an image.

    `shared`: the disk of a pool is limited, so that any server may have its project.
    """

    def __init__(self, *, shared: bool = False) -> None:
        self._devices: dict[str, str] | None = None
        self._shared = shared

    def of(self, folder: str, recorded: bool, part: str = "upper") -> SeenDisk | None:
        """What limits the server or the volume with this directory, of which `part` has the files; None if
        nothing does.

        A quota is only looked for if it was `recorded` to have a limit.
        """
        if has_subvolume(folder):
            from vsprov.store.space import subvolume

            return subvolume.observe(folder)
        if not has_image(folder):
            if not recorded and not self._shared:
                return None
            from vsprov.store.space import project

            if part != "upper":
                from vsprov.store.space import subvolume

                if found := subvolume.observe_volume(f"{folder}/{part}"):
                    return found
            return project.observe(folder, part)
        from vsprov.kernel.storage import loop
        from vsprov.store.space import image_state

        if self._devices is None:
            self._devices = loop.devices()
        return image_state.observe(folder, self._devices)


def is_limited(record: Mapping[str, Any] | None) -> bool:
    """Whether the record of a server has a disk limit."""
    return bool(record and record["spec"].get("resources", {}).get("disk"))


def is_written(folder: str) -> bool:
    """Whether anything is in the upper/ of a server that has no disk of its own, and never had a quota."""
    from vsprov.store.space import project

    try:
        return bool(os.listdir(f"{folder}/upper")) and not project.find(folder, "work")
    except (FileNotFoundError, NotADirectoryError):
        return False
