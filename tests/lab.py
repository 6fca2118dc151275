"""Servers for tests: manifests as Python values, the command line that applies them, and the kernel, asked
what came of it without the help of vsprov.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.features import hierarchies, requires
from tests.instance import Instance

SECONDS = 180.0  # until a test that waits for something to happen gives up; an emulated machine is slow
UNLIMITED = 2**62  # cgroup v1 shows "no limit" as a number above this
Document = dict[str, Any]

# Knob: its controller and its files, on cgroup v1 and on v2.
FILES: Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "cpu.weight": ("cpu", ("cpu.shares",), ("cpu.weight",)),
    "cpu.limit": ("cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us"), ("cpu.max",)),
    "cpu.burst": ("cpu", ("cpu.cfs_burst_us",), ("cpu.max.burst",)),
    "cpu.cpus": ("cpuset", ("cpuset.cpus",), ("cpuset.cpus",)),
    "cpu.mems": ("cpuset", ("cpuset.mems",), ("cpuset.mems",)),
    "memory.low": ("memory", (), ("memory.low",)),
    "memory.high": ("memory", (), ("memory.high",)),
    "memory.max": ("memory", ("memory.limit_in_bytes",), ("memory.max",)),
    "memory.swapMax": ("memory", ("memory.memsw.limit_in_bytes",), ("memory.swap.max",)),
    "memory.oomGroup": ("memory", (), ("memory.oom.group",)),
    "pids.max": ("pids", ("pids.max",), ("pids.max",)),
    "io.weight": ("io", (), ("io.weight",)),
    "hugepages.2Mi": ("hugetlb", ("hugetlb.2MB.limit_in_bytes",), ("hugetlb.2MB.max",)),
    "hugepages.1Gi": ("hugetlb", ("hugetlb.1GB.limit_in_bytes",), ("hugetlb.1GB.max",)),
}
V1_NAMES = {"io": "blkio"}


def image(name: str = "host", **source: Any) -> Document:
    """An Image document; without a source, the host's own /usr."""
    return _document("Image", name, {"source": source or {"host": {}}})


def pool(name: str, **resources: Any) -> Document:
    """A Quota that its servers share."""
    return _document("Quota", name, {"scope": "pool", **resources})


def quota(name: str, **resources: Any) -> Document:
    """A Quota that each of its servers gets."""
    return _document("Quota", name, {"scope": "server", **resources})


def volume(name: str, metadata: Any = None, **spec: Any) -> Document:
    """A Volume document."""
    document = _document("Volume", name, spec)
    document["metadata"] |= metadata or {}
    return document


def mounted(source: str, target: str = "/data", **keys: Any) -> Document:
    """A mount of a volume."""
    return {"type": "volume", "source": source, "target": target, **keys}


def server(
    name: str, *command: str, labels: Any = None, annotations: Any = None, init: Any = None, **spec: Any
) -> Document:
    """A Server document that runs `command`, by default one that just sleeps, from image `host`."""
    what = {"command": list(command or ("sleep", "infinity")), **(init or {})}
    document = _document("Server", name, {"image": "host", "init": what, **spec})
    document["metadata"] |= {
        key: value for key, value in (("labels", labels), ("annotations", annotations)) if value
    }
    return document


