"""Which volumes are mounted in a running server, from the mount table of its namespace."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from vsprov.kernel import proc
from vsprov.plan.aspects.mounts import MountedVolume
from vsprov.store.instance import DISK_IMAGE, Instance
from vsprov.store.volumes.building import DATA


class Found(Struct, frozen=True):
    """A volume that is mounted at `point`, a path without links, by the mount with the ID `number`."""

    volume: str
    point: str
    number: int
    read_only: bool

    def at(self, target: str) -> MountedVolume:
        return MountedVolume(target, self.volume, self.read_only, self.point)


class VolumeMounts:
    """Recognizes mounts of the volumes of an instance. Reads nothing if it has none.

    A mount shows the file system and the path in it, so a volume that was renamed has its new name.
    """

    def __init__(self, instance: Instance) -> None:
        self.folder = instance.volumes
        self._exists: bool | None = None
        self._root = ("", "")  # the device and the path in its file system of `folder`
        self._own: dict[tuple[str, str], str] = {}  # volumes with a file system of their own

    def mounted(self, pid: int, spec: Mapping[str, Any]) -> tuple[MountedVolume, ...] | None:
        """What is mounted in the server, by the targets of its recorded spec; None if it has just ended."""
        if not self._read():
            return ()
        found = self.find(pid)
        if found is None:
            return None
        targets = self.by_target(found, spec)
        return tuple(targets[target].at(target) for target in sorted(targets))

    def by_target(self, found: list[Found], spec: Mapping[str, Any]) -> dict[str, Found]:
        """The mounts by the targets of a spec. A target through a link has the mount of its volume that no
        other target accounts for; what no target accounts for has its own path.
        """
        wanted = {one["target"]: one["source"] for one in spec.get("mounts", ()) if one["type"] == "volume"}
        left = {one.point: one for one in found}
        out = {target: left.pop(target) for target in wanted if target in left}
        for target, volume in wanted.items():
            if target not in out:
                match = next((one for one in left.values() if one.volume == volume), None)
                if match:
                    out[target] = left.pop(match.point)
        return {**left, **out}

    def find(self, pid: int) -> list[Found] | None:
        """All mounts of volumes in the namespace of a process; None if it has ended."""
        table = proc.mounts(f"/proc/{pid}/mountinfo")
        return list(self._volumes(table)) if table else None

    def _volumes(self, table: list[proc.Mount]) -> Iterator[Found]:
        self._read()
        device, root = self._root
        inside = re.compile(rf"{re.escape(root)}/([^/]+)/{DATA}")
        for one in table:
            name = self._own.get((one.device, one.root))
            if (
                name is None
                and one.device == device
                and (match := inside.fullmatch(proc.unescaped(one.root)))
            ):
                name = match[1]
            if name is not None:
                yield Found(name, proc.unescaped(one.point), one.number, "ro" in one.flags.split(","))

    def _read(self) -> bool:
        """Look where the volumes are on the host; whether there are any."""
        if self._exists is None:
            self._exists = os.path.isdir(self.folder)
            if self._exists:
                self._locate(os.path.realpath(self.folder))
        return self._exists

    def _locate(self, folder: str) -> None:
        table = [(proc.unescaped(one.point), one) for one in proc.mounts()]
        above = [(point, one) for point, one in table if f"{folder}/".startswith(f"{point.rstrip('/')}/")]
        longest = max((len(point) for point, _ in above), default=0)
        for point, one in above:
            if len(point) == longest:  # the last one covers the others
                below = folder.removeprefix(point.rstrip("/"))
                self._root = one.device, f"{proc.unescaped(one.root).rstrip('/')}{below}"
        for point, one in table:
            name, _, last = point.removeprefix(f"{folder}/").partition("/")
            if point.startswith(f"{folder}/") and last == DATA:
                self._own[one.device, one.root] = name
        self._locate_images(folder)

    def _locate_images(self, folder: str) -> None:
        images = glob.glob(f"{glob.escape(folder)}/*/{DISK_IMAGE}")
        if not images:
            return
        from vsprov.kernel.storage import loop

        devices = loop.devices()
        for image in images:
            if device := devices.get(image):
                number = os.stat(device).st_rdev
                name = os.path.basename(os.path.dirname(image))
                self._own[f"{os.major(number)}:{os.minor(number)}", "/"] = name
