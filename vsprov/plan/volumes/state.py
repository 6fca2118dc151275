"""The observed state of volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from msgspec import Struct

from vsprov.model.values.units import format_bytes, format_number
from vsprov.plan.observed import Observed
from vsprov.plan.seen_disk import SeenDisk


class Space(Struct, frozen=True):
    """What limits a volume: the backend, "" for none; bytes, 0 for no limit; inodes, None for no limit."""

    backend: str = ""
    space: int = 0
    inodes: int | None = None

    def __str__(self) -> str:
        limits = [format_bytes(self.space)] if self.space else []
        limits += [f"{format_number(self.inodes)} inodes"] if self.inodes is not None else []
        return ", ".join(limits) + f" ({self.backend})" if self.backend else "no limit"


UNLIMITED = Space()


class ObservedVolume(Struct, frozen=True):
    """A volume on disk.

    `owner` is its owner mark, None without one. `applied` is the record of what was applied ({"spec",
    "labels", "annotations"}), None if it is not readable. `created` is when it was created, in Unix time, 0
    if unknown. `empty` is whether it has no files. `problem` says why its files cannot be used; "" if they
    can. `root` are the owner and the mode of its root directory as servers see them ("0:0", "0755").
    `formerly` is the name that it still has on disk, if the plan renames it. `space` is what limits it, None
    if nothing does.
    """

    name: str
    owner: str | None
    applied: Mapping[str, Any] | None = None
    created: float = 0.0
    empty: bool = True
    problem: str = ""
    root: tuple[str, str] = ("", "")
    formerly: str = ""
    space: SeenDisk | None = None

    @property
    def spec(self) -> Mapping[str, Any]:
        """The recorded spec, {} if it is not readable."""
        return self.applied["spec"] if self.applied else {}


def volumes(observed: Observed) -> Mapping[str, ObservedVolume]:
    """The volumes of the instance, by name."""
    return cast(Mapping[str, ObservedVolume], observed.more.get("Volume", {}))
