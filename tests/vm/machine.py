"""A machine of its own for the kernel tests: Debian's kernel with pure cgroup v2, booted in an emulator.

`tests/vm/run COMMAND…` runs a command there as root and ends with its exit code. Inside, the root is the
host's, read-only, by 9p; /usr, /etc and the like can be written to, in memory. The checkout and the virtual
environment lie at their usual places, on a disk made for this run, because 9p is too slow for Python.
/var/tmp, also TMPDIR, is an ext4 with project quotas on a second disk. tests/vm/guest sets all this up.

The kernel comes from Debian's linux-image package, unpacked once below ~/.cache/vsprov-vm, or from the file
that VSPROV_VM_KERNEL names (then its modules lie where the kernel's own `make modules_install` puts them).
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

CHECKOUT = Path(__file__).resolve().parents[2]
VENV = Path(sys.prefix)
STDLIB = Path(sysconfig.get_path("stdlib"))
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vsprov-vm"
SHARE = "/run/vsprov-vm"  # where the machine sees the folder of its run; tests/vm/guest knows it too

# What is of no use inside and would only make the disk larger.
LEFT_OUT = {
    "checkout": (".git", ".venv", ".*_cache", ".hypothesis", "build", "dist"),
    "venv": ("mypy", "mypyc", "*__mypyc*", "ruff", "pip", "setuptools", "grimp", "importlinter", "virtme*"),
    "stdlib": ("site-packages", "dist-packages", "test", "idlelib", "ensurepip", "config-*"),
}
SECONDS_TO_BOOT = 120.0  # and to power off; a busy host takes this long
LINES_OF_CONSOLE = 40
PASSED_ON = ("CI", "VSPROV_REQUIRE", "TERM", "COLUMNS")


class MachineError(Exception):
    """The machine cannot be made; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. `code` is the command's exit code, None when the machine went down before it ended."""

    code: int | None
    console: str


def kernel() -> Path:
    """The kernel image to boot; downloads and unpacks Debian's package on the first call."""
    if chosen := os.environ.get("VSPROV_VM_KERNEL"):
        return Path(chosen)
    for image in sorted(CACHE.glob("*/boot/vmlinuz-*")):
        return image
    return _unpack_package()


def _unpack_package() -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    package = _kernel_package()
    with tempfile.TemporaryDirectory(prefix="new-", dir=CACHE) as folder:
        _must("apt-get", "download", package, cwd=folder)
        (archive,) = Path(folder).glob("*.deb")
        tree = Path(folder, "tree")
        _must("dpkg-deb", "-x", archive, tree)
        if not (tree / "lib").exists():
            (tree / "lib").symlink_to("usr/lib")
        (release,) = (path.name for path in (tree / "lib/modules").iterdir())
        _must("depmod", "-b", tree, release)
        tree.rename(CACHE / archive.stem)
    (image,) = (CACHE / archive.stem / "boot").glob("vmlinuz-*")
    return image


def _kernel_package() -> str:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    listed = _must("apt-cache", "depends", "--important", f"linux-image-{machine}")
    for line in listed.splitlines():
        relation, _, name = line.strip().partition(": ")
        if relation == "Depends" and name.startswith("linux-image-"):
            return name
    raise MachineError(
        f"apt knows no package linux-image-{machine}; try apt-get update, or set VSPROV_VM_KERNEL to a kernel"
    )


