"""Limits of disks, of servers and volumes alike: what is wanted, by which backend, and what cannot be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from vsprov.errors import Problem
from vsprov.model.disk_backends import AUTO, BACKENDS, IMAGE, QGROUP
from vsprov.model.values.units import MAX
from vsprov.plan.limits.resources import whole_blocks
from vsprov.plan.observed import Machine
from vsprov.plan.seen_disk import SeenDisk

GROUP = "disk."  # of knobs
MOST_INODES = 1 << 63


class DiskLimit(Struct, frozen=True):
    """The limit that is wanted: bytes, number of inodes (None for no limit), backend or `auto`."""

    backend: str
    space: int | None
    inodes: int | None

    @staticmethod
    def of(resources: Mapping[str, Any]) -> DiskLimit | None:
        """The limit in resources by knob; None if there is none."""
        space, inodes = (resources.get(f"{GROUP}{key}", MAX) for key in ("space", "inodes"))
        if space == inodes == MAX:
            return None
        return DiskLimit(
            resources.get(f"{GROUP}backend", AUTO),
            None if space == MAX else whole_blocks(space),
            None if inodes == MAX else inodes,
        )


class Keys(Struct, frozen=True):
    """The paths of the keys that limit an object; `things` is what is limited by them, for people, and
    `backends` are those that can.
    """

    things: str
    space: str
    inodes: str
    backend: str
    backends: tuple[str, ...] = BACKENDS


def choose(
    limit: DiskLimit, disk: SeenDisk | None, machine: Machine, backends: Iterable[str] = BACKENDS
) -> str:
    """The backend that is meant, of `backends`, the best first; "" if this host supports none."""
    if limit.backend != AUTO:
        return limit.backend
    if disk:
        return disk.backend
    usable = [name for name in backends if name != QGROUP or limit.inodes is None]
    return next((name for name in usable if machine.disks.get(name) == ""), "")


def impossible(
    address: str, backend: str, space: int | None, inodes: int | None, keys: Keys
) -> Iterator[Problem]:
    """Limits that a backend cannot set on any host."""
    if backend == IMAGE and not space:
        key = keys.space.removeprefix("spec.").removeprefix("resources.")
        yield Problem("the backend image requires it", None, keys.space, address, f"set {key} too")
    if backend == QGROUP and inodes is not None:
        message = "the backend qgroup cannot limit the number of inodes: btrfs does not count them"
        hint = "omit it, or use backend: image" if IMAGE in keys.backends else "omit it"
        yield Problem(message, None, keys.inodes, address, hint)


def unsupported(
    address: str, limit: DiskLimit, backend: str, machine: Machine, keys: Keys
) -> Iterator[Problem]:
    """A backend, or `auto`, that this host does not support."""
    if limit.backend == AUTO and not backend:
        whys = "; ".join(f"{name}: {_lack(name, limit, machine)}" for name in keys.backends)
        message = f"this host cannot limit {keys.things}: {whys}"
        yield Problem(message, None, keys.space, address, "see vsprov doctor", lack=True)
    elif machine.disks.get(backend):
        message = f"{backend} is not supported by this host: {machine.disks[backend]}"
        yield Problem(message, None, keys.backend, address, "see vsprov doctor, or use auto", lack=True)


def _lack(backend: str, limit: DiskLimit, machine: Machine) -> str:
    """Why this host does not support a limit by a backend."""
    lack = machine.disks.get(backend, "unknown")
    return lack or ("cannot limit inodes" if backend == QGROUP and limit.inodes is not None else "")
