"""The cost of servers: vsprov compared with the minimum (floor/) and with all installed peers.

    make bench                                   1, 10, 100 and 1000 servers, three times each
    make bench BENCH='--servers 100 --repeat 5'
    make bench BENCH='--folder /dev/shm'         put the files of the servers on a tmpfs

For vsprov, the time of the whole process to start the servers (up), to apply again without changes (again),
to change a knob of all servers (change), and to remove them (down). No peer watches what it has started, so
`up` is measured with --settle 0, and `watched` as users have it by default. Prints medians and their ratio
to the minimum; --json FILE saves all times. Then the cost of common operations in a server and on the host
(inside.c).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks import peers
from benchmarks.samples import Sample, beside_the_servers, held_kb, milliseconds, processes
from benchmarks.tables import medians, print_inside, print_table
from tests import leaks
from tests.features import SERVERS, hierarchies
from tests.instance import own_instance

HERE = Path(__file__).resolve().parent
PAIRS_INSIDE = 9
PATIENCE = 900.0  # seconds for one command
SECONDS_TO_END = 15.0  # for processes that peers leave running

MANIFEST = """\
apiVersion: vsprov/v1
kind: Image
metadata: {{name: bench}}
spec: {{source: {{directory: {lower}}}}}
---
apiVersion: vsprov/v1
kind: Quota
metadata: {{name: bench}}
spec: {{scope: server, cpu: {{limit: 500m}}, memory: {{max: {memory}}}, pids: {{max: 128}}}}
"""
SERVER = """\
---
apiVersion: vsprov/v1
kind: Server
metadata: {{name: s{number}}}
spec: {{image: bench, quota: bench, init: {{command: [/bin/sleep, infinity]}}{keys}}}
"""
WORKSHOP = """\
apiVersion: vsprov/v1
kind: Image
metadata: {{name: bench}}
spec: {{source: {{directory: {lower}}}}}
---
apiVersion: vsprov/v1
kind: Server
metadata: {{name: workshop}}
spec:
  image: bench
  init: {{command: [/bin/sleep, infinity]}}
  mounts: [{{type: tmpfs, target: /tmp}}]
