"""Callers in odd places and with odd streams get their servers, or an error before anything is changed."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.verbs import HOST, web
from tests.lab import Lab, to_yaml

# How a shell runs the command line in "$@".
ODD = {
    "in a removed directory": 'mkdir gone && cd gone && rmdir ../gone && exec "$@"',
    "with closed streams": 'exec "$@" <&- >&- 2>&-',
    "with few descriptors": 'ulimit -n 32 && exec "$@"',
    "without an environment": 'exec env -i "$@"',
    "in an unknown locale": 'export LC_ALL=xx_YY.nonsense TERM=nonsense TZ=nonsense; unset HOME; exec "$@"',
    "with errors that cannot be written": 'exec "$@" 2>/dev/full',
}


@pytest.mark.parametrize("how", ODD)
def test_servers_are_made_changed_and_removed(lab: Lab, tmp_path: Path, how: str) -> None:
    def run(*words: str) -> None:
        command = [sys.executable, "-I", "-m", "vsprov", *lab.vsprov.command(*words)[3:]]
        done = subprocess.run(
            ["/bin/sh", "-c", ODD[how], "sh", *command], cwd=tmp_path, env=lab.vsprov.environment, timeout=60
        )
        assert done.returncode == 0, shlex.join(command)

    (tmp_path / "m.yaml").write_text(to_yaml(HOST, web(), web("web2")))
    for words in (("plan",), ("apply", "-y"), ("apply", "-y")):
        run(*words, str(tmp_path / "m.yaml"))
    before = lab.init("web1")
    for words in (("get", "-o", "json"), ("restart", "web2"), ("logs", "web1")):
        run(*words)
    assert lab.init("web1") == before and lab.is_settled(HOST, web(), web("web2"))
    run("destroy", "-y", str(tmp_path / "m.yaml"))
    assert lab.vsprov.left() == []


def test_the_state_root_may_be_behind_a_link(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(to_yaml(HOST, web()))
    link = tmp_path / "link"
    link.symlink_to(lab.vsprov.root)  # which does not exist yet
    root, path = ("--root", link), tmp_path / "m.yaml"
    assert "Done: 2 added" in lab.vsprov(*root, "apply", "-y", path).stdout
    assert lab.is_settled(HOST, web())
    assert "Nothing to do" in lab.vsprov(*root, "apply", "-y", path).stdout
    lab.vsprov(*root, "restart", "web1")
    assert lab.vsprov(*root, "exec", "web1", "--", "echo", "hi").stdout == "hi\n"
    lab.vsprov(*root, "destroy", "--all", "-y")
    assert lab.vsprov.left() == [] and link.is_symlink()


def test_output_that_cannot_be_written_is_an_error_before_anything_is_changed(
    lab: Lab, tmp_path: Path
) -> None:
    (tmp_path / "m.yaml").write_text(to_yaml(HOST, web()))
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            lab.vsprov.command("apply", "-y", str(tmp_path / "m.yaml")),
            stdout=full, stderr=subprocess.PIPE, env={**lab.vsprov.environment, "PYTHONUNBUFFERED": "1"},
            text=True, timeout=60,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "vsprov: write the output: No space left on device\n")
    assert lab.vsprov.left() == []


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n---\n"])
def test_a_manifest_without_objects_is_an_error_unless_it_may_be_empty(lab: Lab, text: str) -> None:
    for words in (("plan",), ("apply", "-y"), ("diff",), ("destroy", "-y")):
        refused = lab.vsprov(*words, "-", input=text, check=False)
        assert (refused.returncode, refused.stdout) == (65, "")
        assert refused.stderr.startswith("standard input: no objects in the manifest\n")
    for words in (("plan",), ("apply", "-y")):
        assert lab.vsprov(*words, "--allow-empty", "-", input=text).stdout == "Nothing to do.\n"
    assert lab.vsprov("validate", "-", input=text).stdout == "Valid: no objects.\n"
