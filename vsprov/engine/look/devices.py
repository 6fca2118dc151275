"""Block devices: the device number of a path, which cgroup files use, and the path of a number."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from vsprov.errors import FailedError, Problem
from vsprov.kernel import cgroup
from vsprov.model.kinds.quota import Quota
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.plan.limits import resources
from vsprov.plan.observed import Machine, Observed, ObservedGroup

KNOB = "io.devices"


def number_of(path: str) -> str:
    """The "major:minor" of a block device. FailedError if the path is not a whole block device."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise FailedError(f"{path}: {error.strerror}") from error
    if not stat.S_ISBLK(status.st_mode):
        raise FailedError(f"{path} is not a block device")
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    if os.path.exists(f"/sys/dev/block/{number}/partition"):
        whole = os.path.basename(os.path.dirname(os.path.realpath(f"/sys/dev/block/{number}")))
        raise FailedError(f"{path} is a partition", hint=f"limits apply to whole disks: /dev/{whole}")
    return number


def numbers(paths: Iterable[str]) -> dict[str, str]:
    """{path: number}, for the paths that are whole block devices."""
    found = {}
    for path in paths:
        try:
            found[path] = number_of(path)
        except FailedError:
            continue  # reported by `refusals`
    return found


def named_by(objects: Iterable[Object]) -> Iterator[tuple[Object, str]]:
    """(object, path) for each device that an object limits."""
    for one in objects:
        if isinstance(one.spec, Quota | Server):
            for path in _paths(one.spec.resources):
                yield one, path


def refusals(objects: Iterable[Object]) -> list[Problem]:
    """A problem for each path in `objects` that is not a whole block device."""
    found: dict[str, Problem] = {}
    for one, path in named_by(objects):
        try:
            number_of(path)
        except FailedError as error:
            where = f"spec.resources.{KNOB}" if isinstance(one.spec, Server) else f"spec.{KNOB}"
            found.setdefault(path, Problem(str(error), None, where, one.address, error.hint))
    return list(found.values())


def with_names(machine: Machine, observed: Observed) -> Machine:
    """The machine with a path for every device that a group of the instance limits.

    That is the recorded path if it still refers to the device, otherwise the path that the kernel uses.
    """
    groups: list[tuple[ObservedGroup | None, Mapping[str, Any]]] = [
        (pool, resources.of_pool(pool)) for pool in observed.pools.values()
    ]
    for seen in observed.servers.values():
        groups.append((seen.group, resources.of_record(seen.applied) if seen.applied else {}))
    limited = {number for group, _ in groups if group for number in _numbers_in(group, machine)}
    if not limited:
        return machine
    recorded = numbers(path for _, resources in groups for path in _paths(resources))
    rest = sorted(limited - {*recorded.values(), *machine.host.devices.values()})
    named = {path: number for number in rest if (path := _kernel_path(number))}
    known = {**named, **recorded, **machine.host.devices}
    return replace(machine, host=replace(machine.host, devices=known))


def _paths(resources: Mapping[str, Any]) -> Iterator[str]:
    for row in resources.get(KNOB, ()):
        yield dict(row)["device"]


def _numbers_in(group: ObservedGroup, machine: Machine) -> Iterator[str]:
    for _, side in machine.rows:
        if side.reset:  # a file with one line per device
            for file in side.files:
                yield from (line.split(" ", 1)[0] for line in group.texts.get(file, "").splitlines())


def _kernel_path(number: str) -> str:
    """The path of a device by its name in the kernel, such as /dev/vda; "" if it was removed."""
    for line in (cgroup.read(f"/sys/dev/block/{number}/uevent") or "").splitlines():
        key, _, name = line.partition("=")
        if key == "DEVNAME":
            return f"/dev/{name}"
    return ""
