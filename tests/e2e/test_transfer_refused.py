"""export and import: what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.transfers import members, staged
from tests.e2e.verbs import HOST
from tests.lab import Lab, mounted, server, volume


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("export", "nobody", "x"), 1, "Server/nobody"),
        (("export", "web1", "-o", "json"), 64, "hint: specify a file: vsprov export web1 FILE -o json"),
        (("export", "web1", "x", "-o", "y"), 64, "FILE is already x"),
        (("export", "web1", "/dev/full"), 1, "/dev/full: write the export: No space left on device"),
        (("export", "web1", "/nowhere/x"), 1, "/nowhere/x: write the export: No such file or directory"),
        (("export", "web1", "/"), 64, "/: write the export: it is a directory"),
        (("import", "/nowhere"), 1, "/nowhere: open: No such file or directory"),
        (("import", "/etc/passwd"), 1, "/etc/passwd: it is damaged, or not a tar archive"),
        (("import", "/etc/passwd", "--name", "../x"), 64, "not a name that a server can have"),
        (("import", "/etc/passwd", "--name", "web1"), 1, "Server/web1 exists"),
        (("import", "/etc/passwd", "--volume", "a"), 64, "--volume a: not OLD=NEW"),
        (("import", "/etc/passwd", "--volume", "a=../b"), 64, "not a name that a volume can have"),
        (("import", "/etc/passwd", "--max-size", "1x"), 64, "--max-size"),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    shared_lab: Lab, tmp_path: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    if not shared_lab.directory("web1").exists():
        shared_lab.apply(HOST, volume("data"), server("web1", mounts=[mounted("data")]))
    first = shared_lab.init("web1")
    done = shared_lab.vsprov(*words, check=False, cwd=tmp_path)
    assert done.returncode == code and message in done.stderr, done.stderr
    assert os.listdir(tmp_path) == [] and shared_lab.init("web1") == first
    assert staged(shared_lab) == [] and [
        each.name for each in shared_lab.directory("x").parent.iterdir()
    ] == ["web1"]


def test_a_file_is_replaced_only_if_that_is_asked(lab: Lab, tmp_path: Path) -> None:
    lab.apply(HOST, server("web1"))
    archive = tmp_path / "web1"
    archive.write_text("mine")
    done = lab.vsprov("export", "web1", archive, check=False)
    assert done.returncode == 64 and "it exists" in done.stderr and archive.read_text() == "mine"
    lab.vsprov("export", "web1", archive, "--force")
    assert next(iter(members(archive))) == "vsprov-export.json" and os.listdir(tmp_path) == ["web1"]


def test_names_that_are_taken_are_refused(lab: Lab, tmp_path: Path) -> None:
    lab.apply(HOST, volume("data"), volume("taken"), server("web1", mounts=[mounted("data")]))
    lab.shell("web1", "echo v > /data/file")
    archive = tmp_path / "web1"
    lab.vsprov("export", "web1", archive)
    hint = "\n  hint: import under other names: "
    for words, message in (
        ((), f"Server/web1, Volume/data exist{hint}--name NAME --volume data=NAME\n"),
        (("--name", "web2"), f"Volume/data exists{hint}--volume data=NAME\n"),
        (("--name", "web2", "--volume", "data=taken"), f"Volume/taken exists{hint}--volume data=NAME\n"),
        (("--name", "web2", "--volume", "other=x"), "the archive has data"),
    ):
        done = lab.vsprov("import", archive, *words, check=False)
        assert done.returncode in (1, 64) and message in done.stderr, done.stderr
    assert lab.shell("web1", "cat /data/file") == "v\n"
    assert sorted(os.listdir(lab.vsprov.root / "volumes")) == ["data", "taken"] and staged(lab) == []
    lab.vsprov("export", "web1", archive, "--force", "--no-volumes")
    lab.vsprov("import", archive, "--name", "web2", "--trust")  # which shares the volume
    lab.vsprov("start", "web2")
    assert lab.shell("web2", "cat /data/file") == "v\n"


def test_an_image_that_was_committed_on_another_host_needs_a_substitute(
    lab: Lab, other: Lab, tmp_path: Path
) -> None:
    lab.apply(HOST, server("web1"))
    lab.vsprov("commit", "web1", "saved")
    lab.apply(server("web2", image="saved"))
    lab.vsprov("export", "web2", tmp_path / "web2")
    other.apply(HOST)
    done = other.vsprov("import", tmp_path / "web2", "--trust", check=False)
    assert done.returncode == 1
    assert "Image/saved: import: was made by vsprov commit on another host: sha256:" in done.stderr
    assert "hint: --image NAME uses another image" in done.stderr
    other.vsprov("import", tmp_path / "web2", "--image", HOST["metadata"]["name"])
    other.vsprov("start", "web2")


def test_what_reaches_the_host_needs_trust(lab: Lab, other: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    spec = {
        "mounts": [{"type": "bind", "source": str(folder), "target": "/mnt", "readOnly": True}],
        "hooks": {"preStart": [{"exec": ["touch", str(tmp_path / "touched")]}]},
        "security": {"capabilities": {"add": ["SYS_PTRACE"]}},
    }
    lab.apply(HOST, server("web1", **spec))
    (tmp_path / "touched").unlink()
    lab.vsprov("export", "web1", tmp_path / "web1")
    done = other.vsprov("import", tmp_path / "web1", check=False)
    assert done.returncode == 1 and "--trust" in done.stderr
    for line in (
        f"Server/web1: spec.mounts[0]: {folder} of the host (read-only)",
        f"Server/web1: spec.hooks.preStart: runs touch {tmp_path}/touched on the host, as root",
        "Server/web1: spec.security.capabilities.add: SYS_PTRACE",
    ):
        assert line in done.stderr, done.stderr
    assert not other.vsprov.root.exists() and not (tmp_path / "touched").exists()
    other.vsprov("import", tmp_path / "web1", "--trust")
    other.vsprov("start", "web1")
    assert (tmp_path / "touched").exists()
