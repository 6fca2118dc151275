"""Measurements: time, memory, and the processes beside the servers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Sample:
    """A measurement: milliseconds for the actions up, again, change and down; kB for memory."""

    subject: str
    servers: int
    action: str
    value: float


def milliseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def held_kb() -> int:
    """Memory in kB that dropping caches would not free. proc_meminfo(5)."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    table = {words[0]: int(words[1]) for words in lines}
    return sum(
        table[f"{name}:"] for name in ("AnonPages", "SUnreclaim", "KernelStack", "PageTables", "Percpu")
    )


def beside_the_servers(before: set[int]) -> tuple[int, int]:
    """The number of processes that are new since `before` and not part of the servers, and their Pss in kB.

    Only descendants of this process are counted, including orphans.
    """
    new = processes() - before
    number = memory = 0
    for pid in new:
        with suppress(OSError):  # it has exited in the meantime
            if status(pid)["Name"] == "sleep" or not ours(pid, new):
                continue
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    number, memory = number + 1, memory + int(line.split()[1])
    return number, memory


def ours(pid: int, new: set[int]) -> bool:
    while pid in new:
        pid = int(status(pid)["PPid"])
    return pid in (1, os.getpid())


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: text.strip() for name, _, text in (line.partition(":") for line in lines)}


def processes() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}
