"""The resource usage of servers, from the counters of the kernel."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Struct

from vsprov.kernel import cgroup, proc
from vsprov.kernel.cgroup import Hierarchies
from vsprov.plan.observed import ObservedGroup


class Usage(Struct, frozen=True):
    """CPU time since the group was created; current memory and number of threads. None if not counted."""

    cpu_seconds: float | None = None
    memory_bytes: int | None = None
    pids: int | None = None


def read(hierarchies: Hierarchies, group: str) -> Usage:
    """The usage of the processes in a group and in the groups below it.

    cpu.stat of cgroup2 counts CPU time even without the cpu controller (cgroup-v2.rst).
    """
    stat = cgroup.read(f"{hierarchies.directory('', group)}/cpu.stat") or ""
    microseconds = next(
        (int(line.split()[1]) for line in stat.splitlines() if line.startswith("usage_usec ")), None
    )
    pids = cgroup.read(f"{hierarchies.directory('pids', group)}/pids.current")
    return Usage(
        cpu_seconds=None if microseconds is None else microseconds / 1_000_000,
        memory_bytes=cgroup.memory_used(hierarchies.directory("memory", group)),
        pids=int(pids) if pids else None,
    )


def document(hierarchies: Hierarchies, group: ObservedGroup | None) -> dict[str, Any]:
    """The usage as `get -o json` prints it; all values are None if there is no group."""
    used = read(hierarchies, group.path) if group else Usage()
    return {"cpuSeconds": used.cpu_seconds, "memoryBytes": used.memory_bytes, "pids": used.pids}


def uptime() -> float:
    """Seconds since boot, on the clock of process start times."""
    return float((proc.read("/proc/uptime") or "0").split()[0])


def age(start: int, now: float) -> float:
    """Seconds since a process started; `start` in clock ticks since boot, `now` from `uptime`."""
    return max(0.0, now - start / os.sysconf("SC_CLK_TCK"))


def started_at(start: int, now: float) -> str:
    """The time when a process started, as RFC 3339 in UTC with a resolution of seconds; see `age`."""
    moment = datetime.now(UTC) - timedelta(seconds=age(start, now))
    return moment.replace(microsecond=0).isoformat().replace("+00:00", "Z")
