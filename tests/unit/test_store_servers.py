from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsprov.errors import FailedError
from vsprov.store import claims, images, servers
from vsprov.store.disk import folders
from vsprov.store.instance import Instance


def test_nothing_is_observed_before_anything_was_made(tmp_path: Path) -> None:
    instance = Instance("vt-x", f"{tmp_path}/none")
    assert servers.observe(instance) == {}
    assert images.observe(instance) == {}
    assert servers.sweep(instance) == []
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", "../a", "a\0b", "-a", "web\n", "WEB", "wéb", ".making-a", "a" * 64]
)
def test_what_is_no_name_never_becomes_a_path(tmp_path: Path, name: str) -> None:
    instance = Instance("vt-x", str(tmp_path))
    with pytest.raises(FailedError, match="is not a valid name"):
        servers.remove(instance, name)
    with pytest.raises(FailedError, match="is not a valid name"):
        images.remove(instance, name)


def test_the_state_folders_are_closed_to_others_and_vanish_when_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "FOLDER", f"{tmp_path}/ranges")  # the real one is closed to all but root
    instance = Instance("vt-x", f"{tmp_path}/a/state")
    (tmp_path / "a").mkdir()
    folders.prepare(instance)
    for path in (instance.root, instance.servers, instance.images, instance.layers):
        assert os.stat(path).st_mode & 0o7777 == 0o700
    os.chmod(instance.layers, 0o755)
    folders.prepare(instance)
    assert os.stat(instance.layers).st_mode & 0o7777 == 0o700
    (tmp_path / "a/state/servers/web").mkdir()
    servers.tidy(instance)
    assert os.listdir(instance.root) == ["servers"]
    os.rmdir(f"{instance.servers}/web")
    servers.tidy(instance)
    assert os.listdir(tmp_path / "a") == []


def test_a_root_that_was_there_before_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    instance = Instance("vt-x", f"{tmp_path}/state")
    folders.prepare(instance)
    assert os.stat(instance.root).st_mode & 0o7777 == 0o755
    assert os.stat(instance.layers).st_mode & 0o7777 == 0o700


def test_the_sweep_takes_leftovers_directly_in_our_folders_and_nothing_else(tmp_path: Path) -> None:
    instance = Instance("vt-x", str(tmp_path))
    folders.prepare(instance)
    swept = [
        "servers/.making-web/upper", "servers/.removing-web-0/upper/etc", "images/.tmp-base.json",
        "layers/.making-abc",
        "layers/.removing-abc-0/usr", "servers/web/.tmp-server.json",
    ]  # fmt: skip
    kept = [
        ".making-root", "servers/web/upper/.making-x", "servers/web/upper/.tmp-y", "servers/web/.making-z",
        "servers/.other",
        "layers/abc/.removing-q", "images/base.json", "servers/.makingweb",
    ]  # fmt: skip
    for name in swept + kept:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / "servers/.removing-link").symlink_to(tmp_path / "servers/web")
    (tmp_path / "servers/file").write_text("foreign")
    assert servers.sweep(instance) == sorted(
        f"{tmp_path}/{name}" for name in (
            "servers/.making-web", "servers/.removing-web-0", "images/.tmp-base.json", "layers/.making-abc",
            "layers/.removing-abc-0", "servers/web/.tmp-server.json", "servers/.removing-link",
        )
    )  # fmt: skip
    for name in kept:
        assert (tmp_path / name).exists(), name
    for name in swept:
        assert not (tmp_path / name).exists(), name
    assert servers.sweep(instance) == []


@given(st.binary(max_size=300))
def test_no_content_of_a_record_makes_observing_raise(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        instance = Instance("vt-x", folder)
        folders.prepare(instance)
        os.makedirs(f"{folder}/servers/web/upper")
        os.mkdir(f"{folder}/servers/web/work")
        for path in ("servers/web/server.json", "images/base.json"):
            Path(folder, path).write_bytes(data)
        (found,) = servers.observe(instance).values()
        assert (found.name, found.owner, found.applied) == ("web", None, None)
        assert found.problem.startswith("server.json ")
        (image,) = images.observe(instance).values()
        assert (image.name, image.owners, image.digest, image.contents) == ("base", (), "", None)
        assert image.problem.startswith("base.json ")


def test_a_file_a_bare_directory_and_an_odd_name_among_the_servers_are_shown_as_not_ours(
    tmp_path: Path,
) -> None:
    instance = Instance("vt-x", str(tmp_path))
    folders.prepare(instance)
    (tmp_path / "servers/bare").mkdir()
    (tmp_path / "servers/file").write_text("x")
    os.mkdir(os.fsencode(instance.servers) + b"/\xff")
    found = servers.observe(instance)
    assert sorted(found) == ["bare", "file", "\udcff"]
    assert all(each.owner is None and each.applied is None and each.id_base == 0 for each in found.values())
    assert found["bare"].problem == "; ".join(
        f"{name}: No such file or directory" for name in ("work/", "upper/", "server.json")
    )
    assert found["file"].problem.startswith("work/: Not a directory")
