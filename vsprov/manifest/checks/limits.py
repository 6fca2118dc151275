"""Checks of the resources of servers and quotas. Each is a function in `LIMIT_CHECKS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vsprov.errors import Problem
from vsprov.manifest.problems import problem_at
from vsprov.manifest.resolve import Item
from vsprov.model.disk_backends import HINT_IMAGE, IMAGE, NO_IMAGE
from vsprov.model.fields import Path
from vsprov.model.kinds.quota import Quota
from vsprov.model.kinds.server import Server
from vsprov.model.limits.encodings import PERIOD
from vsprov.model.limits.knobs import BY_PATH, KNOBS
from vsprov.model.objects import Object
from vsprov.model.values import units
from vsprov.model.values.units import MAX

LEAST_DISK = 16 << 20  # of which 11 MiB can be used for files
LEAST_MEMORY = 256 << 10  # measured on Linux 6.18: a shell was killed with 192Ki, and ran with 256Ki


def bounds(item: Item, read: Object) -> Iterator[Problem]:
    """Knobs that exceed the knob that bounds them. If a quota sets both, it is reported at the quota."""
    resources = _resources(read)
    for knob in _BOUNDED if item.sound else ():
        value, bound = resources.get(knob.path), resources.get(knob.bounds)
        if value in (None, MAX) or bound in (None, MAX) or value <= bound:
            continue
        if _is_own(item, knob.path, knob.bounds):
            show = knob.kind.format
            message = f"{show(value)} exceeds {knob.bounds.split('.')[1]} ({show(bound)})"
            yield _at_knob(item, message, knob.path, knob.bounds)


def burst(item: Item, read: Object) -> Iterator[Problem]:
    """sched-bwc.rst: the burst cannot exceed the quota, and requires one."""
    resources = _resources(read)
    value, limit = resources.get("cpu.burst"), resources.get("cpu.limit", MAX)
    if not item.sound or not value or not _is_own(item, "cpu.burst", "cpu.limit"):
        return
    if limit == MAX:
        message, hint = "a burst requires a limit", "set cpu.limit too"
        yield _at_knob(item, message, "cpu.burst", "cpu.limit", hint=hint)
    elif value > limit * PERIOD // 1000:
        most = units.format_duration(limit * PERIOD // 1000)
        limited = f"{units.format_cpu(limit)} is {most} per 100ms"
        message = f"{units.format_duration(value)} exceeds the limit: {limited}"
        yield _at_knob(item, message, "cpu.burst", "cpu.limit")


def swap_without_memory(item: Item, read: Object) -> Iterator[Problem]:
    """memory.swapMax without memory.max, which cgroup v1 cannot express."""
    resources = _resources(read)
    if "memory.swapMax" in resources and resources.get("memory.max", MAX) == MAX and item.sound:
        if _is_own(item, "memory.swapMax", "memory.max"):
            message = "has no effect without memory.max on a host with cgroup v1"
            yield _at_knob(item, message, "memory.swapMax", hint="set memory.max too", warning=True)


def least_memory(item: Item, read: Object) -> Iterator[Problem]:
    """Memory limits with which no program can start."""
    value = _resources(read).get("memory.max")
    if value in (None, MAX) or value >= LEAST_MEMORY or not _is_own(item, "memory.max"):
        return
    if value == 0:
        yield _at_knob(item, "a server needs memory", "memory.max", hint="write max for no limit")
    else:
        least = units.format_bytes(LEAST_MEMORY)
        message = f"{units.format_bytes(value)} is too little to start a program; about {least} is needed"
        yield _at_knob(item, message, "memory.max", warning=True)


def one_cpu(item: Item, read: Object) -> Iterator[Problem]:
    """`cpus: 1`, which pins a server to CPU number 1, and in Compose files is an amount of time."""
    given: Any = item.document.value
    for part in _knob_path(item, "cpu.cpus"):
        given = given.get(part) if isinstance(given, dict) else None
    if type(given) is int:
        message = f"{given} is the number of a CPU, not an amount of time"
        hint = f'write cpus: "{given}" to use only CPU {given}; limit: {given} limits the time'
        yield _at_knob(item, message, "cpu.cpus", hint=hint, warning=True)


def pool_rlimits(item: Item, read: Object) -> Iterator[Problem]:
    """Process limits in a pool."""
    if isinstance(read.spec, Quota) and read.spec.scope == "pool":
        for path in read.spec.resources:
            if BY_PATH[path].rlimit:
                message = "a pool cannot share this limit: the kernel applies it to each process"
                yield item.problem(_knob_path(item, path), message, "use a Quota with scope server")


def disk(item: Item, read: Object) -> Iterator[Problem]:
    """Images in a pool, a backend without a limit, or one too small for a file system."""
    resources = _resources(read)
    given = [path for path in resources if path.startswith("disk.")]
    is_pool = isinstance(read.spec, Quota) and read.spec.scope == "pool"
    if is_pool and resources.get("disk.backend") == IMAGE:
        yield item.problem(_knob_path(item, "disk.backend"), NO_IMAGE, HINT_IMAGE)
    if given == ["disk.backend"]:
        yield _at_knob(item, "has no effect without a limit", *given, hint="set disk.space too", warning=True)
    space = resources.get("disk.space", MAX)
    if space != MAX and space < LEAST_DISK and _is_own(item, "disk.space"):
        message = f"{units.format_bytes(space)} is less than the minimum of {units.format_bytes(LEAST_DISK)}"
        yield _at_knob(item, message, "disk.space", hint="write max for no limit")


_BOUNDED = tuple(knob for knob in KNOBS if knob.bounds)


def _resources(read: Object) -> Mapping[str, Any]:
    return read.spec.resources if isinstance(read.spec, Quota | Server) else {}


def _knob_path(item: Item, knob: str) -> Path:
    under: Path = ("spec",) if item.address.startswith("Quota/") else ("spec", "resources")
    return (*under, *knob.split(".", 1))


def _is_own(item: Item, *knobs: str) -> bool:
    """Whether this document sets one of the knobs; errors of a quota alone are reported at the quota."""
    return item.quota is None or any(item.origin(_knob_path(item, knob)).text == "manifest" for knob in knobs)


def _at_knob(item: Item, message: str, *knobs: str, hint: str = "", warning: bool = False) -> Problem:
    """A problem at the first of the knobs that this document sets; the hint names the quota of others."""
    own = [knob for knob in knobs if item.origin(_knob_path(item, knob)).text == "manifest"]
    shown = _knob_path(item, own[0] if own else knobs[0])
    if not hint and own and own[0] != knobs[0]:
        message = f"{knobs[0]}: {message}"
    if item.quota is not None and len(own) < len(knobs) and not hint:
        hint = f"the other value comes from {item.quota.address}"
    return problem_at(item.document, shown, message, hint, warning=warning)


LIMIT_CHECKS: tuple[Callable[[Item, Object], Iterator[Problem]], ...] = (
    bounds,
    burst,
    swap_without_memory,
    least_memory,
    one_cpu,
    pool_rlimits,
    disk,
)