def _document(kind: str, name: str, spec: Any) -> Document:
    return {"apiVersion": "vsprov/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def to_yaml(*documents: Document) -> str:
    """The documents as a manifest: JSON is YAML."""
    return "".join(f"---\n{json.dumps(document)}\n" for document in documents)


@dataclass(frozen=True, slots=True)
class Init:
    """A server's pid 1 as the host sees it. Two that are equal are the same process: a pid can be reused."""

    pid: int
    start: int


@dataclass(frozen=True, slots=True)
class Lab:
    """An instance of vsprov with what tests of servers ask. A server in a pool is named "pool/server"."""

    vsprov: Instance

    # -- the command line

    def apply(
        self, *documents: Document, flags: tuple[str, ...] = (), check: bool = True, env: Any = None
    ) -> subprocess.CompletedProcess[str]:
        """`vsprov apply -y` of the documents."""
        return self.vsprov("apply", "-y", *flags, "-", input=to_yaml(*documents), check=check, env=env)

    def plan(self, *documents: Document, flags: tuple[str, ...] = ()) -> dict[str, Any]:
        """The plan for the documents, as JSON."""
        done = self.vsprov("plan", "-o", "json", *flags, "-", input=to_yaml(*documents))
        plan: dict[str, Any] = json.loads(done.stdout)
        return plan

    def is_settled(self, *documents: Document, flags: tuple[str, ...] = ()) -> bool:
        """Whether a plan for the documents is empty; fails, showing the plan, when it is not."""
        plan = self.plan(*documents, flags=flags)
        assert plan["resource_changes"] == [] and plan["problems"] == [], plan
        return True

    def converge(self, *documents: Document) -> subprocess.CompletedProcess[str]:
        """Apply; a second plan must be empty."""
        done = self.apply(*documents)
        assert self.is_settled(*documents)
        return done

    def refused(self, *documents: Document, flags: tuple[str, ...] = (), code: int = 1) -> str:
        """What is said on standard error by an apply that must end with this exit code."""
        done = self.apply(*documents, flags=flags, check=False)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stderr

    def differences(self, *documents: Document) -> dict[str, tuple[Any, Any, str]]:
        """{"ADDRESS path": (before, after, what it costs)} of a plan for the documents."""
        return {
            f"{change['address']} {path['path']}": (path["before"], path["after"], path["disruption"])
            for change in self.plan(*documents)["resource_changes"]
            for path in change["paths"]
        }

    def run(self, name: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`vsprov exec` of a command in a server."""
        return self.vsprov("exec", name.rpartition("/")[2], "--", *command, check=check)

    def shell(self, name: str, script: str) -> str:
        """What a shell script says that is run in a server; it must end well."""
        return self.run(name, "/bin/sh", "-euc", script).stdout

    # -- the kernel and the disk

    def group(self, name: str, controller: str = "") -> Path:
        """The server's (or pool's) cgroup directory where this controller, by its v2 name, lives."""
        return hierarchy(controller) / self.vsprov.name / name

    def directory(self, name: str) -> Path:
        """Where the server lies on disk."""
        return self.vsprov.root / "servers" / name.rpartition("/")[2]

    def keeper(self) -> int:
        """The pid of the instance's keeper, which must run."""
        found = [pid for pid in members(self.group(".keeper")) if status(pid, "Name") == "vsprov-keeper"]
        (pid,) = [pid for pid in found if status(pid, "PPid") not in map(str, found)]  # one may be forking
        return pid

    def prober(self) -> int | None:
        """The pid of the process that makes the probes; None if there is none."""
        pids = [pid for pid in members(self.group(".keeper")) if status(pid, "Name") == "vsprov-prober"]
        return pids[0] if pids else None

    def console(self, name: str) -> str:
        """What the keeper has copied to the server's log, which it creates for the first output."""
        log = self.directory(name) / "console.log"
        return log.read_text(errors="surrogateescape") if log.exists() else ""

    def processes(self, name: str) -> list[int]:
        """The pids, as the host knows them, of all processes in the server's cgroup."""
        return [pid for folder, _, _ in os.walk(self.group(name)) for pid in members(Path(folder))]

    def running(self, name: str) -> Init | None:
        """The server's pid 1; None while it does not run, or has no root of its own yet."""
        for pid in self.processes(name):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                if status(pid, "NSpid").split()[1:] == ["1"] and has_executed(pid):
                    return Init(pid, start_time(pid))
        return None

    def init(self, name: str) -> Init:
        """The server's pid 1."""
        init = self.running(name)
        assert init, f"{name} is not running: {self.processes(name)}"
        return init

    def end(self, name: str, number: int = signal.SIGKILL) -> Init:
        """Signal a server's pid 1 and wait until it has ended; what it was."""
        init = self.init(name)
        pidfd = os.pidfd_open(init.pid)
        signal.pidfd_send_signal(pidfd, number)
        wait_for(pidfd)
        return init

    def wait_for_restart(self, name: str, before: Init) -> Init:
        """The pid 1 that follows this one, once the keeper has started it, and noted that."""
        wait_until(lambda: self.running(name) not in (None, before) and not self.keeper_acts())
        return self.init(name)

    def keeper_acts(self) -> bool:
        """Whether a command of the keeper runs, in the group that it has for these."""
        return bool(members(self.group(".keeper") / "act"))

    def inits(self, *names: str) -> dict[str, Init]:
        return {name: self.init(name) for name in names}

    def root(self, name: str) -> Path:
        """The server's root as the host reaches it."""
        return Path(f"/proc/{self.init(name).pid}/root")

    def limit(self, name: str, knob: str) -> str:
        """A limit as the kernel shows it, in the spelling of cgroup v2: "max" is no limit."""
        controller, old, new = FILES[knob]
        folder = self.group(name, controller)
        if version(controller) == 2:
            return " ".join((folder / file).read_text().strip() for file in new)
        texts = [plain((folder / file).read_text().strip()) for file in old]
        if knob == "cpu.weight":
            return f"{int(texts[0]) * 100 / 1024:g}"
        if knob == "memory.swapMax" and texts != ["max"]:
            return str(int(texts[0]) - int(self.limit(name, "memory.max")))
        return " ".join(texts)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        wait_until(condition)


def wait_until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds; fail when it does not within SECONDS."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "what was waited for does not happen"
        time.sleep(0.005)


def wait_for(pidfd: int) -> None:
    """Wait until a process has ended, and close its pidfd."""
    try:
        assert select.select([pidfd], [], [], SECONDS)[0]
    finally:
        os.close(pidfd)


def plain(text: str) -> str:
    """A file's text of cgroup v1 as v2 would show it."""
    return "max" if text == "-1" or (text.isdigit() and int(text) >= UNLIMITED) else text


def version(controller: str) -> int:
    """The cgroup version that has this controller, by its v2 name, on this machine."""
    return 2 if controller in (hierarchies()[""] / "cgroup.controllers").read_text().split() else 1


def hierarchy(controller: str) -> Path:
    """Where the hierarchy with this controller is mounted; "" is cgroup2."""
    found = hierarchies()
    return (
        found[""]
        if not controller or version(controller) == 2
        else found[V1_NAMES.get(controller, controller)]
    )


def members(group: Path) -> list[int]:
    """The processes that are directly in a cgroup; none when it is gone."""
    try:
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def status(pid: int, field: str) -> str:
    """A field of /proc/PID/status; empty when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}:")), "")


def start_time(pid: int) -> int:
    """When a process was started, in clock ticks after boot. proc_pid_stat(5), field 22."""
    return int(_stat(pid)[19])


def has_executed(pid: int) -> bool:
    """Whether a process has executed a program: not PF_FORKNOEXEC, proc_pid_stat(5), field 9."""
    return not int(_stat(pid)[6]) & 0x40


def _stat(pid: int) -> list[str]:
    """What proc_pid_stat(5) says, from field 3."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


@pytest.fixture
def lab(vsprov: Instance) -> Lab:
    """A lab of this test's own."""
    requires("overlay")
    return Lab(vsprov)


@pytest.fixture(scope="module")
def shared_lab(shared_instance: Instance) -> Lab:
    """One lab for all tests of a module; none of them may change a server in it."""
    requires("overlay")
    return Lab(shared_instance)


@pytest.fixture
def loop_disk(tmp_path: Path) -> Iterator[str]:
    """An unused block device, of 16 MiB."""
    requires("loop")
    backing = tmp_path / "disk"
    with open(backing, "wb") as file:
        file.truncate(16 << 20)
    device = subprocess.run(
        ["losetup", "--find", "--show", str(backing)], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def busybox_image(folder: Path) -> Path:
    """A root file system with nothing but busybox in it, for an image of a directory."""
    requires("busybox")
    program = shutil.which("busybox")
    assert program
    for part in ("bin", "dev", "etc", "proc", "root", "srv", "sys", "tmp"):
        (folder / part).mkdir(parents=True)
    shutil.copy(program, folder / "bin/busybox")
    for applet in subprocess.run(
        [program, "--list"], check=True, capture_output=True, text=True
    ).stdout.split():
        if applet != "busybox":
            (folder / "bin" / applet).symlink_to("busybox")
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/srv:/bin/sh\n")
    (folder / "etc/group").write_text("root:x:0:\napp:x:1000:\n")
    return folder
