"""The peers that are installed on this machine, each configured to start the same idle servers as fast as it
can.

Nothing is installed and no settings are changed. Each peer uses the shared root in the cheapest way it
supports, the same three limits if it can set them on this machine, and no network. Servers are started one
after the other with one call each, because the command lines of the peers support nothing else.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tests.features import hierarchies

SECONDS_TO_START = 60.0


@dataclass(frozen=True, slots=True)
class Peer:
    """`up` and `down` start and remove all servers with the given names; `prepare` is not timed."""

    name: str
    version: str
    note: str
    prepare: Callable[[Sequence[str]], None]
    up: Callable[[Sequence[str]], None]
    down: Callable[[Sequence[str]], None]


def call(*words: str | Path, check: bool = True) -> str:
    """Run a command and return its standard output; RuntimeError with its error output if it fails."""
    command = [str(word) for word in words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def start(*words: str | Path) -> None:
    """Run a command that leaves a server running, which may keep the command's output open."""
    command = [str(word) for word in words]
    with tempfile.TemporaryFile("w+") as said:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said)
        if done.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {said.read().strip()}")


def installed(lower: Path, folder: Path) -> list[Peer]:
    """All peers on this machine, with `lower` as the shared root, and `folder` for their files."""
    makers = {
        "crun": _oci,
        "runc": _oci,
        "lxc-start": _lxc,
        "podman": _podman,
        "systemd-nspawn": _nspawn,
    }
    return [
        make(program, lower, folder / program) for program, make in makers.items() if shutil.which(program)
    ]


def _version(program: str) -> str:
    words = call(program, "--version").split()
    return next((word for word in words if word[0].isdigit()), words[-1])


def _oci(program: str, lower: Path, folder: Path) -> Peer:
    hide = program == "crun" and _crun_refuses()

    def prepare(names: Sequence[str]) -> None:
        for name in names:
            bundle = folder / name
            bundle.mkdir(parents=True)
            subprocess.run([program, "spec"], cwd=bundle, check=True)
            spec = json.loads((bundle / "config.json").read_text())
            spec["root"] = {"path": str(lower), "readonly": True}
            spec["hostname"] = name
            spec["process"] |= {"terminal": False, "args": ["/bin/sleep", "infinity"]}
            spec["linux"]["cgroupsPath"] = f"/{name}"
            spec["linux"]["namespaces"] = [
                {"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")
            ]
            spec["linux"]["resources"] = {
                "cpu": {"quota": 50000, "period": 100000},
                "memory": {"limit": 64 << 20},
                "pids": {"limit": 128},
            }
            (bundle / "config.json").write_text(json.dumps(spec))

    def for_each(names: Sequence[str], command: str) -> None:
        script = f'for name; do {program} --root "$folder/state" {command} || exit; done'
        if hide:
            script = f"umount {shlex.quote(str(hierarchies()['']))} && {script}"
        start(
            *("unshare", "--mount", "--propagation=private"),
            *("env", f"folder={folder}", "sh", "-c", script, "sh", *names),
        )

    def up(names: Sequence[str]) -> None:
        for_each(names, 'run --detach --bundle="$folder/$name" "$name"')

    def down(names: Sequence[str]) -> None:
        for_each(names, 'delete --force "$name"')

    note = "read-only root, limits, no user namespace" + (", cgroup2 hidden from it" if hide else "")
    return Peer(program, _version(program), note, prepare, up, down)


def _crun_refuses() -> bool:
    """Whether both cgroup versions have controllers, which crun supports only if cgroup2 is hidden."""
    return "" in hierarchies() and len(hierarchies()) > 1


def _lxc(program: str, lower: Path, folder: Path) -> Peer:
    def prepare(names: Sequence[str]) -> None:
        for name in names:
            place = folder / name
            (place / "delta").mkdir(parents=True)
            (place / "config").write_text(
                f"lxc.uts.name = {name}\n"
                f"lxc.rootfs.path = overlay:{lower}:{place}/delta\n"
                "lxc.net.0.type = empty\n"
                "lxc.mount.auto = proc:mixed sys:ro\n"
                "lxc.autodev = 1\n"
                "lxc.init.cmd = /bin/sleep infinity\n"
                "lxc.cap.drop = sys_module sys_time sys_rawio mac_admin mac_override\n"
            )

    def up(names: Sequence[str]) -> None:
        for name in names:
            start("lxc-start", "--lxcpath", folder, "--name", name, "--daemon")

    def down(names: Sequence[str]) -> None:
        for name in names:
            call("lxc-stop", "--lxcpath", folder, "--name", name, "--kill")

    return Peer("lxc", _version(program), "overlay root, no user namespace, no limits", prepare, up, down)