def _must(*command: str | Path, cwd: str | None = None) -> str:
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise MachineError(f"{words[0]}: no such program") from error
    if done.returncode:
        raise MachineError(f"{shlex.join(words)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _make_program_disk(disk: Path, staging: Path) -> None:
    """Put the checkout, the virtual environment and the standard library on a new ext4."""
    for name, source in (("checkout", CHECKOUT), ("venv", VENV), ("stdlib", STDLIB)):
        left_out = shutil.ignore_patterns(*LEFT_OUT[name])
        shutil.copytree(source, staging / name, symlinks=True, ignore=left_out)
    _must(sys.executable, "-m", "compileall", "-q", staging / "checkout/vsprov")
    _format(disk, "512M", "-i", "4096", "-O", "^has_journal", "-d", staging)


def make_state_disk(disk: Path, size: str = "8G") -> None:
    """Make `disk` a sparse file with an empty ext4 that keeps project quotas."""
    _format(disk, size, "-O", "quota,project", "-E", "quotatype=prjquota")


def _format(disk: Path, size: str, *options: str | Path) -> None:
    _must("mkfs.ext4", "-q", "-F", *options, disk, size)


def run(
    command: Sequence[str],
    *,
    state_disk: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 2400,
    out: IO[bytes] | None = None,
    err: IO[bytes] | None = None,
) -> Outcome:
    """Boot the machine, run the command in the checkout as root, and power off.

    The command's output is copied to `out` and `err` (default: this process's own) while it runs. A given
    `state_disk` (see `make_state_disk`) keeps its content from one run to the next, and so can be looked at
    after a power cut; otherwise /var/tmp is new and thrown away. After `timeout` seconds the command is
    ended, and its code is 124. Raises MachineError.
    """
    with tempfile.TemporaryDirectory(prefix="vsprov-vm-") as folder:
        share = Path(folder, "share")
        share.mkdir()
        programs, state = Path(folder, "programs"), state_disk or Path(folder, "state")
        _make_program_disk(programs, Path(folder, "staging"))
        shutil.rmtree(Path(folder, "staging"))
        if state_disk is None:
            make_state_disk(state)
        # Inside, so that the machine does not outlive a caller who was killed and cannot cut its power.
        bounded = ["timeout", "--kill-after=10", f"{timeout:.0f}", *command]
        _write_settings(share, bounded, environment or {})
        streams = [
            (share / "stdout", out or sys.stdout.buffer),
            (share / "stderr", err or sys.stderr.buffer),
        ]
        console = share / "console"
        _boot(_emulator(share, programs, state), console, timeout, _copier(streams))
        code = share / "code"
        return Outcome(int(code.read_text()) if code.exists() else None, console.read_text(errors="replace"))


def _write_settings(share: Path, command: Sequence[str], environment: Mapping[str, str]) -> None:
    shutil.copy(CHECKOUT / "tests/vm/guest", share)
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | dict(environment)
    lines = [
        f"python={shlex.quote(sys.base_prefix)}",
        f"checkout={shlex.quote(str(CHECKOUT))}",
        f"venv={shlex.quote(str(VENV))}",
        f"stdlib={shlex.quote(str(STDLIB))}",
        f"command=({shlex.join(command)})",
        *(f"export {name}={shlex.quote(text)}" for name, text in passed.items()),
    ]
    (share / "settings").write_text("\n".join(lines) + "\n")


def _emulator(share: Path, programs: Path, state: Path) -> list[str]:
    devices = ["-fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"]
    devices.append("-device virtio-9p-pci,fsdev=host,mount_tag=host")
    for serial, disk in (("programs", programs), ("state", state)):
        devices.append(f"-drive file={disk},if=none,id={serial},format=raw,cache=writeback")
        devices.append(f"-device virtio-blk-pci,drive={serial},serial={serial}")
    return [
        str(Path(sys.executable).parent / "vng"),
        *("--run", str(kernel()), "--disable-kvm", "--force-9p", "--disable-microvm", "--verbose"),
        *("--cpus", "2", "--memory", "3G", f"--rwdir={SHARE}={share}"),
        *(f"--qemu-opts={device}" for device in devices),
        *("--exec", f"bash {SHARE}/guest"),
    ]


def _boot(command: list[str], console: Path, timeout: float, copy: Callable[[], None]) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    deadline = time.monotonic() + timeout + SECONDS_TO_BOOT
    with console.open("wb") as said:
        machine = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=os.environ | {"PATH": path},
            start_new_session=True,
        )
        try:
            while machine.poll() is None and time.monotonic() < deadline:
                time.sleep(0.2)
                copy()
        finally:
            if machine.poll() is None:
                os.killpg(machine.pid, signal.SIGKILL)
            machine.wait()
    copy()


def _copier(streams: Sequence[tuple[Path, IO[bytes]]]) -> Callable[[], None]:
    """A function that copies on whatever has been added to each file since it was called last."""
    seen = dict.fromkeys((path for path, _ in streams), 0)

    def copy() -> None:
        for path, stream in streams:
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(seen[path])
                news = file.read()
            seen[path] += len(news)
            if news:
                stream.write(news)
                stream.flush()

    return copy


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/vm/run", description="Run a command in an emulated machine.")
    parser.add_argument("--state-disk", type=Path, help="keep /var/tmp in this file; made if it is not there")
    parser.add_argument("--timeout", type=float, default=2400, help="seconds the command may take (2400)")
    parser.add_argument("--console", action="store_true", help="show what the kernel said, afterwards")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if not options.command:
        parser.error("which command?")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        if options.state_disk and not options.state_disk.exists():
            make_state_disk(options.state_disk)
        outcome = run(options.command, state_disk=options.state_disk, timeout=options.timeout)
    except MachineError as error:
        print(f"tests/vm/run: {error}", file=sys.stderr)
        return 125
    if options.console or outcome.code is None:
        lines = outcome.console.splitlines()
        print("\n".join(lines if options.console else lines[-LINES_OF_CONSOLE:]), file=sys.stderr)
    if outcome.code is None:
        print("tests/vm/run: the machine went down before the command ended", file=sys.stderr)
        return 125
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
