"""The benefit of sharing images: how fast a server starts beside a hundred others, and how much memory many
servers need for files that all of them read.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import pulling, run
from benchmarks.debian import Pushed
from benchmarks.peers import call
from benchmarks.samples import milliseconds
from tests import leaks
from tests.features import hierarchies
from tests.instance import Instance, own_instance

SECONDS = 300.0  # time for all servers to read all files
PAGE = mmap.PAGESIZE
MIB = 1 << 20

HEAD = "apiVersion: vsprov/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"
IDLE = "{{image: {image}, init: {{command: [/usr/bin/sleep, infinity]}}}}"
READING = (
    "{{image: {image}, init: {{command: [/bin/sh, -c, "
    '"find /usr -type f -exec cat {{}} + > /dev/null; exec sleep infinity"]}}}}'
)
READ = re.compile(r"\./usr/(bin|lib/[^/]+-linux-gnu)/[^/]+")
APPLETS = ("cat", "find", "sh", "sleep")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


# ---- starting


@dataclass(frozen=True, slots=True)
class Start:
    """Milliseconds of whole processes while `others` servers run: an apply that starts another server, and
    one without changes; wall time and CPU time of both.
    """

    others: int
    up: float
    again: float
    up_cpu: float
    again_cpu: float


def measure_starts(image: Pushed, folder: Path, servers: int, repeat: int) -> list[Start]:
    """Repeatedly start, observe and remove a server of a pulled image: alone, and then beside `servers` - 1
    others. The image is in the store and in the page cache.
    """
    source = f"{{source: {{oci: {{ref: '{image.reference}', insecure: true}}}}}}"
    head = HEAD.format(kind="Image", name="bench", spec=source)
    one, rest, nothing = (folder / f"{name}.yaml" for name in ("one", "rest", "nothing"))
    nothing.write_text(head)
    one.write_text(head + _server("last", IDLE, "bench"))
    rest.write_text(head + "".join(_server(f"s{number}", IDLE, "bench") for number in range(1, servers)))
    found = []
    with own_instance(folder) as vsprov:
        for others, base in ((0, nothing), (servers - 1, rest)):
            vsprov("apply", "-y", base, timeout=run.PATIENCE)
            for number in range(repeat + 1):
                print(f"start beside {others}, {number} of {repeat} ...", file=sys.stderr)
                command = vsprov.command("apply", "-y", one)
                up, again = (pulling.spent([command], vsprov.environment) for _ in range(2))
                vsprov("apply", "-y", "--prune", base, timeout=run.PATIENCE)
                if number:  # the first one is a warm-up
                    times = (1e3 * each for each in (up.wall, again.wall, up.cpu, again.cpu))
                    found.append(Start(others, *times))
    return found


def _server(name: str, spec: str, image: str) -> str:
    return HEAD.format(kind="Server", name=name, spec=spec.format(image=image))


# ---- memory


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that were read into memory while the servers ran: of the files of their images (mincore(2)), of
    the whole machine (/proc/meminfo), and of the cgroup of all servers; and the size of the store on disk.

    MemAvailable would not help: the kernel counts cached files as available memory.
    """

    images: str
    resident: int
    cached: int
    free: int
    cgroup: int
    disk: int


def measure_memory(archive: Path, folder: Path, servers: int) -> list[Memory]:
    """Measure servers that each read all programs and libraries of Debian: from one image; each from its own
    copy, which differs from the others in one small file; and from these copies after dedupe.
    """
    found = []
    root = _make_root(archive, folder / "reading")
    shared = folder / "shared.yaml"
    shared.write_text(_image("all", root) + "".join(_reading(n, "all") for n in range(1, servers + 1)))
    with own_instance(folder) as vsprov:
        found.append(_read_by_all(vsprov, shared, servers, f"one image for {servers}"))
    copied, images = folder / "copied.yaml", folder / "images.yaml"
    names = range(1, servers + 1)
    for number in names:
        print(f"copy {number} of {servers} ...", file=sys.stderr)
        call("cp", "--archive", root, folder / f"copy{number}")
        (folder / f"copy{number}/etc/hostname").write_text(f"copy{number}\n")
    images.write_text("".join(_image(f"i{n}", folder / f"copy{n}") for n in names))
    copied.write_text(images.read_text() + "".join(_reading(n, f"i{n}") for n in names))
    with own_instance(folder) as vsprov:
        vsprov("apply", "-y", images, timeout=run.PATIENCE)
        found.append(_read_by_all(vsprov, copied, servers, f"{servers} copies"))
        took = milliseconds(lambda: vsprov("image", "dedupe", timeout=run.PATIENCE))
        note = f"{servers} copies after dedupe ({took / 1e3:.1f} s)"
        found.append(_read_by_all(vsprov, copied, servers, note))
    return found


