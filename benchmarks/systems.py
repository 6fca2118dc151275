"""The time from the command to the end of the boot, beside systemd-nspawn and lxc-start on the same files.

    make bench-systems                                 a Debian with systemd, five times
    make bench-systems BENCH='--repeat 21'

The boot has ended when a unit after multi-user.target has written a file. Medians are printed, of all that is
installed; what is compared is measured in turns.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from benchmarks.peers import call
from tests.features import SERVERS
from tests.instance import Instance, own_instance
from tests.lab import image, server, to_yaml

SUITE = "bookworm"
PACKAGES = "systemd-sysv,dbus,cron,rsyslog"
SECONDS = 60.0
MARK = "booted"
UNIT = f"""\
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/touch /{MARK}
[Install]
WantedBy=multi-user.target
"""
LXC = """\
lxc.rootfs.path = dir:{root}
lxc.uts.name = bench
lxc.net.0.type = empty
lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed
lxc.signal.halt = SIGRTMIN+3
"""


def make_root(folder: Path) -> Path:
    """A root file system with the unit."""
    root = folder / "root"
    call("env", f"TMPDIR={folder}", "mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, root)
    (root / "etc/systemd/system/booted.service").write_text(UNIT)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    (wants / "booted.service").symlink_to("/etc/systemd/system/booted.service")
    return root


def until_booted(start: Callable[[], object], mark: Path) -> float:
    """Seconds from `start` until the mark is there."""
    with suppress(FileNotFoundError):
        mark.unlink()
    began = time.monotonic()
    start()
    while not mark.exists():
        if time.monotonic() - began > SECONDS:
            raise TimeoutError(f"{mark} does not appear")
        time.sleep(0.001)
    return time.monotonic() - began


def vsprov(instance: Instance) -> float:
    mark = instance.root / "servers/bench/upper" / MARK
    starting: list[subprocess.Popen[bytes]] = []
    words = instance.command("start", "bench")
    # It watches the server for a moment after the start; that is not part of the boot.
    seconds = until_booted(lambda: starting.append(subprocess.Popen(words, stderr=subprocess.DEVNULL)), mark)
    starting[0].wait()
    call(*instance.command("stop", "bench"))
    return seconds


def nspawn(root: Path) -> float:
    words = [
        "systemd-nspawn",
        "-q",
        "-b",
        "-D",
        str(root),
        "--register=no",
        "--keep-unit",
        "--private-network",
    ]
    words += ["--private-users=10000000:65536", "--private-users-ownership=map", "--console=read-only"]
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        running.append(
            subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        )

    try:
        return until_booted(start, root / MARK)
    finally:
        running[0].terminate()
        running[0].wait()


def lxc(root: Path, folder: Path) -> float:
    config = folder / "lxc.conf"
    config.write_text(LXC.format(root=root))
    try:
        return until_booted(lambda: call("lxc-start", "-n", "bench", "-f", config, "-P", folder), root / MARK)
    finally:
        subprocess.run(["lxc-stop", "-k", "-n", "bench", "-P", folder], check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    folder = SERVERS / f"vsprov-bench-systems-{os.getpid()}"
    folder.mkdir()
    try:
        root = make_root(folder)
        with own_instance() as instance:
            document = server("bench", image="bench")
            document["spec"]["init"] = {"style": "systemd"}
            manifest = folder / "bench.yaml"
            manifest.write_text(to_yaml(image("bench", directory=str(root)), document))
            call(*instance.command("apply", "-y", manifest))
            call(*instance.command("stop", "bench"))
            variants: dict[str, Callable[[], float]] = {"vsprov start": lambda: vsprov(instance)}
            if shutil.which("systemd-nspawn"):
                variants["systemd-nspawn -b"] = lambda: nspawn(root)
            if shutil.which("lxc-start"):
                variants["lxc-start"] = lambda: lxc(root, folder)
            measured: dict[str, list[float]] = {name: [] for name in variants}
            for _ in range(options.repeat):
                for name, run in list(variants.items()):
                    try:
                        measured[name].append(run())
                    except (OSError, RuntimeError) as error:
                        print(f"{name}: {error}", file=sys.stderr)
                        del variants[name]
            for name, times in measured.items():
                if times:
                    print(f"{name:20} {statistics.median(times):6.2f} s  (least {min(times):.2f} s)")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
