"""Block devices: the number by which the kernel limits the device of a path, and the path of a number."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from vsprov.errors import FailedError, Problem
from vsprov.kernel import cgroup
from vsprov.model.objects import Object, Quota, Server
from vsprov.plan import resources
from vsprov.plan.observed import Machine, Observed, ObservedGroup

KNOB = "io.devices"


def number_of(path: str) -> str:
    """The "major:minor" of a whole block device. Raises FailedError for what is none."""
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
    """{path: number} of those that are block devices."""
    found = {}
    for path in paths:
        try:
            found[path] = number_of(path)
        except FailedError:
            continue  # `refusals` says why
    return found


def named_by(objects: Iterable[Object]) -> Iterator[tuple[Object, str]]:
    """Each device that some object limits, with the object."""
    for one in objects:
        if isinstance(one.spec, Quota | Server):
            for path in _paths(one.spec.resources):
                yield one, path


def refusals(objects: Iterable[Object]) -> list[Problem]:
    """What is wrong with the devices that objects name; each device once."""
    found: dict[str, Problem] = {}
    for one, path in named_by(objects):
        try:
            number_of(path)
        except FailedError as error:
            where = f"spec.resources.{KNOB}" if isinstance(one.spec, Server) else f"spec.{KNOB}"
            found.setdefault(path, Problem(str(error), None, where, one.address, error.hint))
    return list(found.values())


def with_names(machine: Machine, observed: Observed) -> Machine:
    """The machine with a path for every device that a group of ours limits: the one that was applied while
    it leads to the device, else the kernel's own.
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
        if side.reset:  # files with one line per device
            for file in side.files:
                yield from (line.split(" ", 1)[0] for line in group.texts.get(file, "").splitlines())


def _kernel_path(number: str) -> str:
    """The path that the kernel gives a device, as /dev/vda; "" when it is gone."""
    for line in (cgroup.read(f"/sys/dev/block/{number}/uevent") or "").splitlines():
        key, _, name = line.partition("=")
        if key == "DEVNAME":
            return f"/dev/{name}"
    return ""
