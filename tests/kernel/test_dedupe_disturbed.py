"""Dedupe that is killed, interrupted or cut off from power, and servers that run on the layers meanwhile."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import Instance
from tests.kernel.layers import (
    WHEN,
    by_key,
    clone,
    differences,
    disk,
    forget,
    linked,
    mounted,
    pair,
    quiet,
    seal,
    settled,
    united,
)
from vsprov.errors import FailedError, ImageError
from vsprov.store.disk import durable
from vsprov.store.layers import dedupe, linking

MIB = 1 << 20
ON_EXT4 = pytest.mark.requires("ext4", "loop", "mkfs_ext4")
ON_OVERLAY = pytest.mark.requires("overlay")


@pytest.fixture
def root(instance: Instance) -> Iterator[Path]:
    instance.root.mkdir()
    yield instance.root
    durable.remove_tree(str(instance.root))


# ---- death, and other ends


STEPS = ("open", "link", "rename", "utime", "unlink", "fsync")


def dies_at(step: int, layers: dict[str, str]) -> bool:
    """Dedupe in a process of its own that is killed right before its `step`th change; whether it was."""
    child = os.fork()
    if child == 0:
        try:
            left = step

            def counted(call: object) -> object:
                def one_less(*arguments: object, **names: object) -> object:
                    nonlocal left
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return call(*arguments, **names)  # type: ignore[operator]

                return one_less

            plan = dedupe.find(layers)
            for name in STEPS:
                setattr(os, name, counted(getattr(os, name)))
            dedupe.apply(plan, quiet, quiet)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


def test_killed_at_any_step_it_leaves_whole_trees_and_the_next_run_ends_it(root: Path) -> None:
    files = {"usr/bin/a": b"a", "usr/bin/b": b"b", "usr/lib/x/c": bytes(5000), "d": b"d"}
    step, flux = 0, 0
    while True:
        step += 1
        one, two = pair(root, files)
        os.link(two / "tree/d", two / "tree/kept")  # so that both layers change
        seal(two)
        if not dies_at(step, by_key(one, two)):
            break
        for layer in (one, two):
            assert differences(layer) == [], f"killed at step {step}"
            for name, content in files.items():
                assert (layer / "tree" / name).read_bytes() == content
        marked = [layer for layer in (one, two) if (layer / "linking").exists()]
        folders = [layer / "tree" / name for layer in (one, two) for name in ("", "usr/bin", "usr/lib/x")]
        flux += any(folder.stat().st_mtime_ns > WHEN + MIB for folder in folders)
        for layer in (one, two):
            assert linking.repair(str(layer)) == (layer in marked)
        settled(one), settled(two)
        united(one, two)
        assert all(linked(one / "tree" / name, two / "tree" / name) for name in files)
        for layer in (one, two):
            shutil.rmtree(layer)
    assert step > 30  # each file is opened, linked, renamed; each layer is marked and flushed
    assert flux > 0  # there were times to be put back


@ON_EXT4
@pytest.mark.requires("btrfs", "mkfs_btrfs")
def test_after_a_power_cut_at_any_step_the_disk_holds_whole_trees(root: Path) -> None:
    """The disk is cloned as the dead process left it: what the kernel had not yet written is lost."""
    with disk("btrfs", root / "disks", 256 * MIB) as disks:
        cut_power_at_each_step(disks)


def cut_power_at_each_step(disks: Path) -> None:
    files = {"usr/bin/a": b"a", "usr/lib/x/c": bytes(5000)}
    marked = 0
    for step in range(1, 1000):
        with disk("ext4", disks / "disk", 16 * MIB, "-J", "size=1") as point:
            one, two = pair(point, files)
            durable.flush_all(str(point))
            died = dies_at(step, by_key(one, two))
            clone(disks / "disk/ext4.disk", disks / "clone")
        with mounted("ext4", disks / "clone", disks / "after", "loop") as point:
            one, two = point / "one", point / "two"
            for layer in (one, two):
                assert differences(layer) == [], f"cut at step {step}"
                for name, content in files.items():
                    assert (layer / "tree" / name).read_bytes() == content
            settling = [linking.repair(str(layer)) for layer in (one, two)]
            assert died or not any(settling)
            marked += any(settling)
            settled(one), settled(two)
            united(one, two)
        if not died:
            break
    assert marked > 0


@pytest.mark.parametrize("error", [ImageError("enough"), KeyboardInterrupt()], ids=["progress", "signal"])
def test_ended_in_the_middle_it_leaves_whole_trees_and_no_mark(root: Path, error: BaseException) -> None:
    one, two = pair(root, {f"usr/{number}": os.urandom(MIB) for number in range(8)})
    told = []

    def stop(what: str, done: int, total: int) -> None:
        told.append((what, done, total))
        assert threading.current_thread() is not threading.main_thread()
        if done == 3 * MIB:
            if isinstance(error, KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
            else:
                raise error

    with pytest.raises(type(error)):
        dedupe.apply(dedupe.find(by_key(one, two)), stop, quiet)
    assert told[:3] == [("dedupe", done * MIB, 8 * MIB) for done in (1, 2, 3)]
    shared = sum(linked(one / f"tree/usr/{number}", two / f"tree/usr/{number}") for number in range(8))
    assert shared >= 2
    assert isinstance(error, KeyboardInterrupt) or shared == 2
    settled(one), settled(two)


def test_a_read_only_file_system_is_an_error_that_names_it(root: Path) -> None:
    with mounted("tmpfs", root.parent.name, root / "memory") as memory:
        one, two = pair(memory, {"a": b"a"})
        plan = dedupe.find(by_key(one, two))
        subprocess.run(["mount", "-o", "remount,ro", memory], check=True)
        with pytest.raises(FailedError, match=r"(one|two)/linking: make: Read-only file system"):
            dedupe.apply(plan, quiet, quiet)


IOPRIO_GET = {"x86_64": 252, "aarch64": 31}
IDLE = 3


@pytest.mark.skipif(platform.machine() not in IOPRIO_GET, reason="no number of ioprio_get known")
def test_it_works_with_what_cpu_and_disk_time_nobody_wants_and_the_caller_keeps_its_own(root: Path) -> None:
    one, two = pair(root, {"a": bytes(MIB)})

    def priority() -> tuple[int, int]:
        number = ctypes.CDLL(None).syscall(IOPRIO_GET[platform.machine()], 1, 0)
        return os.getpriority(os.PRIO_PROCESS, 0), number >> 13

    before = priority()
    seen = []
    dedupe.apply(dedupe.find(by_key(one, two)), lambda *_: seen.append(priority()), quiet)
    assert set(seen) == {(19, IDLE)}
    assert priority() == before != (19, IDLE)


# ---- servers that run on the layers meanwhile


@pytest.fixture
def running(root: Path) -> Iterator[tuple[Path, Path, Path, Path]]:
    """Two layers, and an overlay mounted over each, as servers have it."""
    program = Path("/bin/sleep").read_bytes()
    one, two = pair(root, {
        "usr/bin/sleep": program, "usr/lib/data": bytes(range(256)) * 4096, "usr/lib/changed": b"old content",
        "usr/lib/owned": b"a copy bears another owner", "usr/other": b"x",
        "usr/moved": b"moved",
    })  # fmt: skip
    for layer in (one, two):
        os.chmod(layer / "tree/usr/bin/sleep", 0o755)
        seal(layer)
    with ExitStack() as stack:
        merged = []
        for layer in (one, two):
            merged.append(stack.enter_context(over(root, layer)))
        yield one, two, merged[0], merged[1]


def over(root: Path, layer: Path) -> mounted:
    parts = [root / f"{layer.name}-{part}" for part in ("upper", "work")]
    for part in parts:
        part.mkdir(exist_ok=True)
    options = f"lowerdir={layer}/tree,upperdir={parts[0]},workdir={parts[1]},index=off"
    return mounted("overlay", root.parent.name, root / f"{layer.name}-merged", options)


@ON_OVERLAY
@pytest.mark.vm_subset
def test_a_server_on_the_layers_sees_nothing_of_it(
    running: tuple[Path, Path, Path, Path], root: Path
) -> None:
    one, two, *servers = running
    sleeping = [subprocess.Popen([server / "usr/bin/sleep", "1000"]) for server in servers]
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(open(server / "usr/lib/data", "rb")) for server in servers]
            maps = [stack.enter_context(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)) for f in files]
            touched = [each[:4096] for each in maps]
            assert (servers[0] / "usr/lib/changed").read_bytes() == b"old content"
            assert [(server / "usr/moved").read_bytes() for server in servers] == [b"moved", b"moved"]
            os.chown(servers[1] / "usr/lib/owned", 1, 1)  # copied up: its origin in the layer is going
            listed = [sorted(os.listdir(server / "usr/lib")) for server in servers]
            times = [os.stat(server / "usr/lib").st_mtime_ns for server in servers]

            assert united(one, two).files == 6

            content = bytes(range(256)) * 4096
            assert [file.read() for file in files] == [content, content]
            assert [each[:] for each in maps] == [content, content]
            assert [each[:4096] for each in maps] == touched
            assert [sorted(os.listdir(server / "usr/lib")) for server in servers] == listed
            assert [os.stat(server / "usr/lib").st_mtime_ns for server in servers] == times
            for server in servers:
                assert (server / "usr/lib/data").read_bytes() == content
                assert subprocess.run([server / "usr/bin/sleep", "0"]).returncode == 0
                assert os.stat(server / "usr/other").st_size == 1
            assert [process.poll() for process in sleeping] == [None, None]

            # A write stays with the server that made it: the overlay copies the file up first.
            (servers[0] / "usr/lib/changed").write_bytes(b"new content")
            assert (servers[1] / "usr/lib/changed").read_bytes() == b"old content"
            assert (one / "tree/usr/lib/changed").read_bytes() == b"old content"
            for server in servers:  # one of them has the old file in its cache, which has no name any more
                os.link(server / "usr/moved", server / "usr/second")
                os.rename(server / "usr/moved", server / "usr/away")
                assert linked(server / "usr/second", server / "usr/away")
                assert (server / "usr/away").read_bytes() == b"moved"
            os.unlink(servers[1] / "usr/other")
            assert (servers[0] / "usr/other").read_bytes() == b"x"
            assert os.stat(servers[1] / "usr/lib/owned").st_uid == 1
    finally:
        for process in sleeping:
            process.kill()
            process.wait()
    settled(one), settled(two)


@ON_OVERLAY
def test_a_server_that_starts_again_after_it_finds_its_own_changes(root: Path) -> None:
    one, two = pair(root, {"usr/lib/owned": b"copied up", "usr/lib/changed": b"old"})
    for layer in (one, two):
        with over(root, layer) as server:
            os.chown(server / "usr/lib/owned", 1, 1)
            (server / "usr/lib/changed").write_bytes(layer.name.encode())
    assert united(one, two).files == 2
    for layer in (one, two):
        with over(root, layer) as server:
            assert (server / "usr/lib/owned").read_bytes() == b"copied up"
            assert os.stat(server / "usr/lib/owned").st_uid == 1
            assert (server / "usr/lib/changed").read_bytes() == layer.name.encode()
            assert sorted(os.listdir(server / "usr/lib")) == ["changed", "owned"]


def resident(path: Path) -> int:
    """How many pages of a file are in memory, mincore(2)."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        pages = -(-size // mmap.PAGESIZE)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
        libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
        libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        start = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
        here = ctypes.create_string_buffer(pages)
        assert libc.mincore(start, size, here) == 0
        libc.munmap(start, size)
        return sum(byte & 1 for byte in here.raw)


@ON_OVERLAY
@pytest.mark.vm_subset
def test_two_servers_have_one_copy_of_a_program_in_memory(root: Path) -> None:
    one, two = pair(root, {"usr/lib/large.so": os.urandom(16 * MIB)})
    pages = 16 * MIB // mmap.PAGESIZE
    name = "usr/lib/large.so"

    def read_by_the_first_server() -> list[int]:
        """The pages that each has in memory then."""
        for layer in (one, two):
            forget(layer / "tree" / name)
        with over(root, one) as first, over(root, two) as second:
            (first / name).read_bytes()
            return [resident(first / name), resident(second / name)]

    assert read_by_the_first_server() == [pages, 0]
    united(one, two)
    assert read_by_the_first_server() == [pages, pages]
