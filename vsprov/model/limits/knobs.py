"""Every resource knob of a Quota, one row each.

A row holds the knob's path and description, its kind (how values are written, read and shown) and, for
cgroup v1 and v2, a `Side`: the files of a controller that hold the value, and how it is encoded in them.
Schema, validation, observation, plan, apply and documentation are derived from the row. To add a knob, add a
row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from vsprov.model.limits.encodings import (
    V1_BANDWIDTH,
    V1_IO,
    V1_MEMSW,
    V1_SHARES,
    V1_TCP,
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
from vsprov.model.values import units
from vsprov.model.values.units import MAX
from vsprov.model.values.value_kinds import (
    BYTES,
    CPU,
    CPU_OR_MAX,
    DISK_BACKEND,
    DURATION,
    FLAG,
    ID_LIST,
    IO_DEVICES,
    LIMIT_BYTES,
    LIMIT_COUNT,
    NUMBER_OR_MAX,
    RATE,
    RLIMIT,
    RLIMIT_BYTES,
    WEIGHT,
    ValueKind,
)


class Knob(Struct, frozen=True):
    """One row. `path` is the key below `resources` ("memory.max"); `bounds` is the path of a knob that it
    cannot exceed, `default` are the soft and hard limit of a server that sets none (None: those of the host's
    init, which the kernel computes from the size of memory).
    """

    path: str
    kind: ValueKind
    doc: str
    v1: Side | None = None
    v2: Side | None = None
    bounds: str = ""
    rlimit: str = ""
    default: tuple[Any, Any] | None = None
    admission: bool = False

    def side(self, version: int) -> Side | None:
        return self.v1 if version == 1 else self.v2

    @property
    def controller(self) -> str:
        """The v2 name of the cgroup controller, or "" if the knob has no cgroup file."""
        return self.v2.controller if self.v2 else self.v1.controller if self.v1 else ""


def _hugepages(label: str, kernel: str) -> Knob:
    size = units.parse_bytes(label)
    return Knob(
        f"hugepages.{label}",
        LIMIT_BYTES,
        f"Maximum use of huge pages of {label}, in bytes.",
        v1=scalar(
            "hugetlb", f"hugetlb.{kernel}.limit_in_bytes", "-1", unlimited="-1", rounded=to_hugepage(size)
        ),
        v2=scalar("hugetlb", f"hugetlb.{kernel}.max", MAX, rounded=to_hugepage(size)),
    )


def _rlimit(
    name: str, doc: str, kind: ValueKind = RLIMIT, default: tuple[Any, Any] | None = (MAX, MAX)
) -> Knob:
    return Knob(f"rlimits.{name}", kind, f"{doc} (RLIMIT_{name.upper()}).", rlimit=name, default=default)


# The groups of knobs, with their descriptions.
GROUPS = {
    "cpu": "CPU time.",
    "memory": "Memory and swap.",
    "pids": "Processes.",
    "io": "Block I/O.",
    "hugepages": "Huge pages, by page size.",
    "disk": "What the server may write to its root file system.",
    "network": "Rates of network traffic.",
    "rlimits": "Limits of each process. A single number sets both the soft and the hard limit.",
}
KNOBS: tuple[Knob, ...] = (
    Knob(
        "cpu.weight",
        WEIGHT,
        "Relative share of CPU time under contention, 1 to 10000. The default is 100.",
        v1=V1_SHARES,
        v2=scalar("cpu", "cpu.weight", "100"),
    ),
    Knob(
        "cpu.limit",
        CPU_OR_MAX,
        "Maximum CPU time. 1500m is one and a half CPUs.",
        v1=V1_BANDWIDTH,
        v2=V2_BANDWIDTH,
    ),
    Knob(
        "cpu.burst",
        DURATION,
        "CPU time that a server may accumulate and then use above its limit, per period of 100 ms.",
        v1=scalar("cpu", "cpu.cfs_burst_us", "0", at_most="cpu.cfs_quota_us"),
        v2=scalar("cpu", "cpu.max.burst", "0", at_most="cpu.max"),
    ),
    Knob(
        "cpu.reservation",
        CPU,
        "CPU time guaranteed under contention. The sum of all reservations cannot exceed the host's CPUs. "
        "Implemented as a minimum for cpu.weight.",
        admission=True,
        bounds="cpu.limit",
    ),
    Knob(
        "cpu.cpus",
        ID_LIST,
        "CPUs that the server may run on.",
        v1=scalar("cpuset", "cpuset.cpus", lambda host: host.cpus, read=read_ids, new_group="", nested=True),
        v2=scalar("cpuset", "cpuset.cpus", lambda host: host.cpus, read=read_ids, new_group="", blank=True),
    ),
    Knob(
        "cpu.mems",
        ID_LIST,
        "Memory nodes that the server may allocate from.",
        v1=scalar("cpuset", "cpuset.mems", lambda host: host.mems, read=read_ids, new_group="", nested=True),
        v2=scalar("cpuset", "cpuset.mems", lambda host: host.mems, read=read_ids, new_group="", blank=True),
    ),
    Knob(
        "memory.min",
        BYTES,
        "Memory that is never reclaimed. The sum of min and low cannot exceed the host's memory.",
        v2=scalar("memory", "memory.min", "0", rounded=to_page),
        bounds="memory.max",
    ),
    Knob(
        "memory.low",
        BYTES,
        "Memory that is reclaimed only if there is nothing else to reclaim.",
        v2=scalar("memory", "memory.low", "0", rounded=to_page),
        bounds="memory.max",
    ),
    Knob(
        "memory.high",
        LIMIT_BYTES,
        "Memory use above which the server is throttled and its memory reclaimed.",
        v2=scalar("memory", "memory.high", MAX, rounded=to_page),
        bounds="memory.max",
    ),
    Knob(
        "memory.max",
        LIMIT_BYTES,
        "Maximum memory use. Above it, the OOM killer acts inside the server.",
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
        "Maximum swap use, in addition to memory. Requires memory.max on cgroup v1.",
        v1=V1_MEMSW,
        v2=scalar("memory", "memory.swap.max", MAX, rounded=to_page),
    ),
    Knob(
        "memory.tcpMax",
        LIMIT_BYTES,
        "Maximum memory of TCP buffers, which cgroup v1 does not count as memory. The default is memory.max.",
        v1=V1_TCP,
    ),
    Knob(
        "memory.oomGroup",
        FLAG,
        "Kill all processes of the server, not just one, when it runs out of memory.",
        v2=scalar("memory", "memory.oom.group", "0", read=read_flag),
    ),
    Knob(
        "pids.max",
        LIMIT_COUNT,
        "Maximum number of processes and threads.",
        v1=scalar("pids", "pids.max", MAX),
        v2=scalar("pids", "pids.max", MAX),
    ),
    Knob(
        "io.weight",
        WEIGHT,
        "Relative share of block I/O under contention, 1 to 10000. The default is 100.",
        v2=V2_IO_WEIGHT,
    ),
    Knob(
        "io.devices",
        IO_DEVICES,
        "Block I/O limits for each device.",
        v1=V1_IO,
        v2=V2_IO_MAX,
    ),
    _hugepages("64Ki", "64KB"),
    _hugepages("2Mi", "2MB"),
    _hugepages("32Mi", "32MB"),
    _hugepages("1Gi", "1GB"),
    Knob(
        "disk.space",
        LIMIT_BYTES,
        "Maximum size of all files that the server has written, with their metadata; at least 16Mi. "
        "pool: of all its servers together.",
    ),
    Knob(
        "disk.inodes",
        NUMBER_OR_MAX,
        "Maximum number of files, directories and links that the server has created; pool: all its servers "
        "together.",
    ),
    Knob(
        "disk.backend",
        DISK_BACKEND,
        "How the disk is limited. project: by a project quota. image: by a file system of its own in a file. "
        "qgroup: by a quota group of btrfs; it does not limit inodes. "
        "auto: the best that the file system of the state root supports. pool: project, qgroup or auto.",
    ),
    Knob(
        "network.egress",
        RATE,
        "Maximum rate of what the server sends through each interface; pool: all together.",
    ),
    Knob(
        "network.ingress",
        RATE,
        "Maximum rate of what the server receives through each interface; pool: all together.",
    ),
    _rlimit("as", "Address space in bytes", RLIMIT_BYTES),
    # 1, not 0: a core_pattern that is a pipe runs a program of the host, and only 1 prevents that; core(5).
    _rlimit("core", "Size of core dumps in bytes; by default none is written", RLIMIT_BYTES, (1, 1)),
    _rlimit("cpu", "CPU time in seconds"),
    _rlimit("data", "Data segment in bytes", RLIMIT_BYTES),
    _rlimit("fsize", "File size in bytes", RLIMIT_BYTES),
    _rlimit("locks", "File locks"),
    _rlimit("memlock", "Locked memory in bytes", RLIMIT_BYTES, (8 << 20, 8 << 20)),
    _rlimit("msgqueue", "POSIX message queues in bytes", RLIMIT_BYTES, (819200, 819200)),
    _rlimit("nice", "Ceiling of the nice value, as 20 minus the value", default=(0, 0)),
    _rlimit("nofile", "Open file descriptors", default=(1024, 524288)),
    _rlimit("nproc", "Processes of the same user", default=None),
    _rlimit("rss", "Resident set in bytes, ignored by current kernels", RLIMIT_BYTES),
    _rlimit("rtprio", "Real-time priority", default=(0, 0)),
    _rlimit("rttime", "CPU time of a real-time process without sleeping, in microseconds"),
    _rlimit("sigpending", "Queued signals", default=None),
    _rlimit("stack", "Stack in bytes", RLIMIT_BYTES, (8 << 20, MAX)),
)

BY_PATH: Mapping[str, Knob] = {knob.path: knob for knob in KNOBS}
RLIMITS: tuple[Knob, ...] = tuple(knob for knob in KNOBS if knob.rlimit)