"""


@dataclass(frozen=True, slots=True)
class Variant:
    """What the servers of vsprov have besides their image and their quota.

    `changes` are actions with the documents that replace `documents` then.
    """

    subject: str = "vsprov"
    documents: str = ""
    keys: str = ""
    network: int | None = None  # the namespace to run in, by its file descriptor
    changes: Mapping[str, str] = field(default_factory=dict)


def make_root(folder: Path) -> Path:
    """Create a root with a shell and the measured programs, which all servers share."""
    lower = folder / "root"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "usr"):
        (lower / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    if busybox is None:
        raise RuntimeError("no program busybox, which Debian's busybox-static brings")
    shutil.copy(busybox, lower / "bin/busybox")
    for name in ("sh", "sleep"):
        (lower / "bin" / name).symlink_to("busybox")
    peers.call("gcc", "-O2", "-o", folder / "floor", *sorted((HERE / "floor").glob("*.c")))
    peers.call("gcc", "-O2", "-static", "-o", folder / "inside", HERE / "inside.c")
    shutil.copy(folder / "inside", lower / "bin/inside")
    return lower


def measure_floor(program: Path, lower: Path, folder: Path, servers: int) -> list[Sample]:
    samples = run_floor("floor", [program], lower, folder, servers)
    return samples + run_floor("floor, all at once", [program, "-p"], lower, folder, servers)


def run_floor(
    subject: str, program: Sequence[str | Path], lower: Path, folder: Path, servers: int
) -> list[Sample]:
    place = folder / "floor.servers"
    place.mkdir()
    name = f"vt-floor-{secrets.token_hex(4)}"
    options: list[str | Path] = [f"-n{servers}", "-l", lower, "-d", place, "-g", name]
    found = json.loads(peers.call(*program, *options))
    place.rmdir()
    return [
        Sample(subject, servers, "up", found["up_ms"]),
        Sample(subject, servers, "down", found["down_ms"]),
        Sample(subject, servers, "memory", found["memory_kb"]),
        *(Sample(subject, servers, f"step {step}", us / 1e3) for step, us in found["step_us"].items()),
    ]


def measure_vsprov(lower: Path, folder: Path, servers: int, variant: Variant = Variant()) -> list[Sample]:
    first, second, later = folder / "first.yaml", folder / "second.yaml", folder / "later.yaml"

    def write(path: Path, memory: str, documents: str) -> None:
        texts = [MANIFEST.format(lower=lower, memory=memory), documents]
        texts += [SERVER.format(number=number, keys=variant.keys) for number in range(1, servers + 1)]
        path.write_text("".join(texts))

    write(first, "64Mi", variant.documents)
    write(second, "96Mi", variant.documents)
    with own_instance(folder, variant.network) as vsprov:

        def timed(action: str, *arguments: str | Path) -> Sample:
            ms = milliseconds(lambda: vsprov(*arguments, timeout=PATIENCE))
            return Sample(variant.subject, servers, action, ms)

        before, memory_before = processes(), held_kb()
        samples = [timed("up", "apply", "-y", first)]
        time.sleep(0.2)
        number, kb = beside_the_servers(before)
        samples += [
            Sample(variant.subject, servers, "memory", held_kb() - memory_before),
            Sample(variant.subject, servers, "processes beside", number),
            Sample(variant.subject, servers, "kB beside", kb),
            timed("again", "apply", "-y", first),
            timed("change", "apply", "-y", second),
        ]
        for action, documents in variant.changes.items():
            write(later, "96Mi", documents)
            samples.append(timed(action, "apply", "-y", later))
        samples += [
            timed("down", "destroy", "-y", second),
            timed("watched", "apply", "-y", "--settle", "250ms", first),
        ]
    return samples


def measure_peer(peer: peers.Peer, servers: int) -> list[Sample]:
    names = [f"vt-{secrets.token_hex(4)}-{number}" for number in range(1, servers + 1)]
    peer.prepare(names)
    before, memory_before = processes(), held_kb()
    try:
        up = milliseconds(lambda: peer.up(names))
        time.sleep(0.2)
        memory = held_kb() - memory_before
        number, kb = beside_the_servers(before)
    finally:
        down = milliseconds(lambda: peer.down(names))
    return [
        Sample(peer.name, servers, "up", up),
        Sample(peer.name, servers, "memory", memory),
        Sample(peer.name, servers, "processes beside", number),
        Sample(peer.name, servers, "kB beside", kb),
        Sample(peer.name, servers, "down", down),
    ]


def measure_inside(program: Path, lower: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Median time of each operation in nanoseconds, on the host and in a server, measured alternately."""
    manifest = folder / "workshop.yaml"
    manifest.write_text(WORKSHOP.format(lower=lower))
    native: list[Mapping[str, float]] = []
    inside: list[Mapping[str, float]] = []
    scratch = Path("/dev/shm") / f"vt-{secrets.token_hex(4)}"
    scratch.mkdir()
    try:
        with own_instance(folder) as vsprov:
            vsprov("apply", "-y", manifest)
            for _ in range(PAIRS_INSIDE):
                native.append(json.loads(peers.call(program, scratch)))
                inside.append(json.loads(vsprov("exec", "workshop", "--", "/bin/inside", "/tmp").stdout))
            vsprov("destroy", "-y", manifest)
    finally:
        scratch.rmdir()
    return {
        operation: {
            "native_ns": statistics.median(each[operation] for each in native),
            "inside_ns": statistics.median(each[operation] for each in inside),
        }
        for operation in native[0]
    }


