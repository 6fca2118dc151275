"""The run directory and the state root, made or changed by somebody else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.instance import Instance
from tests.lab import Lab, image, server, to_yaml

USER = 12345


def make_fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


def make_users_file(path: Path) -> None:
    path.write_text("spawner 1 1\n")
    os.chown(path, USER, USER)


def make_open_file(path: Path) -> None:
    path.write_text("spawner 1 1\n")
    path.chmod(0o666)


ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "fifo": (make_fifo, "not a regular file"),
    "directory": (Path.mkdir, ""),
    "socket": (make_socket, "open: No such device or address"),
    "users file": (make_users_file, f"belongs to uid {USER}"),
    "open file": (make_open_file, "other users may write to it (mode 0666)"),
}


@pytest.fixture
def run(lab: Lab) -> Iterator[Path]:
    """The run directory, made by the test."""
    lab.vsprov.run.mkdir(mode=0o755)
    lab.vsprov.run.chmod(0o755)
    yield lab.vsprov.run
    subprocess.run(["rm", "-rf", str(lab.vsprov.run)], check=True)


@pytest.mark.parametrize("name", ["lock", "intent"])
@pytest.mark.parametrize("kind", ODD)
def test_an_odd_file_in_the_run_directory_is_named_and_left_as_it_is(
    lab: Lab, run: Path, name: str, kind: str
) -> None:
    make, words = ODD[kind]
    make(run / name)
    before = (run / name).lstat()
    said = lab.refused(image(), server("a"))
    assert f"{run / name}: " in said and words in said and f"remove {run / name}" in said
    assert (run / name).lstat() == before


@pytest.mark.parametrize("name", ["lock", "intent"])
@pytest.mark.parametrize("hard", [False, True])
def test_a_link_in_the_run_directory_changes_no_other_file(
    lab: Lab, run: Path, name: str, hard: bool
) -> None:
    victim = Path(f"/run/{lab.vsprov.name}.victim")
    victim.write_text("precious")
    try:
        if hard:
            (run / name).hardlink_to(victim)
        else:
            (run / name).symlink_to(victim)
        said = lab.refused(image(), server("a"))
        assert f"{run / name}: " in said
        assert victim.read_text() == "precious"
    finally:
        victim.unlink()


@pytest.mark.parametrize("kind", ["user", "open", "link", "file"])
def test_a_run_directory_that_is_not_roots_alone_is_refused(lab: Lab, tmp_path: Path, kind: str) -> None:
    run = lab.vsprov.run
    words = {
        "user": f"belongs to uid {USER}",
        "open": "other users may write to it (mode 0777)",
        "link": "open: Not a directory",
        "file": "open: Not a directory",
    }[kind]
    if kind == "link":
        run.symlink_to(tmp_path)
    elif kind == "file":
        run.touch()
    else:
        run.mkdir()
        os.chown(run, USER if kind == "user" else 0, 0)
        run.chmod(0o777 if kind == "open" else 0o755)
    try:
        said = lab.refused(image(), server("a"))
        assert f"{run}: {words}" in said
        assert list(tmp_path.iterdir()) == []
    finally:
        run.rmdir() if run.is_dir() and not run.is_symlink() else run.unlink()


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_modes_do_not_depend_on_the_umask(instance: Instance, tmp_path: Path, umask: int) -> None:
    root = tmp_path / "deep/er/state"
    script = f"import os, runpy; os.umask({umask}); runpy.run_module('vsprov', run_name='__main__')"
    words = [sys.executable, "-c", script, "--instance", instance.name, "--root", str(root)]
    manifest = tmp_path / "m.yaml"
    manifest.write_text(to_yaml(image(), server("a")))
    subprocess.run(
        [*words, "apply", "-y", str(manifest)], check=True, env=instance.environment, capture_output=True
    )
    try:
        modes = {path: oct(path.stat().st_mode & 0o7777) for path in (instance.run, root, root / "servers")}
        assert modes == {instance.run: "0o755", root: "0o700", root / "servers": "0o700"}
        assert {oct(file.stat().st_mode & 0o777) for file in instance.run.iterdir() if file.is_file()} == {
            "0o600"
        }
        assert not (root.parent.stat().st_mode | root.parent.parent.stat().st_mode) & 0o022
    finally:
        subprocess.run(
            [*words, "destroy", "--all", "-y"], check=True, env=instance.environment, capture_output=True
        )


@pytest.mark.parametrize("name", ["", "servers", "layers"])
def test_a_state_directory_opened_to_others_is_planned_and_closed(lab: Lab, name: str) -> None:
    lab.converge(image(), server("a"))
    folder = lab.vsprov.root / name
    folder.chmod(0o777)
    done = lab.vsprov("plan", "-", input=to_yaml(image(), server("a")), check=False)
    assert done.returncode == 1
    assert f"{folder}".rstrip("/") + ": other users may write to it (mode 0777)" in done.stderr
    said = lab.apply(image(), server("a")).stderr
    assert "other users may write to it (mode 0777): restricted to root" in said
    assert folder.stat().st_mode & 0o7777 == 0o700
    assert lab.is_settled(image(), server("a"))


def test_a_root_with_files_of_others_keeps_its_mode_and_them_and_nothing_else_is_left(lab: Lab) -> None:
    root, shared = lab.vsprov.root, (image(), server("a"))
    root.mkdir()
    root.chmod(0o1777)
    (root / "diary").write_text("precious")
    said = lab.refused(*shared)
    assert f"{root}: other users may write to it (mode 1777), and it contains 'diary'" in said
    assert f"choose another --root, such as {root}/vsprov" in said
    assert root.stat().st_mode & 0o7777 == 0o1777 and os.listdir(root) == ["diary"]
    root.chmod(0o755)
    lab.converge(*shared)
    lab.vsprov("destroy", "--all", "-y")
    assert os.listdir(root) == ["diary"] and not lab.vsprov.run.exists()
    (root / "diary").unlink()
    root.rmdir()


@pytest.mark.parametrize("name", ["", "servers"])
def test_a_state_directory_of_another_user_is_refused(lab: Lab, name: str) -> None:
    lab.converge(image(), server("a"))
    folder = lab.vsprov.root / name
    os.chown(folder, USER, USER)
    said = lab.refused(image(), server("b"))
    os.chown(folder, 0, 0)
    assert f"belongs to uid {USER}, not to root" in said
    assert not lab.directory("b").exists()


def test_a_state_directory_behind_a_link_is_refused_and_the_root_behind_one_of_roots_is_not(
    lab: Lab, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    lab.vsprov.root.symlink_to(other)
    lab.converge(image(), server("a"))
    assert (other / "servers/a").is_dir()
    lab.vsprov("destroy", "--all", "-y")
    other.mkdir(mode=0o700, exist_ok=True)
    (other / "layers").symlink_to("/srv")
    assert f"{lab.vsprov.root}/layers: not a directory" in lab.refused(image(), server("a"))
    (other / "layers").unlink()
    os.lchown(lab.vsprov.root, USER, USER)
    assert f"{lab.vsprov.root}: a symbolic link that uid {USER} owns" in lab.refused(image(), server("a"))
    lab.vsprov.root.unlink()
