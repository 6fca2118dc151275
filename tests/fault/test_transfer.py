"""Exports and imports that are interrupted or killed, or for which there is no room."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.effort import worth_trying
from tests.fault.faults import KILLED
from tests.fault.killing import calls, run, thawed
from tests.kernel.layers import disk
from tests.kernel.layers import mounted as mounted_at
from tests.lab import Lab, image, mounted, server, volume, wait_until
from vsprov.engine.apply.report import Silent
from vsprov.engine.run.lock import locked
from vsprov.engine.transfer import exporting, importing
from vsprov.engine.transfer.package import Choice
from vsprov.engine.work import WorkOptions
from vsprov.store.disk.output_file import opened_output
from vsprov.store.instance import Instance

MIB = 1 << 20
MANIFEST = (image(), volume("data"), server("web1", mounts=[mounted("data")]))
SEEN = "cd /srv; ls; cat twin /data/file; stat -c %u file /data/file"


@pytest.fixture
def written(lab: Lab) -> Lab:
    lab.apply(*MANIFEST)
    lab.shell("web1", "cd /srv; echo one > file; ln file twin; mkfifo pipe; rm /etc/passwd; chown 33 file")
    lab.shell("web1", "echo kept > /data/file; chown 44 /data/file")
    return lab


@pytest.fixture
def archive(written: Lab, tmp_path: Path) -> Path:
    written.vsprov("snapshot", "create", "web1", "first")
    written.vsprov("export", "web1", "--snapshots", tmp_path / "web1")
    return tmp_path / "web1"


def visible(lab: Lab) -> list[str]:
    """What a user sees of servers and volumes, and what is being made or removed."""
    root = lab.vsprov.root
    found = [path for part in ("servers", "volumes", "transfers") for path in root.glob(f"{part}/*")]
    return sorted(str(path.relative_to(root)) for path in found)


def export_to(path: Path) -> Callable[[Instance], object]:
    def export(instance: Instance) -> object:
        with opened_output(str(path), "the export", replace=True) as fd:
            return exporting.export(instance, "web1", fd, Silent(), WorkOptions())

    return export


def import_from(path: Path) -> Callable[[Instance], object]:
    def make(instance: Instance) -> object:
        with open(path, "rb") as file:
            choice = Choice(name="web2", volumes={"data": "data2"})
            return importing.import_server(
                instance, file.fileno(), "it", "default", choice, Silent(), WorkOptions()
            )

    return make


def test_an_export_that_is_killed_leaves_the_server_running_and_no_file(written: Lab, tmp_path: Path) -> None:
    before, first = visible(written), written.init("web1")
    target = tmp_path / "out" / "web1"
    target.parent.mkdir()
    target.write_text("old")
    export = export_to(target)
    steps = calls(written, export)
    assert {"Popen", "mknod", "link", "rename", "fsync"} <= set(steps)
    for number in worth_trying(steps):
        target.write_text("old")
        assert run(written, export, number) == KILLED, number
        wait_until(lambda: thawed(written))
        assert written.init("web1") == first
        renamed = target.read_bytes() != b"old"
        assert not renamed or number >= len(steps) - 8, (number, steps[number - 1])
        for left in target.parent.glob(".vsprov-*"):  # between link(2) and rename(2), in place of the old one
            assert steps[number - 1] == "link" and number >= len(steps) - 8
            left.unlink()
        target.unlink()
        if run(written, export, number) == KILLED:  # one step less
            assert os.listdir(target.parent) in ([], ["web1"])
        written.vsprov("export", "web1", target, "--force")
        assert visible(written) == before, (number, steps[number - 1])
    written.vsprov("import", target, "--name", "web2", "--volume", "data=data2")
    written.vsprov("start", "web2")
    assert written.shell("web2", SEEN) == written.shell("web1", SEEN)


def test_an_import_that_is_killed_has_made_everything_or_nothing(written: Lab, archive: Path) -> None:
    before, first = visible(written), written.init("web1")
    make = import_from(archive)
    steps = calls(written, make)
    assert {"Popen", "chown", "rename", "setxattr", "syncfs", "renameat2"} <= set(steps)
    after = visible(written)
    assert set(after) - set(before) == {"servers/web2", "volumes/data2"}
    expected = written.shell("web1", SEEN)
    complete, killed = set(), 0
    renames = [place for place, step in enumerate(steps, 1) if step == "renameat2"]
    for number in sorted({*worth_trying(steps), *renames, *(place + 1 for place in renames)}):
        written.vsprov("delete", "server", "web2", "-y", check=False)
        written.vsprov("delete", "volume", "data2", "-y", check=False)
        assert visible(written) == before
        killed += run(written, make, number) == KILLED
        written.vsprov("snapshot", "create", "web1", "other")  # any command that changes something
        written.vsprov("snapshot", "rm", "web1", "other", "-y")
        assert visible(written) in (before, after), (number, steps[min(number, len(steps)) - 1])
        complete.add(len(visible(written)))
        if visible(written) == before:
            written.vsprov("import", archive, "--name", "web2", "--volume", "data=data2")
        assert not [name for name in os.listxattr(written.vsprov.root / "volumes/data2") if "import" in name]
        written.vsprov("start", "web2")
        assert written.shell("web2", SEEN) == expected, (number, steps[min(number, len(steps)) - 1])
        assert written.init("web1") == first
    assert len(complete) == 2 and killed >= 8


def test_the_worker_of_an_import_dies_with_it_and_what_it_has_unpacked_is_removed(
    written: Lab, tmp_path: Path
) -> None:
    archive = tmp_path / "web1"
    written.shell("web1", "head -c 9000000 /dev/urandom > /srv/noise")
    written.vsprov("export", "web1", archive)
    before = visible(written)
    command = written.vsprov.command("import", "-", "--name", "web2", "--volume", "data=data2")
    data = archive.read_bytes()
    environment = written.vsprov.environment
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdin is not None
        running.stdin.write(data[:-1000])
        running.stdin.flush()
        transfers = written.vsprov.root / "transfers"
        wait_until(lambda: any(transfers.glob("*/upper")))
        # Others work meanwhile, and do not take away what it is making.
        written.vsprov("snapshot", "create", "web1", "other")
        assert any(transfers.glob("*/upper"))
        running.kill()
        running.stdin.close()
    written.vsprov("snapshot", "rm", "web1", "other", "-y")
    wait_until(lambda: visible(written) == before)


@pytest.fixture
def large(written: Lab, tmp_path: Path) -> bytes:
    """An export that is too large to be in a pipe as a whole."""
    written.shell("web1", "head -c 9000000 /dev/urandom > /srv/noise")
    written.vsprov("export", "web1", tmp_path / "web1")
    return (tmp_path / "web1").read_bytes()


def test_what_cannot_be_imported_is_refused_before_the_files_are_sent(written: Lab, large: bytes) -> None:
    command, environment = written.vsprov.command("import", "-"), written.vsprov.environment
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdin is not None and running.stderr is not None
        with suppress(BrokenPipeError):
            running.stdin.write(large[:-1000])
            running.stdin.flush()
        assert b"Server/web1, Volume/data exist" in running.stderr.read() and running.wait() == 1
        with suppress(BrokenPipeError):
            running.stdin.close()


def test_an_import_waits_for_others_once_it_has_read_the_archive(written: Lab, large: bytes) -> None:
    words = ("import", "-", "--name", "web2", "--volume", "data=data2")
    command, environment = written.vsprov.command(*words), written.vsprov.environment
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as running:
        assert running.stdin is not None
        running.stdin.write(large[:-1000])
        running.stdin.flush()
        wait_until(lambda: any((written.vsprov.root / "transfers").glob("*/upper")))
        with locked(Instance(written.vsprov.name, str(written.vsprov.root)), 60):
            running.stdin.write(large[-1000:])
            running.stdin.close()
            children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
            wait_until(lambda: children.read_text() == "")  # the archive is unpacked
            assert running.poll() is None and not written.directory("web2").exists()
    assert running.returncode == 0 and written.directory("web2").exists()


def test_an_interrupted_export_to_a_reader_that_is_slow_leaves_nothing_and_holds_no_lock(
    written: Lab,
) -> None:
    written.shell("web1", "head -c 9000000 /dev/urandom > /srv/noise")
    before, first = visible(written), written.init("web1")
    command = written.vsprov.command("export", "web1")
    environment = written.vsprov.environment
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        wait_until(lambda: any((written.vsprov.root / "transfers").glob("*/upper/srv/noise")))
        wait_until(lambda: thawed(written))
        written.vsprov("stop", "web1", "--lock-timeout", "30s")
        written.vsprov("start", "web1")
        assert running.poll() is None
        running.send_signal(signal.SIGINT)
        time.sleep(0)
        running.communicate()
    assert running.returncode == 130 and visible(written) == before and written.init("web1") != first


@pytest.fixture
def small(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    """The state root is on a disk of 48 MiB."""
    lab.vsprov.root.mkdir()
    with disk("ext4", tmp_path / "disk", 48 * MIB) as point, mounted_at("bind", point, lab.vsprov.root):
        yield point
        lab.vsprov("destroy", "--all", "-y", "--delete-data", "data", check=False)
        (point / "lost+found").rmdir()
    lab.vsprov.root.rmdir()


@pytest.mark.requires("ext4", "loop", "mkfs_ext4")
def test_without_room_an_export_or_import_leaves_nothing_and_everything_goes_on(
    lab: Lab, small: Path, tmp_path: Path
) -> None:
    lab.apply(*MANIFEST)
    lab.shell("web1", "head -c 20000000 /dev/urandom > /srv/noise; echo kept > /data/file")
    first, before = lab.init("web1"), visible(lab)
    archive = tmp_path / "web1"
    lab.vsprov("export", "web1", archive)  # there is room for one copy
    lab.shell("web1", "head -c 8000000 /dev/urandom > /srv/more")
    free = os.statvfs(small).f_bavail
    done = lab.vsprov("export", "web1", tmp_path / "other", check=False)
    assert done.returncode == 1 and "No space left on device" in done.stderr and "srv/" in done.stderr
    assert thawed(lab) and lab.init("web1") == first and visible(lab) == before
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["web1"]
    words = ("--name", "web2", "--volume", "data=data2")
    done = lab.vsprov("import", archive, *words, check=False)
    assert done.returncode == 1 and "free in" in done.stderr, done.stderr
    assert visible(lab) == before
    wait_until(lambda: os.statvfs(small).f_bavail >= free - 64)
    assert lab.shell("web1", "cat /data/file") == "kept\n"


@pytest.mark.requires("ext4", "loop", "mkfs_ext4")
def test_a_file_that_does_not_fit_where_it_is_written_leaves_nothing(written: Lab, tmp_path: Path) -> None:
    written.shell("web1", "head -c 4000000 /dev/urandom > /srv/noise")
    with disk("ext4", tmp_path / "disk", 2 * MIB) as point:
        done = written.vsprov("export", "web1", point / "web1", check=False)
        assert done.returncode == 1 and "write the export: No space left on device" in done.stderr
        assert os.listdir(point) == ["lost+found"]