def podman_on_bridge(lower: Path, folder: Path, enter: Sequence[str]) -> Peer:
    """podman with its own bridge, in the network namespace into which the command `enter` leads."""
    return replace(_podman("podman", lower, folder, enter, bridge=True), name="podman, bridge")


def _podman(
    program: str, lower: Path, folder: Path, enter: Sequence[str] = (), *, bridge: bool = False
) -> Peer:
    store: list[str | Path] = [
        *enter,
        program,
        *(("--network-config-dir", folder / "networks") if bridge else ()),
        "--root",
        folder / "root",
        "--runroot",
        folder / "run",
        "--cgroup-manager=cgroupfs",
        *(("--runtime=runc",) if _crun_refuses() and shutil.which("runc") else ()),
    ]

    def prepare(names: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def up(names: Sequence[str]) -> None:
        for name in names:
            start(
                *(
                    *store,
                    "run",
                    "--detach",
                    f"--network={'podman' if bridge else 'none'}",
                    "--name",
                    name,
                    "--hostname",
                    name,
                ),
                *("--cpus=0.5", "--memory=64m", "--pids-limit=128"),
                *("--ulimit=nofile=1024:4096", "--ulimit=nproc=4096:4096"),
                *("--rootfs", f"{lower}:O", "/bin/sleep", "infinity"),
            )

    def down(names: Sequence[str]) -> None:
        call(*store, "rm", "--force", "--time=0", *names)

    note = "overlay root, limits, no user namespace"
    return Peer(program, _version(program), note, prepare, up, down)


def _nspawn(program: str, lower: Path, folder: Path) -> Peer:
    running: dict[str, subprocess.Popen[bytes]] = {}

    def prepare(names: Sequence[str]) -> None:
        for name in names:
            (folder / name).mkdir(parents=True)

    def up(names: Sequence[str]) -> None:
        for name in names:
            running[name] = subprocess.Popen(
                [
                    *(program, "--quiet", "--register=no", "--keep-unit", "--private-network", "--as-pid2"),
                    *(f"--machine={name}", f"--directory={lower}", "--volatile=overlay", "--console=pipe"),
                    *("/bin/sleep", "infinity"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            _await_sleep(running[name])

    def down(names: Sequence[str]) -> None:
        for name in names:
            running[name].send_signal(signal.SIGTERM)
        for name in names:
            running.pop(name).wait()

    note = "volatile overlay root, no user namespace, no limits"
    return Peer(program, _version(program), note, prepare, up, down)


def _await_sleep(starter: subprocess.Popen[bytes]) -> None:
    """Wait until a process that `starter` has started executes /bin/sleep."""
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        if starter.poll() is not None:
            raise RuntimeError(f"{starter.args!r}: exit code {starter.returncode}")
        if any("sleep" in _name(pid) for pid in _below(starter.pid)):
            return
        time.sleep(0.001)
    raise RuntimeError(f"{starter.args!r}: nothing runs in it after {SECONDS_TO_START:.0f} s")


def _below(pid: int) -> list[int]:
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return children + [each for child in children for each in _below(child)]


def _name(pid: int) -> str:
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0])
    except OSError:
        return ""


def groups() -> set[Path]:
    """The top-level cgroups of every hierarchy."""
    return {path for mount in hierarchies().values() for path in mount.iterdir() if path.is_dir()}


def remove_groups(before: set[Path]) -> None:
    """Remove empty cgroups that peers have left, except those that existed `before`."""
    for path in groups() - before:
        if path.name.startswith(("vt-", "lxc.", "libpod", "machine")):
            for folder, _, _ in os.walk(path, topdown=False):
                with suppress(OSError):  # it contains a process, so it is in use
                    os.rmdir(folder)
