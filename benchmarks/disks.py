"""The cost of disk limits: start and removal of many servers, and work with files in one, beside no limit.

    make bench-disks                                  100 servers
    make bench-disks BENCH='--servers 20 --repeat 5 --json FILE'

On ext4 in a file (backend image) and on btrfs in a file with quotas (backends image and qgroup). Rounds
alternate between the backends, so that other load meets all of them. Prints medians of one run, and the ratio
to servers without a limit on the same file system: of speed, so 1.0 is as fast, 0.5 takes twice as long.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from tests.features import SERVERS
from tests.instance import own_instance
from tests.kernel.layers import disk
from tests.lab import Document, Lab, image, server

GIB = 1 << 30
SPACE = "1Gi"
BACKENDS = {"ext4": ("", "image"), "btrfs": ("", "image", "qgroup")}  # "" is without a limit
SUMMARY = "{:6} {:10} {:28} {:8.3f} s {:6.2f}"
# Work with files in a server; each is one process of the shell.
WORK = {
    "4000 small files, removed": "mkdir /w; cd /w; for i in $(seq 4000); do echo x >$i; done; sync; rm -r /w",
    "256 MiB written and synced": "dd if=/dev/zero of=/w bs=1M count=256 conv=fsync 2>/dev/null; rm /w; sync",
    "500 synced writes of 4 KiB": "dd if=/dev/zero of=/w bs=4k count=500 oflag=dsync 2>/dev/null; rm /w",
}


def main() -> None:
    """Measure, and print a line for each figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--servers", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="save the figures")
    given = parser.parse_args()
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind, backends in BACKENDS.items():
        with (
            tempfile.TemporaryDirectory(prefix="vt-", dir=SERVERS) as folder,
            disk(kind, Path(folder) / "disk", 16 * GIB) as point,
        ):
            if kind == "btrfs":
                subprocess.run(["btrfs", "quota", "enable", point], check=True)
            with own_instance(point) as instance:
                found[kind] = measure(Lab(instance), backends, given.servers, given.repeat)
        for backend, figures in found[kind].items():
            for name, seconds in figures.items():
                ratio = found[kind][""][name] / seconds
                print(SUMMARY.format(kind, backend or "unlimited", name, seconds, ratio), flush=True)
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=2) + "\n")


def measure(lab: Lab, backends: tuple[str, ...], servers: int, repeat: int) -> dict[str, dict[str, float]]:
    """{backend: {name of the figure: median in seconds}}."""
    values: dict[str, dict[str, list[float]]] = {backend: {} for backend in backends}
    lab.apply(image(), *(limited(f"work{backend}", backend) for backend in backends))
    for _ in range(repeat):
        for backend in backends:
            names = [f"s{number}" for number in range(servers)]

            def note(name: str, seconds: float, backend: str = backend) -> None:
                values[backend].setdefault(name, []).append(seconds)

            documents = [limited(name, backend) for name in names]
            began = time.monotonic()
            lab.apply(*documents, flags=("--settle", "0", "--set-name", "up"))
            note(f"{servers} servers up", time.monotonic() - began)
            os.sync()
            began = time.monotonic()
            lab.vsprov("delete", "-y", *(f"server/{name}" for name in names))
            note(f"{servers} servers removed", time.monotonic() - began)
            for name, script in WORK.items():
                note(name, work(lab, f"work{backend}", script))
    return {
        backend: {name: statistics.median(each) for name, each in figures.items()}
        for backend, figures in values.items()
    }


def limited(name: str, backend: str) -> Document:
    resources = {"disk": {"space": SPACE, "backend": backend}} if backend else {}
    return server(name, resources=resources, init={"stopSignal": "KILL"})


def work(lab: Lab, name: str, script: str) -> float:
    """Seconds that a script takes in a server, without the start of its shell."""
    os.sync()
    began, ended = map(float, lab.shell(name, f"date +%s.%N; {script}\ndate +%s.%N").split())
    return ended - began


if __name__ == "__main__":
    main()
