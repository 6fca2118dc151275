"""The cost of images: pulling them, compared with peers; starting servers; and the memory that servers share.

    .venv/bin/python -m benchmarks.images                          everything, about ten minutes
    .venv/bin/python -m benchmarks.images --only pull --repeat 9
    .venv/bin/python -m benchmarks.images --only start,memory --disk 12 --archive debian.tar --json FILE

pull: pull Debian (created by mmdebstrap) from a registry on this machine to a tree on disk, as a single layer
and as several layers, with `vsprov image pull`, with installed peers, and with curl and tar, which verify
nothing. start: start a server, alone and beside 99 others of the same image. memory: 50 servers that read the
same files, from one image, from 50 copies, and from these copies after `vsprov image dedupe`. Prints medians;
--json saves all values.
"""

from __future__ import annotations

import argparse
import compileall
import dataclasses
import json
import os
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks import debian, pulling, run, sharing
from benchmarks.peers import call
from benchmarks.pulling import OURS, Cost
from benchmarks.sharing import MIB, Memory, Start
from tests import registry
from tests.features import PROGRAMS, SERVERS
from tests.instance import CHECKOUT

NEEDED = ("docker_registry", "skopeo", "busybox")  # rows of tests/features.py
PARTS = ("pull", "start", "memory")
Summary = Callable[[Sequence[float]], float]


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the selected parts, print their results, and return them by part."""
    only = options.only.split(",")
    found: dict[str, Any] = {}
    print("creating the image ...", file=sys.stderr)
    archive = options.archive or debian.make_root(folder)
    with ExitStack() as stack:
        if {"pull", "start"} & set(only):
            running = stack.enter_context(registry.running(folder / "registry"))
            parts = {"one layer": [archive.read_bytes()], "four layers": debian.split(archive)}
            images = [
                debian.push(running, folder, name, name.replace(" ", "-"), layers)
                for name, layers in parts.items()
            ]
            del parts
        if "pull" in only:
            found["pull"], found["flushes"] = pulling.measure(images, folder, options.repeat)
            print_pull(found["pull"], found["flushes"])
        if "start" in only:
            found["start"] = sharing.measure_starts(images[-1], folder, options.servers, options.repeat)
            print_start(found["start"])
    if "memory" in only:
        found["memory"] = sharing.measure_memory(archive, folder, options.copies)
        print_memory(found["memory"])
    return found


def print_pull(found: Mapping[str, Mapping[str, Sequence[Cost]]], flushes: Mapping[str, object]) -> None:
    """Print the results; a value of `ours/it` below 1 means that vsprov is faster."""
    columns: dict[str, tuple[Summary, Callable[[Cost], float]]] = {
        "wall s": (statistics.median, lambda cost: cost.wall),
        "least": (min, lambda cost: cost.wall),
        "then sync s": (statistics.median, lambda cost: cost.flushed),
        "CPU s": (statistics.median, lambda cost: cost.cpu),
    }
    for title, costs in found.items():
        print(f"\n{title:45}" + "".join(f"{head:>14}{'ours/it':>9}" for head in columns))
        for name in costs:
            print(f"{name:45}", end="")
            for summary, value in columns.values():
                its, ours = (summary(list(map(value, costs[one]))) for one in (name, OURS))
                print(f"{its:>14.2f}{ours / its:>9.2f}", end="")
            print()
    print()
    for name, calls in flushes.items():
        print(f"{name} asks for what to be on disk: {calls or 'never'}")


def print_start(found: Sequence[Start]) -> None:
    """Print wall time and CPU time; CPU time depends less on other load.

    After an apply that starts a server, vsprov observes all servers again. `but looking` subtracts the time
    that an apply without changes takes to observe them: the rest is the start itself.
    """
    heads = ("up", "nothing to do", "the start", "but looking")
    print(f"\n{'a server, ms':30}" + "".join(f"{head:>15}{'CPU':>9}" for head in heads))
    for summary in (statistics.median, min):
        rows: list[list[float]] = []
        for others in dict.fromkeys(start.others for start in found):
            of = [start for start in found if start.others == others]
            up, up_cpu = summary([one.up for one in of]), summary([one.up_cpu for one in of])
            again, again_cpu = summary([one.again for one in of]), summary([one.again_cpu for one in of])
            looking, looking_cpu = (again - rows[0][2], again_cpu - rows[0][3]) if rows else (0.0, 0.0)
            start, start_cpu = up - again, up_cpu - again_cpu
            rows.append(
                [up, up_cpu, again, again_cpu, start, start_cpu, start - looking, start_cpu - looking_cpu]
            )
            title = f"beside {others}, {'least' if summary is min else 'median'}"
            print(f"{title:30}" + "".join(f"{one:>15.1f}{two:>9.1f}" for one, two in _pairs(rows[-1])))
        ratios = [last / first for first, last in zip(*rows, strict=True)]
        print(f"{'ratio':30}" + "".join(f"{one:>15.2f}{two:>9.2f}" for one, two in _pairs(ratios)))


def _pairs(values: Sequence[float]) -> Sequence[tuple[float, float]]:
    return list(zip(values[::2], values[1::2], strict=True))


def print_memory(found: Sequence[Memory]) -> None:
    heads = ("files in memory", "Cached +", "MemFree -", "cgroup", "on disk")
    print(f"\n{'servers of, MiB':40}" + "".join(f"{head:>18}" for head in heads))
    for each in found:
        cells = (each.resident, each.cached, each.free, each.cgroup, each.disk)
        print(f"{each.images:40}" + "".join(f"{cell / MIB:>18.1f}" for cell in cells))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.images", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--only", default=",".join(PARTS), help="what to measure (pull,start,memory)")
    parser.add_argument("--repeat", type=int, default=5, help="number of repeats; the median is printed (5)")
    parser.add_argument("--servers", type=int, default=100, help="servers, with the one that starts (100)")
    parser.add_argument("--copies", type=int, default=50, help="number of servers and copies for memory (50)")
    parser.add_argument("--folder", type=Path, default=SERVERS, help="directory for all files (/var/tmp)")
    parser.add_argument("--disk", type=int, metavar="GIB", help="use a separate ext4 of this size")
    parser.add_argument("--archive", type=Path, help="root file system to use instead of Debian")
    parser.add_argument("--json", type=Path, help="write all values to this file")
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - set(PARTS):
        parser.error(f"--only: no such part: {', '.join(sorted(unknown))}")
    return options


def _absent() -> list[str]:
    return [" ".join(PROGRAMS[name]) for name in NEEDED if shutil.which(PROGRAMS[name][0]) is None]


def _own_disk(folder: Path, size: int) -> Path:
    """Mount a separate ext4, where syncfs(2) does not wait for files of other programs.

    It has a journal: without one, ext4 checks all inodes deleted in the last minutes before it allocates
    another (fs/ext4/ialloc.c, recently_deleted), which slows down what follows a removal.
    """
    place = folder / "disk"
    place.mkdir()
    call("truncate", f"--size={size}G", folder / "disk.img")
    call("mkfs.ext4", "-q", "-E", "lazy_itable_init=0", folder / "disk.img")
    call("mount", "-o", "loop", folder / "disk.img", place)
    return place


def main() -> int:
    options = read_options()
    if os.geteuid() != 0:
        print("benchmarks.images: starting servers requires root", file=sys.stderr)
        return 77
    if absent := _absent():
        print(f"benchmarks.images: missing (program, Debian package): {'; '.join(absent)}", file=sys.stderr)
        return 69
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Installed programs have bytecode; with this variable, a checkout would be compiled at every start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["VSPROV_REAL"] = "1"  # measure whole processes, not forks of a loaded one
    compileall.compile_dir(CHECKOUT / "vsprov", quiet=1)
    folder = options.folder / f"vt-images-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        place = _own_disk(folder, options.disk) if options.disk else folder
        host = run.describe_host(place)
        print(", ".join(f"{name.replace('_', ' ')} {text}" for name, text in host.items()))
        found = measure(options, place)
    except (RuntimeError, OSError, tarfile.TarError, subprocess.SubprocessError, AssertionError) as error:
        print(f"benchmarks.images: {error}", file=sys.stderr)
        return 1
    except pytest.fail.Exception as error:
        print(f"benchmarks.images: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benchmarks.images: interrupted", file=sys.stderr)
        return 130
    finally:
        run.remove(folder)
    if options.json:
        options.json.write_text(json.dumps({"host": host, **found}, indent=1, default=_plain) + "\n")
    return 0


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value)


if __name__ == "__main__":
    sys.exit(main())
