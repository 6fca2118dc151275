"""The cost of the keeper, and how long a server is down: the memory and CPU time of the keeper while many
servers are idle, and the time from the death of an init, or of many, until all of them run again.

    make bench-keeper                                   500 idle servers, 100 that die at once
    make bench-keeper BENCH='--servers 100 --deaths 20 --repeat 3'

The delay of the restart policy is 0: the times are those of the keeper, `vsprov keeper act` and the start.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.features import SERVERS
from tests.instance import own_instance
from tests.lab import Document, Lab, busybox_image, image, server

PATIENCE = 120.0  # seconds until servers have to run again
IDLE = 10.0  # seconds


def main() -> None:
    """Measure, and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--servers", type=int, default=500)
    parser.add_argument("--deaths", type=int, default=100, help="servers that die at once")
    parser.add_argument("--repeat", type=int, default=5, help="deaths of a single server")
    parser.add_argument("--json", metavar="FILE", help="save the figures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vt-", dir=SERVERS) as folder, own_instance() as instance:
        root = image(directory=str(busybox_image(Path(folder) / "root")))
        found = measure(Lab(instance), root, given.servers, given.deaths, given.repeat)
    for name, value in found.items():
        print(f"{name:50} {value:10.2f}")
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=2) + "\n")


def measure(lab: Lab, root: Document, servers: int, deaths: int, repeat: int) -> dict[str, float]:
    """The figures, by name."""
    names = [f"s{number}" for number in range(servers)]
    lab.apply(root, *(sleeping(name) for name in names), flags=("--settle", "0"))
    keeper = lab.keeper()
    found = {"memory of the keeper (Pss, MB)": pss(keeper) / 1024}
    before = cpu(keeper)
    time.sleep(IDLE)
    found[f"CPU time of the keeper in {IDLE:g} s (ms)"] = (cpu(keeper) - before) * 1000
    found["restart of 1 server, median (s)"] = statistics.median(
        downtime(lab, names[number : number + 1]) for number in range(repeat)
    )
    found[f"restart of {deaths} servers at once (s)"] = downtime(lab, names[repeat : repeat + deaths])
    found["memory of the keeper after that (Pss, MB)"] = pss(lab.keeper()) / 1024
    return found


def sleeping(name: str) -> Document:
    """A server that always runs, and does nothing."""
    always: Any = {"policy": "always", "delay": "0s", "attempts": "max"}
    return server(name, "/bin/sleep", "infinity", restart=always)


def downtime(lab: Lab, names: Sequence[str]) -> float:
    """Seconds from the death of servers until the last of them runs again."""
    pidfds = [os.pidfd_open(lab.init(name).pid) for name in names]
    dead = set(pidfds)
    for pidfd in pidfds:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    began = time.monotonic()
    while dead:
        dead -= set(select.select(list(dead), [], [], PATIENCE)[0])
    for pidfd in pidfds:
        os.close(pidfd)
    left = list(names)
    while left:
        left = [name for name in left if not runs(lab, name)]
        if time.monotonic() > began + PATIENCE:
            raise TimeoutError(f"not started again: {', '.join(left)}")
        time.sleep(0.005)
    return time.monotonic() - began


def runs(lab: Lab, name: str) -> bool:
    """Whether its command runs, and not the init that waits at the gate."""
    for pid in lab.processes(name):
        with suppress(OSError):  # it has just ended
            if Path(f"/proc/{pid}/comm").read_text() == "sleep\n":
                return True
    return False


def pss(pid: int) -> int:
    """Memory of a process in kB, with its share of what it has in common with others."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def cpu(pid: int) -> float:
    """CPU time of a process in seconds. proc_pid_stat(5), fields 14 and 15."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
