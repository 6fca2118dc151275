"""Files of the host are mounted in the mount namespace of a running process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.features import requires
from vsprov.kernel import live_mount

OWNER = 100_000


@pytest.fixture
def pid() -> Iterator[int]:
    """A process with a mount namespace of its own."""
    requires("root")
    words = ["unshare", "--mount", "sh", "-c", "echo; exec sleep infinity"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        yield process.pid
        process.kill()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_text("ours\n")
    return path


def seen_by(pid: int, path: Path) -> str:
    return subprocess.check_output(["nsenter", f"--mount=/proc/{pid}/ns/mnt", "cat", path], text=True)


@pytest.mark.vm_subset
def test_the_file_is_seen_in_the_namespace_only(pid: int, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("theirs\n")
    live_mount.mount_file(pid, str(source), str(target), OWNER, read_only=True)
    assert (seen_by(pid, target), target.read_text()) == ("ours\n", "theirs\n")
    write = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "sh", "-c", f"echo > {target}"]
    assert b"Read-only" in subprocess.run(write, capture_output=True).stderr


def test_an_absent_target_is_created_for_its_owner(pid: int, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    live_mount.mount_file(pid, str(source), str(target), OWNER)
    status = target.stat()
    assert (seen_by(pid, target), target.read_text()) == ("ours\n", "")
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (OWNER, OWNER, 0o644)


def test_a_link_at_the_target_is_covered_and_not_followed(pid: int, source: Path, tmp_path: Path) -> None:
    victim, target = tmp_path / "victim", tmp_path / "target"
    victim.write_text("kept\n")
    target.symlink_to(victim)
    live_mount.mount_file(pid, str(source), str(target), OWNER)
    assert (seen_by(pid, target), seen_by(pid, victim)) == ("ours\n", "kept\n")


def test_what_cannot_be_mounted_is_an_error_with_its_path(pid: int, source: Path, tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError) as raised:
        live_mount.mount_file(pid, str(source), f"{source}/target", OWNER)
    assert raised.value.filename == f"{source}/target"
    with pytest.raises(FileNotFoundError):
        live_mount.mount_file(pid, str(source), str(tmp_path / "no" / "target"), OWNER)
    with pytest.raises(OSError):
        live_mount.mount_file(pid, str(source), str(tmp_path), OWNER)  # a file over a directory
    assert os.listdir(tmp_path) == ["source"]