def describe_host(folder: Path) -> dict[str, Any]:
    return {
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "folder": str(folder),
        "file_system": peers.call("stat", "--file-system", "--format=%T", folder).strip(),
        "cgroups": "v1 and v2" if set(hierarchies()) - {""} else "v2",
    }


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--servers", default="1,10,100,1000", help="numbers of servers (1,10,100,1000)")
    parser.add_argument("--repeat", type=int, default=3, help="number of repeats; the median is printed (3)")
    parser.add_argument(
        "--folder", type=Path, default=SERVERS, help="directory for the files of servers (/var/tmp)"
    )
    parser.add_argument("--peers", default="all", help="names of peers, all or none; none is ever installed")
    parser.add_argument(
        "--peer-servers", type=int, default=100, help="maximum number of servers for peers (100)"
    )
    parser.add_argument("--only", default="floor,vsprov,peers,inside", help="what to measure (everything)")
    parser.add_argument("--json", type=Path, help="write all times to this file")
    return parser.parse_args()


def measure(options: argparse.Namespace, folder: Path) -> tuple[list[Sample], dict[str, dict[str, float]]]:
    only = options.only.split(",")
    lower = make_root(folder)
    here = peers.installed(lower, folder) if "peers" in only and options.peers != "none" else []
    if options.peers not in ("all", "none"):
        here = [peer for peer in here if peer.name in options.peers.split(",")]
    for peer in here:
        print(f"{peer.name} {peer.version}: {peer.note}")
    samples: list[Sample] = []
    counts = map(int, options.servers.split(",")) if {"floor", "vsprov", "peers"} & set(only) else ()
    for servers in counts:
        for _ in range(options.repeat):
            print(f"{servers} servers ...", file=sys.stderr)
            if "floor" in only:
                samples += measure_floor(folder / "floor", lower, folder, servers)
            if "vsprov" in only:
                samples += measure_vsprov(lower, folder, servers)
            for peer in list(here):
                try:
                    samples += measure_peer(peer, servers) if servers <= options.peer_servers else []
                except RuntimeError as error:
                    print(f"{peer.name}: skipped from now on: {error}", file=sys.stderr)
                    here.remove(peer)
    inside = measure_inside(folder / "inside", lower, folder) if "inside" in only else {}
    return samples, inside


def remove(folder: Path) -> None:
    """Delete the directory when no process uses it, unless something is mounted in it, which may be the host
    itself.

    podman cleans up in the background, and leaves a mount.
    """
    deadline = time.monotonic() + SECONDS_TO_END
    while leaks.processes(folder.name) and time.monotonic() < deadline:
        time.sleep(0.1)
    for mount in reversed(mounts_below(folder)):
        subprocess.run(["umount", mount], check=False)
    if mounted := mounts_below(folder):
        print(f"make bench: {folder}: not removed, because of mounts in it: {mounted}", file=sys.stderr)
    else:
        shutil.rmtree(folder)


def mounts_below(folder: Path) -> list[str]:
    return [each.point for each in leaks.mounts() if each.point.startswith(f"{folder}/")]


def measure_whole_processes() -> None:
    # Installed programs have bytecode; with this variable, a checkout would be compiled at every start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["VSPROV_REAL"] = "1"  # not forks of a loaded process


def main() -> int:
    options = read_options()
    if os.geteuid() != 0:
        print("make bench: starting servers requires root", file=sys.stderr)
        return 77
    measure_whole_processes()
    folder = options.folder / f"vt-bench-{secrets.token_hex(4)}"
    folder.mkdir()
    groups = peers.groups()
    host = describe_host(folder)
    print(", ".join(f"{name.replace('_', ' ')} {text}" for name, text in host.items()))
    try:
        samples, inside = measure(options, folder)
    except (RuntimeError, subprocess.TimeoutExpired, pytest.fail.Exception) as error:
        print(f"make bench: {error}", file=sys.stderr)
        return 1
    finally:
        remove(folder)
        peers.remove_groups(groups)
    if samples:
        print_table(medians(samples))
    if inside:
        print_inside(inside)
    if options.json:
        times = [
            {"subject": s.subject, "servers": s.servers, "action": s.action, "value": s.value}
            for s in samples
        ]
        options.json.write_text(
            json.dumps({"host": host, "samples": times, "inside": inside}, indent=1) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
