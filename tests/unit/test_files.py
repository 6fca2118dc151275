from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vsprov.errors import ManifestError
from vsprov.manifest.files import find, read


def refusals(*paths: str | Path, recursive: bool = False) -> list[str]:
    with pytest.raises(ManifestError) as raised:
        find([str(path) for path in paths], recursive)
    return [str(problem) for problem in raised.value.problems]


def fill(top: Path, *names: str) -> None:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text("a: 1\n")


def test_a_directory_stands_for_its_manifests_by_name(tmp_path: Path) -> None:
    fill(
        tmp_path, "b.yml", "a.yaml", "c.json", "d.yaml.j2", "e.yml.j2", ".h.yaml", "f.txt", "g.j2", "y.yaml~"
    )
    fill(tmp_path, "sub/z.yaml")
    names = ["a.yaml", "b.yml", "c.json", "d.yaml.j2", "e.yml.j2"]
    assert find([str(tmp_path)], False) == [f"{tmp_path}/{name}" for name in names]


def test_recursion_descends_by_name_but_not_into_hidden_or_linked_directories(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    top = tmp_path / "top"
    fill(outside, "o.yaml")
    fill(top, "b.yaml", "a/z.yaml", "a/b/c.yaml", "c/d.yaml", "m.yaml/x.yaml", ".git/e.yaml")
    (top / "loop").symlink_to(".")
    (top / "out").symlink_to(outside)
    names = ["a/b/c.yaml", "a/z.yaml", "b.yaml", "c/d.yaml", "m.yaml/x.yaml"]
    assert find([str(top)], True) == [f"{top}/{name}" for name in names]
    assert find([str(top)], False) == [f"{top}/b.yaml"]


def test_a_file_given_twice_is_read_once_where_it_came_first(tmp_path: Path) -> None:
    fill(tmp_path, "a.yaml", "b.yaml", "c.txt")
    (tmp_path / "link.yaml").symlink_to("a.yaml")
    b, c = str(tmp_path / "b.yaml"), str(tmp_path / "c.txt")
    paths = [b, "-", str(tmp_path), c, f"{tmp_path}/./b.yaml", "-"]
    assert find(paths, False) == [b, "-", f"{tmp_path}/a.yaml", c]


def test_everything_that_is_no_manifest_is_named_at_once(tmp_path: Path) -> None:
    fill(tmp_path, "fine.yaml", "empty/readme.txt", "below/sub/a.yaml")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    assert refusals(
        tmp_path / "none.yaml", tmp_path / "fifo", "/dev/zero", tmp_path / "loop", tmp_path / "empty",
        tmp_path / "below", tmp_path / "fine.yaml", f"{tmp_path}/fine.yaml/",
    ) == [
        f"{tmp_path}/none.yaml: read the manifest: No such file or directory",
        f"{tmp_path}/fifo: read the manifest: not a regular file",
        "/dev/zero: read the manifest: not a regular file",
        f"{tmp_path}/loop: read the manifest: Too many levels of symbolic links",
        f"{tmp_path}/empty: no manifests in this directory",
        f"{tmp_path}/below: no manifests in this directory",
        f"{tmp_path}/fine.yaml/: read the manifest: Not a directory",
    ]  # fmt: skip


def test_a_directory_may_not_smuggle_in_a_fifo_or_a_file_from_elsewhere(tmp_path: Path) -> None:
    fill(tmp_path, "outside.yaml", "top/a.yaml")
    top = tmp_path / "top"
    os.mkfifo(top / "b.yaml")
    (top / "c.yaml").symlink_to("/etc/passwd")
    (top / "d.yaml").symlink_to("../outside.yaml")
    (top / "e.yaml").symlink_to("/dev/zero")
    (top / "f.yaml").symlink_to("f.yaml")
    assert refusals(top) == [
        f"{top}/c.yaml: symbolic link points out of the directory, to /etc/passwd",
        f"{top}/d.yaml: symbolic link points out of the directory, to {tmp_path}/outside.yaml",
        f"{top}/e.yaml: symbolic link points out of the directory, to /dev/zero",
        f"{top}/b.yaml: read the manifest: not a regular file",
        f"{top}/f.yaml: read the manifest: Too many levels of symbolic links",
    ]
    assert find([str(top / "a.yaml"), str(top / "d.yaml")], False) == [f"{top}/a.yaml", f"{top}/d.yaml"]


@pytest.fixture
def without_rights() -> Iterator[None]:
    """Root may read everything: become somebody else for a while."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    yield
    os.seteuid(was)


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    fill(tmp_path, "a.yaml", "d/b.yaml")
    (tmp_path / "a.yaml").chmod(0)
    (tmp_path / "d").chmod(0)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    tmp_path.chmod(0o755)
    return tmp_path


def test_what_may_not_be_read_is_named(locked: Path, without_rights: None) -> None:
    assert refusals(locked / "a.yaml", locked / "d") == [
        f"{locked}/a.yaml: read the manifest: Permission denied",
        f"{locked}/d: read the manifest: Permission denied",
    ]
    with pytest.raises(ManifestError, match=r"a\.yaml: read the manifest: Permission denied"):
        read(str(locked / "a.yaml"))


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(b"x" * (16 * 1024 * 1024))
    assert len(read(str(file))) == 16 * 1024 * 1024
    file.write_bytes(b"x" * (16 * 1024 * 1024 + 1))
    with pytest.raises(ManifestError, match=r"a\.yaml: larger than 16 MiB"):
        read(str(file))


def test_a_file_that_does_not_know_its_size_is_read_whole() -> None:
    assert read("/proc/self/limits").startswith("Limit ")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/", "/nonexistent", ""])
def test_reading_what_is_no_file_is_refused(path: str) -> None:
    with pytest.raises(ManifestError, match="read the manifest"):
        read(path)


def test_reading_a_fifo_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ManifestError, match="not a regular file"):
        read(str(tmp_path / "fifo"))


def test_bytes_that_are_not_text_are_named_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(ManifestError) as raised:
        read(str(tmp_path / "a.yaml"))
    assert str(raised.value) == f"{tmp_path}/a.yaml:2:4: byte 0xff is not UTF-8"


def read_stdin(stdin: int, monkeypatch: pytest.MonkeyPatch) -> str:
    with open(stdin, "rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        return read("-")


def test_standard_input_is_read_to_its_end_even_when_it_does_not_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    writer = subprocess.Popen(["sh", "-c", "echo a; sleep 0.2; echo b"], stdout=writable)
    os.close(writable)
    assert read_stdin(readable, monkeypatch) == "a\nb\n"
    writer.wait()


def test_standard_input_has_the_same_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    zero = os.open("/dev/zero", os.O_RDONLY)
    with pytest.raises(ManifestError, match="-: larger than 16 MiB"):
        read_stdin(zero, monkeypatch)


def test_closed_standard_input_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ManifestError, match="-: read the manifest: standard input is closed"):
        read("-")
