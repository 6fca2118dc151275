from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsprov.errors import FailedError
from vsprov.store.disk import durable, sealed


def test_a_written_file_has_its_content_its_mode_and_no_companion(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        durable.write_file(f"{tmp_path}/a", b"old", 0o644)
        durable.write_file(f"{tmp_path}/a", b"new", 0o640)
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o640
    assert os.listdir(tmp_path) == ["a"]


def test_what_a_crash_left_beside_a_file_does_not_hinder_the_next_write(tmp_path: Path) -> None:
    (tmp_path / ".tmp-a").symlink_to("/etc/passwd")
    durable.write_file(f"{tmp_path}/a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_a_write_that_the_kernel_cuts_short_leaves_the_old_content_and_names_file_and_reason(
    tmp_path: Path,
) -> None:
    durable.write_file(f"{tmp_path}/a", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(FailedError) as refused:
            durable.write_file(f"{tmp_path}/a", b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(refused.value) == f"{tmp_path}/a: write 5000 bytes: {os.strerror(errno.EFBIG)}"
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_in_a_folder_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FailedError, match=r"/none/a: write 1 bytes: No such file or directory"):
        durable.write_file(f"{tmp_path}/none/a", b"x")


def test_setting_aside_takes_the_first_free_name_and_says_when_there_is_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        (tmp_path / "web").mkdir()
        assert durable.set_aside(f"{tmp_path}/web") is not None
    assert sorted(os.listdir(tmp_path)) == [".removing-web-0", ".removing-web-1"]
    assert durable.set_aside(f"{tmp_path}/web") is None


def test_a_new_name_never_replaces_even_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(FileExistsError):
        durable.rename_new(f"{tmp_path}/a", f"{tmp_path}/b")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_removing_a_tree_takes_odd_names_and_links_but_nothing_behind_them(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    tree = os.fsencode(tmp_path) + b"/tree"
    for name in (b"plain", b"\xff\xfe", b"new\nline", b"-rf", b" ", b"a" * 255):
        os.makedirs(tree + b"/" + name + b"/inner")
        with open(tree + b"/" + name + b"/file", "wb") as file:
            file.write(b"x")
    os.symlink(outside, tree + b"/plain/to-folder")
    os.symlink(outside / "kept", tree + b"/plain/to-file")
    os.mkfifo(tree + b"/fifo")
    durable.remove_tree(os.fsdecode(tree))
    assert not os.path.lexists(tree)
    assert (outside / "kept").read_text() == "kept"


def test_removing_a_symbolic_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "kept").write_text("kept")
    (tmp_path / "link").symlink_to("real")
    durable.remove_tree(f"{tmp_path}/link")
    assert sorted(os.listdir(tmp_path)) == ["real"]
    assert (tmp_path / "real" / "kept").read_text() == "kept"


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    durable.remove_tree(f"{tmp_path}/none")
    durable.remove_tree(f"{tmp_path}/none/deeper")


def test_a_tree_of_3000_levels_is_removed_with_a_handful_of_descriptors(tmp_path: Path) -> None:
    os.mkdir(tmp_path / "tree")
    here = os.open(tmp_path / "tree", os.O_RDONLY)
    for level in range(3000):
        os.mkdir("down", dir_fd=here)
        if level % 100 == 0:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        below = os.open("down", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    used = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 6, hard))
    try:
        durable.remove_tree(f"{tmp_path}/tree")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == used


SPECS = st.dictionaries(
    st.text(),
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5),
    max_size=5,
)


@given(SPECS)
def test_a_sealed_content_reads_back(content: dict[str, object]) -> None:
    assert sealed.unseal(sealed.seal(content)) == content


@given(SPECS, st.data())
def test_no_cut_and_no_changed_byte_goes_unseen(content: dict[str, object], data: st.DataObject) -> None:
    whole = sealed.seal(content)
    at = data.draw(st.integers(0, len(whole) - 1))
    change = data.draw(st.integers(1, 255))
    for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :]):
        with pytest.raises(ValueError, match=r"^(is|was) "):
            sealed.unseal(damaged)


@given(st.binary(max_size=200))
def test_no_bytes_at_all_are_taken_for_a_sealed_file(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(is|was) "):
        sealed.unseal(data)


def test_each_kind_of_damage_is_told_in_words(tmp_path: Path) -> None:
    path = tmp_path / "server.json"
    for content, said in (
        (b"", "server.json is empty"),
        (sealed.seal({"a": 1})[:-10], "server.json is truncated"),
        (
            sealed.seal({"a": 1}).replace(b'"a":1', b'"a":2'),
            "server.json was modified by something other than vsprov",
        ),
        (b'{"format": 2}', "server.json was written by a newer vsprov (format 2, this one reads 1)"),
        (b"[" * 100_000, "server.json is truncated"),
    ):
        path.write_bytes(content)
        assert sealed.read(str(path)) == (None, said)


def test_a_fifo_a_link_or_a_directory_in_a_sealed_files_place_neither_hangs_nor_misleads(
    tmp_path: Path,
) -> None:
    (tmp_path / "good").write_bytes(sealed.seal({"a": 1}))
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("good")
    (tmp_path / "folder").mkdir()
    assert sealed.read(f"{tmp_path}/good") == ({"a": 1}, "")
    assert sealed.read(f"{tmp_path}/fifo") == (None, "fifo is empty")
    assert sealed.read(f"{tmp_path}/link") == (None, "link: Too many levels of symbolic links")
    assert sealed.read(f"{tmp_path}/folder") == (None, "folder: Is a directory")
    assert sealed.read(f"{tmp_path}/none") == (None, "none: No such file or directory")


def test_a_sealed_file_larger_than_one_read_comes_back_whole(tmp_path: Path) -> None:
    content = {"text": "x" * 300_000}
    (tmp_path / "a").write_bytes(sealed.seal(content))
    assert sealed.read(f"{tmp_path}/a") == (content, "")
