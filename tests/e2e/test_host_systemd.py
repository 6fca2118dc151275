"""The units in packaging/ under a real systemd: that of this machine, booted on a copy of its root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.verbs import HOST
from tests.features import hierarchies, requires
from tests.instance import CHECKOUT, Instance
from tests.lab import hierarchy, server, to_yaml, wait_until

pytestmark = pytest.mark.slow
PROGRAM = "/usr/local/bin/vsprov"
WATCHER = "vsprov-keeper@vsprov.service"
UNITS = "vsprov.service", "vsprov-keeper@vsprov.path"
STATE = "/var/lib/vsprov"
ENDS = "trap 'echo goodbye; exit 0' TERM; echo hello; while :; do sleep 0.1; done"
# What vsprov uses, and systemd-nspawn(1) does not permit by default.
CALLS = "bpf keyctl open_by_handle_at @keyring @mount"
REBOOT = 133  # the exit code of systemd-nspawn after a reboot, for its unit


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that boots systemd: its folder, and the cgroup in which it does."""

    folder: Path
    group: Path

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def state(self) -> Path:
        return self.folder / "var"

    @contextmanager
    def booted(self) -> Iterator[Running]:
        """The running machine; it is killed in the end, if it still runs."""
        words = [
            "systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--private-network",
            "--console=read-only", "--capability=all", f"--system-call-filter={CALLS}",
            f"--directory={self.root}", f"--bind={self.state}:{STATE}", f"--bind-ro={CHECKOUT}",
        ]  # fmt: skip
        self.group.mkdir()
        with (self.folder / "console").open("ab") as console:
            process = subprocess.Popen(
                ["sh", "-c", f'echo $$ > {self.group}/cgroup.procs && exec "$@"', "sh", *words],
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        try:
            running = Running(process)
            wait_until(lambda: process.poll() is not None or running.is_up())
            yield running
        finally:
            (self.group / "cgroup.kill").write_text("1")
            process.wait(60)
            # On a host with cgroup v1, systemd-nspawn makes the group in the hierarchy of systemd, too.
            for top in hierarchies().values():
                for folder, _, _ in sorted(os.walk(top / self.group.name), reverse=True):
                    wait_until(lambda folder=folder: _is_removed(Path(folder)))  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class Running:
    """The same while it runs, as `systemd-nspawn`."""

    process: subprocess.Popen[bytes]

    def run(self, *command: str, input: str = "", check: bool = True) -> str:
        """What a command says that systemd runs there as a unit."""
        pid = self.process.pid
        first = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[-1]
        unit = ("systemd-run", "--quiet", "--pipe", "--wait", "--setenv=PYTHONDONTWRITEBYTECODE=1")
        words = ["nsenter", "--target", first, "--all", *unit, *command]
        done = subprocess.run(words, input=input, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 or not check, (command, done.stdout, done.stderr)
        return done.stdout

    def is_up(self) -> bool:
        with suppress(IndexError, FileNotFoundError):
            return self.run("systemctl", "is-system-running", check=False).strip() in ("running", "degraded")
        return False

    def keeper(self) -> int:
        """The pid of the keeper there; 0 if there is none."""
        found = re.search(r"pid (\d+)", self.run(PROGRAM, "keeper", "status", check=False))
        return int(found[1]) if found else 0

    def states(self) -> dict[str, str]:
        lines = self.run(PROGRAM, "get", "servers").splitlines()[1:]
        return {line.split()[0]: line.split()[1] for line in lines}


def _is_removed(group: Path) -> bool:
    with suppress(OSError):  # EBUSY: the last process is about to leave
        group.rmdir()
    return not group.exists()


@pytest.fixture
def machine(vsprov: Instance) -> Iterator[Machine]:
    requires("nspawn", "overlay")
    folder, group = vsprov.folder / "machine", hierarchy("") / f"{vsprov.name}-machine"
    made = Machine(folder, group)
    for name in ("root", "upper", "work", "var"):
        (folder / name).mkdir(parents=True)
    layers = f"lowerdir=/,upperdir={folder}/upper,workdir={folder}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", made.root], check=True)
    try:
        units = made.root / "etc/systemd/system"
        shutil.rmtree(units)
        shutil.copytree(CHECKOUT / "packaging/systemd", units)
        subprocess.run(["systemctl", f"--root={made.root}", "--quiet", "enable", *UNITS], check=True)
        program = made.root / PROGRAM[1:]
        program.write_text(f'#!/bin/sh\ncd {CHECKOUT} && exec {sys.executable} -m vsprov "$@"\n')
        program.chmod(0o755)
        yield made
    finally:
        subprocess.run(["umount", made.root], check=True)
        shutil.rmtree(folder)


def test_systemd_starts_the_servers_replaces_the_keeper_and_stops_the_servers_before_a_reboot(
    machine: Machine,
) -> None:
    documents = (
        HOST,
        server("a", "sh", "-c", ENDS, restart={"policy": "always", "delay": "100ms"}),
        server("b", dependsOn=[{"name": "a"}]),
    )
    log = machine.state / "servers/a/console.log"
    with machine.booted() as it:
        it.run(PROGRAM, "apply", "-y", "-", input=to_yaml(*documents))
        assert it.states() == {"a": "Running", "b": "Running"}
        wait_until(lambda: it.run("systemctl", "is-active", WATCHER, check=False) == "active\n")
        first = it.keeper()
        watcher = it.run("systemctl", "show", "--property=MainPID", "--value", WATCHER)
        it.run("kill", "-9", watcher.strip(), str(first))
        wait_until(lambda: it.keeper() not in (0, first))
        assert it.states() == {"a": "Running", "b": "Running"}
        it.run("systemctl", "reboot", check=False)
        assert it.process.wait(120) == REBOOT
    assert log.read_text() == "hello\ngoodbye\n"
    with machine.booted() as it:
        assert it.states() == {"a": "Running", "b": "Running"}
        assert it.run("systemctl", "is-active", "vsprov", WATCHER) == "active\nactive\n"
        assert it.keeper()
        it.run("systemctl", "stop", "vsprov")
        assert it.states() == {"a": "Stopped", "b": "Stopped"}
        assert log.read_text() == "hello\ngoodbye\n" * 2
