"""The cost of snapshots: how long they take, and how long the server stands still; beside them cp and btrfs.

    make bench-snapshots                                1 GiB: half of it in small files
    make bench-snapshots BENCH='--size 256 --repeat 5 --json FILE'

By reflink on btrfs in a file, and by copy on ext4 in a file, with warm caches. Prints medians of one run. cp
copies what the server has written, while it sleeps. A btrfs snapshot is of a subvolume with the same files.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

from tests.features import PROGRAMS, SERVERS
from tests.instance import own_instance
from tests.kernel.layers import disk, mounted
from tests.lab import Lab, image, server

MIB = 1 << 20
SMALL, LARGE = 64 << 10, 32 * MIB  # bytes of a file
SUMMARY = "{:44} {:8.3f} s"


def options(text: str | None, size: int) -> argparse.Namespace:
    """The command line of a benchmark that this text describes."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=size, help="MiB that the server has written")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="save the figures")
    return parser.parse_args()


def main() -> None:
    """Measure, and print a line for each figure."""
    given = options(__doc__, size=1024)
    for program, package in (PROGRAMS["mkfs_btrfs"], PROGRAMS["mkfs_ext4"]):
        if not shutil.which(program):
            sys.exit(f"{program} is missing: apt-get install {package}")
    found: dict[str, dict[str, float]] = {}
    for kind in ("btrfs", "ext4"):
        with tempfile.TemporaryDirectory(prefix="vt-", dir=SERVERS) as folder, own_instance() as instance:
            instance.root.mkdir()
            with (
                disk(kind, Path(folder) / "disk", given.size * MIB * 6 + 512 * MIB) as point,
                mounted("bind", point, instance.root),
            ):
                found[kind] = measure(Lab(instance), kind, point, given.size, given.repeat)
                instance("destroy", "--all", "-y")
                shutil.rmtree(point / "lost+found", ignore_errors=True)
            instance.root.rmdir()
        for name, value in found[kind].items():
            print(SUMMARY.format(f"{kind}: {name}", value), flush=True)
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=2) + "\n")


def measure(lab: Lab, kind: str, point: Path, size: int, repeat: int) -> dict[str, float]:
    """The medians, by name."""
    lab.apply(image(), server("web1"), flags=("--settle", "0"))
    upper = lab.directory("web1") / "upper"
    write(upper / "srv", size, os.stat(upper).st_uid)
    values: dict[str, list[float]] = {}

    def note(name: str, *words: str | Path) -> None:
        os.sync()
        began = time.monotonic()
        if words[0] == "vsprov":
            lab.vsprov(*words[1:])
        else:
            subprocess.run(words, check=True)
        values.setdefault(name, []).append(time.monotonic() - began)

    copy, reflink = point / "copy", "--reflink=always" if kind == "btrfs" else "--reflink=never"
    for number in range(repeat):
        name = f"s{number}"
        with Stillness(lab.group("web1")) as still:
            note("snapshot create", "vsprov", "snapshot", "create", "web1", name)
        values.setdefault("  of which the server stands still", []).append(still.seconds)
        note(f"cp -a {reflink}", "cp", "-a", reflink, upper, copy)
        note("rm -r of the copy", "rm", "-r", copy)
        note("snapshot restore", "vsprov", "snapshot", "restore", "web1", name, "-y")
        note("snapshot rm", "vsprov", "snapshot", "rm", "web1", name, "-y")
    if kind == "btrfs":
        whole, part = point / "whole", point / "part"
        for words in (
            ("btrfs", "subvolume", "create", whole),
            ("cp", "-a", "--reflink", f"{upper}/.", whole),
        ):
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        for _ in range(repeat):
            note("btrfs subvolume snapshot", "btrfs", "-q", "subvolume", "snapshot", whole, part)
            note("btrfs subvolume delete", "btrfs", "-q", "subvolume", "delete", part)
        subprocess.run(("btrfs", "-q", "subvolume", "delete", whole), check=True)
    return {name: statistics.median(each) for name, each in values.items()}


def write(folder: Path, size: int, owner: int, content: Callable[[int], bytes] = os.urandom) -> None:
    """Files of `size` MiB: half of it small, half of it large ones, with so many bytes of `content`."""
    half = size * MIB // 2
    for kind, length in (("small", SMALL), ("large", LARGE)):
        for number in range(max(half // length, 1)):
            path = folder / kind / f"{number // 256}" / f"{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content(length))
            os.chown(path, owner, owner)


class Stillness:
    """How long a group is frozen during the block, as the kernel tells by cgroup.events."""

    def __init__(self, group: Path) -> None:
        self.seconds = 0.0
        self._fd = os.open(group / "cgroup.events", os.O_RDONLY)
        self._over, self._end = os.pipe()
        self._thread = Thread(target=self._watch)

    def __enter__(self) -> Stillness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._end)
        self._thread.join()
        os.close(self._fd)
        os.close(self._over)

    def _watch(self) -> None:
        changed = select.poll()
        changed.register(self._fd, select.POLLPRI)
        changed.register(self._over, select.POLLHUP)
        since = 0.0
        while True:
            os.lseek(self._fd, 0, os.SEEK_SET)
            frozen = b"frozen 1" in os.read(self._fd, 4096)
            if frozen and not since:
                since = time.monotonic()
            elif since and not frozen:
                self.seconds, since = self.seconds + time.monotonic() - since, 0.0
            if any(fd == self._over for fd, _ in changed.poll()):
                return


if __name__ == "__main__":
    main()
