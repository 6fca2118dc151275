"""The cost of pulling an image from a registry to a tree on disk: vsprov compared with peers."""

from __future__ import annotations

import os
import re
import resource
import secrets
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import run
from benchmarks.debian import Pushed
from benchmarks.peers import call
from tests.instance import own_instance

OURS = "vsprov image pull"
FLUSHES = "fsync,fdatasync,sync,syncfs,sync_file_range"


@dataclass(frozen=True, slots=True)
class Cost:
    """In seconds: wall time of the commands, CPU time, and wall time including a final sync to disk."""

    wall: float
    cpu: float
    flushed: float


@dataclass(frozen=True, slots=True)
class Tool:
    """A peer: the programs it needs, and the commands that pull an image into an empty directory."""

    name: str
    programs: tuple[str, ...]
    commands: Callable[[Pushed, Path], list[list[str]]]


def _skopeo_umoci(image: Pushed, place: Path) -> list[list[str]]:
    layout = f"{place}/layout:bench"
    return [
        [
            "skopeo",
            "copy",
            "--quiet",
            "--src-tls-verify=false",
            f"docker://{image.reference}",
            f"oci:{layout}",
        ],
        ["umoci", "unpack", "--image", layout, f"{place}/bundle"],
    ]


def _podman(image: Pushed, place: Path) -> list[list[str]]:
    store = ["podman", "--root", f"{place}/root", "--runroot", f"{place}/run", "--tmpdir", f"{place}/tmp"]
    return [
        [*store, "--storage-driver=overlay", "--cgroup-manager=cgroupfs"]
        + ["pull", "--quiet", "--tls-verify=false", image.reference]
    ]


def _curl_tar(image: Pushed, place: Path) -> list[list[str]]:
    """The minimum work, in two processes: without digests, whiteouts and limits."""
    unpack = f"tar -xzp --numeric-owner --xattrs --xattrs-include='*' -C {place}"
    return [["bash", "-o", "pipefail", "-c", f"curl -sSf {url} | {unpack}"] for url in image.blobs]


TOOLS = (
    Tool("curl | tar -xz (no checks)", ("curl", "tar"), _curl_tar),
    Tool("skopeo copy + umoci unpack", ("skopeo", "umoci"), _skopeo_umoci),
    Tool("podman pull (overlay)", ("podman",), _podman),
)

Commands = tuple[list[list[str]], Mapping[str, str]]  # and their environment


def measure(
    images: Sequence[Pushed], folder: Path, repeat: int
) -> tuple[dict[str, dict[str, list[Cost]]], dict[str, dict[str, int]]]:
    """The cost of each repeat, by image and tool; and how often each tool flushed what to disk.

    Tools take turns. Each starts with an empty directory, with the files of the registry in memory and an
    idle disk.
    """
    tools = [tool for tool in TOOLS if all(map(shutil.which, tool.programs))]
    costs: dict[str, dict[str, list[Cost]]] = {}
    for image in images:
        times: dict[str, list[Cost]] = {name: [] for name in (*(tool.name for tool in tools), OURS)}
        costs[image.title] = times
        for number in range(repeat):
            print(f"pull, {image.name}, {number + 1} of {repeat} ...", file=sys.stderr)
            for tool in tools:
                with _peer(tool, image, folder) as (commands, environment):
                    times[tool.name].append(_timed(commands, environment, folder))
            with _ours(image, folder) as (commands, environment):
                times[OURS].append(_timed(commands, environment, folder))
    return costs, _flushes(tools, images[0], folder) if shutil.which("strace") else {}


@contextmanager
def _peer(tool: Tool, image: Pushed, folder: Path) -> Iterator[Commands]:
    place = folder / f"pull-{secrets.token_hex(4)}"
    place.mkdir()
    try:
        yield tool.commands(image, place), os.environ | {"TMPDIR": str(place)}
    finally:
        run.remove(place)


@contextmanager
def _ours(image: Pushed, folder: Path) -> Iterator[Commands]:
    with own_instance(folder) as vsprov:
        command = vsprov.command("image", "pull", image.reference, "--name", "bench", "--insecure")
        yield [command], vsprov.environment


def _timed(commands: Sequence[Sequence[str]], environment: Mapping[str, str], folder: Path) -> Cost:
    call("sync", "--file-system", folder)
    cost = spent(commands, environment)
    start = time.perf_counter()
    call("sync", "--file-system", folder)
    return Cost(cost.wall, cost.cpu, cost.wall + time.perf_counter() - start)


def spent(commands: Sequence[Sequence[str]], environment: Mapping[str, str]) -> Cost:
    """The cost of running commands one after the other, without data that is not yet on disk."""
    cpu, start = _cpu(), time.perf_counter()
    _run(commands, environment)
    wall = time.perf_counter() - start
    return Cost(wall, _cpu() - cpu, wall)


def _cpu() -> float:
    """CPU seconds of all children that have exited, and of their children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(commands: Sequence[Sequence[str]], environment: Mapping[str, str]) -> None:
    for command in commands:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env=environment, text=True, timeout=run.PATIENCE,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _flushes(tools: Sequence[Tool], image: Pushed, folder: Path) -> dict[str, dict[str, int]]:
    """The number of system calls of each tool that wait for the disk, by name."""
    found: dict[str, dict[str, int]] = {}
    trace = folder / "trace"
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", f"trace={FLUSHES}", "-A", "-o", str(trace)]
    places = {tool.name: _peer(tool, image, folder) for tool in tools} | {OURS: _ours(image, folder)}
    for name, place in places.items():
        with place as (commands, environment):
            _run([[*strace, *command] for command in commands], environment)
        found[name] = dict(Counter(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE)))
        trace.unlink()
    return found
