"""Files at paths that users give: what is replaced, what is written to, and what is refused."""

from __future__ import annotations

import os
import resource
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.features import requires
from tests.unit.cli import SERVER, Cli
from vsprov.engine.desired import saved
from vsprov.errors import FailedError, UsageError
from vsprov.store.disk.output_file import write_new, write_output

OURS = b"ours: "


def write(path: Path | str, data: bytes = OURS + b"new", inputs: tuple[str, ...] = ()) -> bool:
    def replaces(found: str) -> bool:
        return Path(found).read_bytes().startswith(OURS)

    return write_output(str(path), data, "the plan", mode=0o600, replaces=replaces, inputs=inputs)


@pytest.mark.parametrize("before", [None, b"", OURS + b"old" * 1000])
def test_a_file_that_is_new_empty_or_ours_is_replaced_as_a_whole(
    tmp_path: Path, before: bytes | None
) -> None:
    path = tmp_path / "plan"
    if before is not None:
        path.write_bytes(before)
    assert write(path)
    assert path.read_bytes() == OURS + b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["plan"]


@pytest.mark.parametrize("content", [b"kind: Server\n", b"{}", b"\0"])
def test_a_file_of_another_kind_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "plan").write_bytes(content)
    inode = (tmp_path / "plan").stat().st_ino
    with pytest.raises(UsageError, match="plan: write the plan: the existing file contains something else"):
        write(tmp_path / "plan")
    assert (tmp_path / "plan").read_bytes() == content
    assert (tmp_path / "plan").stat().st_ino == inode
    assert os.listdir(tmp_path) == ["plan"]


def test_an_input_of_the_command_is_refused_under_any_of_its_names(tmp_path: Path) -> None:
    given = tmp_path / "values"
    given.write_bytes(OURS)
    os.link(given, tmp_path / "hard")
    (tmp_path / "soft").symlink_to("values")
    for name in ("values", "hard", "soft", "../" + tmp_path.name + "/values"):
        with pytest.raises(UsageError, match="the command reads this file"):
            write(tmp_path / name, inputs=("/nonexistent", str(given)))
    assert given.read_bytes() == OURS


def test_a_link_stays_and_what_it_names_follows_its_own_rule(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/plan").write_bytes(OURS)
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("deep/plan")
    assert write(tmp_path / "one")
    assert os.readlink(tmp_path / "one") == "two" and os.readlink(tmp_path / "two") == "deep/plan"
    assert (tmp_path / "deep/plan").read_bytes() == OURS + b"new"
    (tmp_path / "deep/plan").write_bytes(b"other")
    with pytest.raises(UsageError, match="contains something else"):
        write(tmp_path / "one")
    (tmp_path / "dangling").symlink_to("deep/other")
    assert write(tmp_path / "dangling") and (tmp_path / "deep/other").read_bytes() == OURS + b"new"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FailedError, match="Too many levels of symbolic links"):
        write(tmp_path / "loop")


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o640)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    assert not write(tmp_path / "pipe", b"x" * 200_000)
    reader.join(60)
    assert read == [b"x" * 200_000]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_device_is_written_to_and_stays_a_device(tmp_path: Path) -> None:
    requires("root")
    for name, minor in (("null", 3), ("full", 7)):
        os.mknod(tmp_path / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
    (tmp_path / "link").symlink_to("null")
    assert not write(tmp_path / "null") and not write(tmp_path / "link")
    with pytest.raises(FailedError, match="full: write the plan: No space left on device"):
        write(tmp_path / "full")
    for name in ("null", "full"):
        found = (tmp_path / name).lstat()
        assert stat.S_ISCHR(found.st_mode) and stat.S_IMODE(found.st_mode) & 0o600 == 0o600


@pytest.mark.parametrize("kind", ["a directory", "a block device", "a socket"])
def test_what_no_plan_belongs_in_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "there"
    if kind == "a directory":
        path.mkdir()
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    else:
        requires("root")
        os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(4095, 1))  # no driver has this number
    before = path.lstat()
    with pytest.raises(UsageError, match=f"there: write the plan: it is {kind}"):
        write(path)
    assert path.lstat() == before


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}", "/dev/../dev/fd/{}"])
def test_a_descriptor_is_written_to_where_it_stands(tmp_path: Path, name: str) -> None:
    with open(tmp_path / "log", "wb", buffering=0) as file:
        file.write(b"before\n")
        assert not write(name.format(file.fileno()), b"plan\n")
        file.write(b"after\n")
    assert (tmp_path / "log").read_bytes() == b"before\nplan\nafter\n"
    with pytest.raises(FailedError, match="Bad file descriptor"):
        write("/dev/fd/987")


def test_a_reader_that_has_gone_is_no_failure_of_the_file() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with pytest.raises(BrokenPipeError):
            write(f"/dev/fd/{writer}")
    finally:
        os.close(writer)


def test_a_name_as_long_as_names_may_be_can_be_written(tmp_path: Path) -> None:
    assert write(tmp_path / ("p" * 255))
    with pytest.raises(FailedError, match="File name too long"):
        write(tmp_path / ("p" * 256))


def test_a_new_file_never_replaces_another(tmp_path: Path) -> None:
    assert write_new(str(tmp_path / "a"), b"1", "it") and not write_new(str(tmp_path / "a"), b"2", "it")
    assert (tmp_path / "a").read_bytes() == b"1"
    (tmp_path / "dangling").symlink_to("nothing")
    with pytest.raises(UsageError, match="a symbolic link to a missing file"):
        write_new(str(tmp_path / "dangling"), b"", "it")
    assert not (tmp_path / "nothing").exists()


@pytest.fixture
def small_files() -> Iterator[None]:
    """Meanwhile no file of this process can have more than 10 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_cannot_be_written_whole_is_not_written(tmp_path: Path, small_files: None) -> None:
    (tmp_path / "old").write_bytes(OURS)
    for attempt in (
        lambda: write_new(str(tmp_path / "new"), b"x" * 11, "it"),
        lambda: write(tmp_path / "old", b"x" * 11),
    ):
        with pytest.raises(FailedError, match="File too large"):
            attempt()
    assert os.listdir(tmp_path) == ["old"] and (tmp_path / "old").read_bytes() == OURS


def test_completion_replaces_no_file_of_others(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".zfunc").mkdir()
    (tmp_path / ".zfunc/_vsprov").write_text("mine")
    told = cli("--install-completion", "zsh")
    assert told.code == 64 and "contains something else" in told.err
    assert (tmp_path / ".zfunc/_vsprov").read_text() == "mine"


def test_a_start_up_file_in_any_encoding_gets_its_line(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".bashrc").write_bytes(b"# caf\xe9\n")
    assert cli("--install-completion", "bash").code == 0
    assert (tmp_path / ".bashrc").read_bytes().startswith(b"# caf\xe9\n\nsource ~/")


def test_a_manifest_is_not_a_saved_plan(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(SERVER)
    with pytest.raises(UsageError, match="contains something else"):
        saved.write(str(tmp_path / "m.yaml"), {"format_version": "1.0"})
    with pytest.raises(UsageError, match="the command reads this file"):
        saved.write(str(tmp_path / "m.yaml"), {}, [str(tmp_path / "m.yaml")])
    assert (tmp_path / "m.yaml").read_text() == SERVER
