"""A workshop that makes single guests with the spawner, below the command line and without manifests."""

from __future__ import annotations

import errno
import os
import secrets
import select
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import leaks
from tests.features import SERVERS, hierarchies, requires
from vsprov.engine.run.spawn import Spawner

SECONDS = 180.0  # until a test that waits for the kernel gives up; an emulated machine is slow
BASE = 2_000_000_000  # ids far from any range in use
KEPT = (0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 31)  # the default eleven capabilities
MASK = sum(1 << number for number in KEPT)
APPLETS = (
    "cat cut dd echo env false grep head hostname id kill ln ls mkdir mknod mount nproc ps pwd readlink rm"
    " sed sh sleep sort stat stty tail test touch tr true tty umount wc"
).split()

# Of a guest that asked for none: where, type, options.
STANDARD_MOUNTS = {
    ("/", "overlay", "rw,nodev,relatime"),
    ("/dev", "tmpfs", "rw,nosuid,noexec,relatime"),
    ("/dev/mqueue", "mqueue", "rw,nosuid,nodev,noexec,relatime"),
    ("/dev/pts", "devpts", "rw,nosuid,noexec,relatime"),
    ("/dev/shm", "tmpfs", "rw,nosuid,nodev,noexec,relatime"),
    ("/proc", "proc", "rw,nosuid,nodev,noexec,relatime"),
    ("/proc/sys/kernel/random/boot_id", "tmpfs", "ro,nosuid,nodev,noexec,relatime"),
    ("/sys", "sysfs", "ro,nosuid,nodev,noexec,relatime"),
    ("/sys/fs/cgroup", "cgroup2", "rw,nosuid,nodev,noexec,relatime"),
}

FLAGS = {"read_only": False, "nosuid": False, "nodev": True}
MOUNTS = {  # what a mount of a request is unless it says otherwise
    "bind": {**FLAGS, "recursive": False, "idmap": False, "owner": None},
    "tmpfs": {**FLAGS, "size": None, "mode": 0o1777},
}


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest that has been released: its number at the spawner, and its init."""

    number: int
    pid: int
    start: int


@dataclass(slots=True)
class Workshop:
    """A folder, a cgroup in each hierarchy, a spawner; made for one test."""

    name: str
    folder: Path
    spawner: Spawner
    made: int = 0
    seen: list[dict[str, Any]] = field(default_factory=list)
    consoles: dict[int, int] = field(default_factory=dict)
    texts: dict[int, bytes] = field(default_factory=dict)

    @property
    def image(self) -> Path:
        return self.folder / "image"

    def group(self, guest: int, hierarchy: str = "") -> Path:
        """The cgroup of the guest with that number of ours; in cgroup2 its parent directory."""
        return hierarchies()[hierarchy] / self.name / str(guest)

    def request(self, *argv: str, **changes: Any) -> dict[str, Any]:
        """A request for a guest that runs these words, with the usual confinement; its groups and
        directories are made.
        """
        self.made += 1
        number = self.made
        base = BASE + number * 65536
        own = self.folder / str(number)
        for part in ("upper", "work"):
            (own / part).mkdir(parents=True)
            os.chown(own / part, base, base)
        os.mkfifo(own / "console", 0o600)
        self.consoles[number] = os.open(own / "console", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        v1 = [name for name in ("cpu", "memory", "pids", "devices", "freezer") if name in hierarchies()]
        for name in v1:
            self.group(number, name).mkdir(parents=True)
        (self.group(number) / "payload").mkdir(parents=True)
        (self.group(number) / "exec").mkdir()
        request: dict[str, Any] = {
            "hostname": f"guest{number}",
            "argv": list(argv),
            "env": {"PATH": "/bin"},
            "home": False,
            "cwd": "/",
            "user": "0:0",
            "umask": 0o022,
            "no_new_privs": True,
            "capabilities": list(KEPT),
            "rlimits": [],
            "host_network": False,
            "own_memory": False,
            "id_map": {"base": base, "size": 65536},
            "root": {
                "lower": [str(self.image)],
                "upper": str(own / "upper"),
                "work": str(own / "work"),
                "disk": None,
                "read_only": False,
                "mount_at": str(self.folder / "place"),
                "to_layer": False,
            },
            "mounts": [],
            "hierarchies": [],
            "systemd": False,
            "system": False,
            "shm_size": None,
            "masks": [],
            "read_only_paths": [],
            "cgroup": {
                "payload": str(self.group(number) / "payload"),
                "attach": [str(self.group(number, name)) for name in v1],
            },
            "console": str(own / "console"),
            "reaper": None,
        }
        for key, value in changes.items():
            merge = isinstance(value, dict) and isinstance(request.get(key), dict) and key != "env"
            request[key] = {**request[key], **value} if merge else value
        request["mounts"] = [{**MOUNTS[entry["type"]], **entry} for entry in request["mounts"]]
        return request

    def output(self, number: int = 0) -> str:
        """What a guest, by default the one made last, has written to its console."""
        number = number or self.made
        try:
            while part := os.read(self.consoles[number], 1 << 16):
                self.texts[number] = self.texts.get(number, b"") + part
        except BlockingIOError:
            return self.texts.get(number, b"").decode(errors="surrogateescape")
        raise AssertionError("a FIFO that is open for writing has no end")

    def wait(self, number: int, *names: str) -> dict[str, Any]:
        """The next event of a guest; it must be one of these."""
        deadline = time.monotonic() + SECONDS
        while True:
            for position, event in enumerate(self.seen):
                if event["id"] == number:
                    assert event["event"] in names, event
                    return self.seen.pop(position)
            left = deadline - time.monotonic()
            assert left > 0, f"no event of guest {number} within {SECONDS} s"
            select.select([self.spawner], [], [], left)
            self.seen += self.spawner.events()

    def ready(self, request: dict[str, Any]) -> Guest:
        """A guest that waits at its gate."""
        number = self.spawner.request(request)
        event = self.wait(number, "ready")
        return Guest(number, event["pid"], event["start"])

    def run(self, request: dict[str, Any]) -> Guest:
        """A guest that runs."""
        guest = self.ready(request)
        self.spawner.release(guest.number)
        self.wait(guest.number, "running")
        return guest

    def end(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run a guest to its end: the event that tells of it."""
        return self.wait(self.run(request).number, "exited")

    def shell(self, script: str, **changes: Any) -> str:
        """What a script, run as the init of a guest, says; it must end well."""
        request = self.request("sh", "-euc", script, **changes)
        event = self.end(request)
        assert event.get("code") == 0, (event, self.output())
        return self.output()

    def failure(self, request: dict[str, Any]) -> dict[str, Any]:
        """How a guest that cannot be made fails, at the latest when released; it is gone afterwards."""
        number = self.spawner.request(request)
        event = self.wait(number, "failed", "ready")
        if event["event"] == "ready":
            self.spawner.release(number)
            event = self.wait(number, "failed")
        return event