def _image(name: str, folder: Path) -> str:
    return HEAD.format(kind="Image", name=name, spec=f"{{source: {{directory: {folder}}}}}")


def _reading(number: int, image: str) -> str:
    return _server(f"s{number}", READING, image)


def _make_root(archive: Path, root: Path) -> Path:
    """Create a root with the programs and libraries of the archive, and busybox, the only one that is
    executed.
    """
    with tarfile.open(archive) as tar:
        names = "\n".join(name for name in tar.getnames() if READ.fullmatch(name))
    named = ("--no-recursion", "--verbatim-files-from", "--files-from=-")
    subprocess.run(["tar", "-x", "-f", archive, "-C", root, *named], input=names, text=True, check=True)
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (root / name).mkdir()
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, root / "bin/busybox")
    for name in APPLETS:
        (root / "bin" / name).symlink_to("busybox")
    return root


def _read_by_all(vsprov: Instance, manifest: Path, servers: int, images: str) -> Memory:
    """Start the servers, wait until each has read everything, and stop them."""
    print(f"memory: {images} ...", file=sys.stderr)
    stopped = manifest.with_name("stopped.yaml")
    running = manifest.read_text()
    stopped.write_text(running.replace("{image:", "{state: Stopped, image:"))
    vsprov("apply", "-y", stopped, timeout=run.PATIENCE)
    layers = vsprov.root / "layers"
    _evict(layers)
    resident, cached, free = _resident(layers), _meminfo("Cached"), _meminfo("MemFree")
    vsprov("apply", "-y", manifest, timeout=run.PATIENCE)
    _await_sleep(vsprov, servers)
    memory = Memory(
        images,
        resident=_resident(layers) - resident,
        cached=_meminfo("Cached") - cached,
        free=free - _meminfo("MemFree"),
        cgroup=_charged(vsprov),
        disk=sum(status.st_blocks * 512 for status in _files(layers).values()),
    )
    vsprov("apply", "-y", stopped, timeout=run.PATIENCE)
    return memory


def _await_sleep(vsprov: Instance, servers: int) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        running = leaks.processes(vsprov.name).values()
        if sum(command.startswith("sleep") for command in running) == len(running) == servers:
            return
        time.sleep(0.2)
    raise RuntimeError(f"not all of {servers} servers have read all files after {SECONDS:.0f} s: {running}")


def _files(folder: Path) -> dict[Path, os.stat_result]:
    """All regular files, each once even if it has several names."""
    found: dict[tuple[int, int], tuple[Path, os.stat_result]] = {}
    for above, _, names in os.walk(folder):
        for path in (Path(above, name) for name in names):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                found.setdefault((status.st_dev, status.st_ino), (path, status))
    return dict(found.values())


def _evict(folder: Path) -> None:
    """Drop these files from memory, so that all that is in memory afterwards was read by the servers."""
    call("sync", "--file-system", folder)
    for fd, _ in _opened(folder):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _opened(folder: Path) -> Iterator[tuple[int, int]]:
    for path, status in _files(folder).items():
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield fd, status.st_size
        finally:
            os.close(fd)


def _resident(folder: Path) -> int:
    """The number of bytes of these files that are in memory. mincore(2)."""
    pages = 0
    for fd, size in _opened(folder):
        if size:
            held = ctypes.create_string_buffer(-(-size // PAGE))
            address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
            if address == ctypes.c_void_p(-1).value or _libc.mincore(address, size, held):
                raise RuntimeError(f"mincore: {os.strerror(ctypes.get_errno())}")
            _libc.munmap(address, size)
            pages += sum(byte & 1 for byte in held.raw)
    return pages * PAGE


def _meminfo(name: str) -> int:
    """Values in bytes. proc_meminfo(5)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def _charged(vsprov: Instance) -> int:
    """The number of bytes charged to all servers together."""
    mount = hierarchies().get("memory")
    file = "memory.usage_in_bytes" if mount else "memory.current"
    return int(((mount or hierarchies()[""]) / vsprov.name / file).read_text())
