"""Every resource knob of a Quota, one row each.

A row holds the knob's words (path, doc), its kind (how it is spelt, read and shown) and, for cgroup v1 and
v2, a `Side`: which files of which controller carry it and how a value becomes their texts. Schema,
validation, observation, plan, apply and documentation all follow from the row; adding a knob is adding a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vsprov.model import units
from vsprov.model.encodings import (
    V1_BANDWIDTH,
    V1_IO,
    V1_MEMSW,
    V1_SHARES,
    V2_BANDWIDTH,
    V2_IO_MAX,
    V2_IO_WEIGHT,
    Side,
    read_flag,
    read_ids,
    scalar,
    to_hugepage,
    to_page,
)
from vsprov.model.kinds import (
    BYTES,
    CPU,
    CPU_OR_MAX,
    DURATION,
    FLAG,
    ID_LIST,
    IO_DEVICES,
    LIMIT_BYTES,
    LIMIT_COUNT,
    RLIMIT,
    RLIMIT_BYTES,
    WEIGHT,
    Kind,
)
from vsprov.model.units import MAX


@dataclass(frozen=True, slots=True)
class Knob:
    """One row. `path` is the key below `resources` ("memory.max"); `bounds` one that it may not exceed."""

    path: str
    kind: Kind
    doc: str
    v1: Side | None = None
    v2: Side | None = None
    bounds: str = ""
    rlimit: str = ""
    admission: bool = False

    def side(self, version: int) -> Side | None:
        return self.v1 if version == 1 else self.v2

    @property
    def controller(self) -> str:
        """The cgroup controller, by its v2 name; "" for a knob that is no cgroup file."""
        return self.v2.controller if self.v2 else self.v1.controller if self.v1 else ""


def _hugepages(label: str, kernel: str) -> Knob:
    size = units.parse_bytes(label)
    return Knob(
        f"hugepages.{label}",
        LIMIT_BYTES,
        f"Most huge pages of {label} each the server may hold, in bytes.",
        v1=scalar(
            "hugetlb", f"hugetlb.{kernel}.limit_in_bytes", "-1", unlimited="-1", rounded=to_hugepage(size)
        ),
        v2=scalar("hugetlb", f"hugetlb.{kernel}.max", MAX, rounded=to_hugepage(size)),
    )


def _rlimit(name: str, doc: str, kind: Kind = RLIMIT) -> Knob:
    source = f"setrlimit(2) RLIMIT_{name.upper()}, of each process."
    return Knob(f"rlimits.{name}", kind, f"{doc} {source}", rlimit=name)


KNOBS: tuple[Knob, ...] = (
    Knob(
        "cpu.weight",
        WEIGHT,
        "Share of the CPU when servers compete for it, 1 to 10000; 100 is the default.",
        v1=V1_SHARES,
        v2=scalar("cpu", "cpu.weight", "100"),
    ),
    Knob(
        "cpu.limit",
        CPU_OR_MAX,
        "Most CPU the server may use: 1500m is one and a half CPUs.",
        v1=V1_BANDWIDTH,
        v2=V2_BANDWIDTH,
    ),
    Knob(
        "cpu.burst",
        DURATION,
        "CPU time a server may save up and spend above its limit at once, per 100 ms period.",
        v1=scalar("cpu", "cpu.cfs_burst_us", "0", at_most="cpu.cfs_quota_us"),
        v2=scalar("cpu", "cpu.max.burst", "0", at_most="cpu.max"),
    ),
    Knob(
        "cpu.reservation",
        CPU,
        "CPU the server gets even when all others want it; the sum may not exceed the host's CPUs. "
        "Held by a weight derived from it, so it is a floor for the weight.",
        admission=True,
        bounds="cpu.limit",
    ),
    Knob(
        "cpu.cpus",
        ID_LIST,
        "CPUs the server may run on.",
        v1=scalar("cpuset", "cpuset.cpus", lambda host: host.cpus, read=read_ids, new_group="", nested=True),
        v2=scalar("cpuset", "cpuset.cpus", lambda host: host.cpus, read=read_ids, new_group="", blank=True),
    ),
    Knob(
        "cpu.mems",
        ID_LIST,
        "Memory nodes the server may allocate from.",
        v1=scalar("cpuset", "cpuset.mems", lambda host: host.mems, read=read_ids, new_group="", nested=True),
        v2=scalar("cpuset", "cpuset.mems", lambda host: host.mems, read=read_ids, new_group="", blank=True),
    ),
    Knob(
        "memory.min",
        BYTES,
        "Memory that is never reclaimed; the sum of min and low may not exceed the host's memory.",
        v2=scalar("memory", "memory.min", "0", rounded=to_page),
        bounds="memory.max",
    ),
    Knob(
        "memory.low",
        BYTES,
        "Memory that is reclaimed only when nothing else is left.",
        v2=scalar("memory", "memory.low", "0", rounded=to_page),
        bounds="memory.max",
    ),
    Knob(
        "memory.high",
        LIMIT_BYTES,
        "Memory above which the server is throttled and reclaimed from.",
        v2=scalar("memory", "memory.high", MAX, rounded=to_page),
        bounds="memory.max",
    ),
    Knob(
        "memory.max",
        LIMIT_BYTES,
        "Most memory the server may use; beyond it the OOM killer acts inside the server.",
        v1=scalar(
            "memory",
            "memory.limit_in_bytes",
            "-1",
            unlimited="-1",
            rounded=to_page,
            at_most="memory.memsw.limit_in_bytes",
        ),
        v2=scalar("memory", "memory.max", MAX, rounded=to_page),
    ),
    Knob(
        "memory.swapMax",
        LIMIT_BYTES,
        "Most swap the server may use, apart from its memory. On cgroup v1 it needs memory.max.",
        v1=V1_MEMSW,
        v2=scalar("memory", "memory.swap.max", MAX, rounded=to_page),
    ),
    Knob(
        "memory.oomGroup",
        FLAG,
        "When memory runs out, kill the whole server instead of one process.",
        v2=scalar("memory", "memory.oom.group", "0", read=read_flag),
    ),
    Knob(
        "pids.max",
        LIMIT_COUNT,
        "Most processes and threads.",
        v1=scalar("pids", "pids.max", MAX),
        v2=scalar("pids", "pids.max", MAX),
    ),
    Knob(
        "io.weight",
        WEIGHT,
        "Share of block I/O when servers compete for it, 1 to 10000; 100 is the default.",
        v2=V2_IO_WEIGHT,
    ),
    Knob(
        "io.devices",
        IO_DEVICES,
        "Limits of block I/O, device by device.",
        v1=V1_IO,
        v2=V2_IO_MAX,
    ),
    _hugepages("64Ki", "64KB"),
    _hugepages("2Mi", "2MB"),
    _hugepages("32Mi", "32MB"),
    _hugepages("1Gi", "1GB"),
    _rlimit("as", "Address space in bytes.", RLIMIT_BYTES),
    _rlimit("core", "Size of a core dump in bytes.", RLIMIT_BYTES),
    _rlimit("cpu", "CPU time in seconds."),
    _rlimit("data", "Data segment in bytes.", RLIMIT_BYTES),
    _rlimit("fsize", "Size of a file in bytes.", RLIMIT_BYTES),
    _rlimit("locks", "File locks."),
    _rlimit("memlock", "Locked memory in bytes.", RLIMIT_BYTES),
    _rlimit("msgqueue", "POSIX message queues in bytes.", RLIMIT_BYTES),
    _rlimit("nice", "Ceiling of the nice value, as 20 minus it."),
    _rlimit("nofile", "Open file descriptors."),
    _rlimit("nproc", "Processes of the same user."),
    _rlimit("rss", "Resident set in bytes; without effect on today's kernels.", RLIMIT_BYTES),
    _rlimit("rtprio", "Real-time priority."),
    _rlimit("rttime", "CPU time of a real-time process without sleeping, in microseconds."),
    _rlimit("sigpending", "Queued signals."),
    _rlimit("stack", "Stack of a process in bytes.", RLIMIT_BYTES),
)

BY_PATH: Mapping[str, Knob] = {knob.path: knob for knob in KNOBS}
RLIMITS: tuple[Knob, ...] = tuple(knob for knob in KNOBS if knob.rlimit)