def make_image(folder: Path) -> Path:
    """A root file system of nothing but busybox."""
    for part in ("bin", "dev", "etc", "proc", "root", "srv", "sys", "tmp"):
        (folder / part).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox
    shutil.copy(busybox, folder / "bin")
    for applet in APPLETS:
        (folder / "bin" / applet).symlink_to("busybox")
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/srv:/bin/sh\n")
    (folder / "etc/group").write_text("root:x:0:\napp:x:1001:\naudio:x:29:app,other\nvideo:x:44:other,app\n")
    (folder / "etc/probe").write_text("of the image\n")
    return folder


def bind(source: Path, target: str, **more: Any) -> dict[str, Any]:
    return {"type": "bind", "source": str(source), "target": target, **more}


def mounts_in(text: str) -> set[tuple[str, str, str]]:
    found = set()
    for line in text.splitlines():
        fields, _, tail = line.partition(" - ")
        found.add((fields.split()[4], tail.split()[0], fields.split()[5]))
    return found


@contextmanager
def open_workshop() -> Iterator[Workshop]:
    """A workshop; afterwards everything is gone, and the host's mounts are what they were."""
    requires("root", "namespaces", "overlay", "idmap", "busybox")
    name = f"{leaks.PREFIX}{secrets.token_hex(3)}"
    folder = SERVERS / name
    before = leaks.mounts_of_host()
    folder.mkdir(mode=0o700)
    (folder / "place").mkdir()
    make_image(folder / "image")
    spawner = Spawner()
    workshop = Workshop(name, folder, spawner)
    try:
        yield workshop
    finally:
        end_processes(name)
        spawner.close()
        for fd in workshop.consoles.values():
            os.close(fd)
        for group in leaks.groups(name):
            remove_group(group)
        shutil.rmtree(folder)
    now = leaks.mounts_of_host()
    assert now == before, set(now) ^ set(before)
    assert not leaks.groups(name)


def end_processes(name: str) -> None:
    """Kill, pid by pid, what is left in the groups, until nothing is."""
    deadline = time.monotonic() + SECONDS
    while pids := {pid for group in leaks.groups(name) for pid in members(group)}:
        assert time.monotonic() < deadline, pids
        for pid in pids:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
        time.sleep(0.01)


def members(group: Path) -> list[int]:
    """The processes of a cgroup."""
    try:
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return []
        raise


def remove_group(group: Path) -> None:
    """Remove a cgroup whose last process is just leaving."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return group.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def ended(pid: int) -> bool:
    """Wait until a process of that pid is gone or dead; True."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], SECONDS)[0])
    finally:
        os.close(fd)
