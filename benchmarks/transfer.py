"""The cost of export and import, beside tar with zstd of the same files.

    make bench-transfer                                 512 MiB: half of it in small files
    make bench-transfer BENCH='--size 128 --repeat 5 --json FILE'

The files are text that compresses to a half. Both end when everything is on the disk, with warm caches. An
export copies the files at one moment before it packs them; an import checks them, gives them other owners,
and also makes a server. tar does neither. Prints medians of one run: the time, and the CPU
time, which depends less on other load.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.snapshots import MIB, Stillness, options, write
from tests.features import SERVERS
from tests.instance import own_instance
from tests.lab import Lab, image, server

SUMMARY = "{:44} {:8.3f} s {:8.3f} s CPU"


def main() -> None:
    """Measure, and print a line for each figure."""
    given = options(__doc__, size=512)
    if not shutil.which("zstd"):
        sys.exit("zstd is missing: apt-get install zstd")
    with tempfile.TemporaryDirectory(prefix="vt-", dir=SERVERS) as folder, own_instance() as instance:
        found = measure(Lab(instance), Path(folder), given.size, given.repeat)
    for name, value in found.items():
        print(SUMMARY.format(name, *value), flush=True)
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=2) + "\n")


def measure(lab: Lab, folder: Path, size: int, repeat: int) -> dict[str, tuple[float, float]]:
    """The medians, by name."""
    lab.apply(image(), server("web1"), flags=("--settle", "0"))
    upper = lab.directory("web1") / "upper"
    write(upper / "srv", size, os.stat(upper).st_uid, lambda count: os.urandom(count // 2).hex().encode())
    subprocess.run(["chown", "-R", f"--reference={upper}", upper / "srv"], check=True)
    values: dict[str, list[tuple[float, float]]] = {}
    ours, theirs, unpacked = folder / "ours", folder / "theirs", folder / "unpacked"

    def note(name: str, *words: str | Path) -> None:
        command = lab.vsprov.command(*words[1:]) if words[0] == "vsprov" else [str(word) for word in words]
        os.sync()
        began, before = time.monotonic(), os.times()
        subprocess.run(command, check=True, env=lab.vsprov.environment, stderr=subprocess.DEVNULL)
        subprocess.run(["sync", "-f", folder], check=True)
        taken, after = time.monotonic() - began, os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        values.setdefault(name, []).append((taken, cpu))

    kept = ("--xattrs", "--xattrs-include=*", "--numeric-owner")
    for _ in range(repeat):
        with Stillness(lab.group("web1")) as still:
            note("export", "vsprov", "export", "web1", ours, "--force")
        values.setdefault("  of which the server stands still", []).append((still.seconds, 0.0))
        for threads in ("zstd", "zstd -T0"):
            note(f"tar -I '{threads}' -c", "tar", *kept, "-I", threads, "-C", upper, "-cf", theirs, ".")
        note("import", "vsprov", "import", ours, "--name", "web2")
        lab.vsprov("delete", "server", "web2", "-y")
        unpacked.mkdir()
        note("tar -I zstd -x", "tar", *kept, "-I", "zstd", "-C", unpacked, "-xf", theirs)
        shutil.rmtree(unpacked)
    sizes = {f"size of {path.name} / files": path.stat().st_size / (size * MIB) for path in (ours, theirs)}
    print("".join(f"{name}: {value:.2f}\n" for name, value in sizes.items()), end="")
    return {
        name: (statistics.median(one for one, _ in each), statistics.median(cpu for _, cpu in each))
        for name, each in values.items()
    }


if __name__ == "__main__":
    main()
