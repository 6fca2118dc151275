"""Completion of verbs, options and names by the shells."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli import CHECKOUT, Cli, process


@pytest.mark.parametrize(
    ("words", "position", "offered"),
    [
        ("vsprov st", 1, {"start", "stop"}),
        ("vsprov plan --det", 2, {"--detailed-exitcode"}),
        ("vsprov get i", 2, {"images"}),
        ("vsprov get -o ", 3, {"text", "wide", "name", "json", "yaml"}),
        ("vsprov validate -o s", 3, {"sarif"}),
        ("vsprov schema s", 2, {"server"}),
        ("vsprov explain serv", 2, {"server"}),
        ("vsprov explain server.dn", 2, {"server.dns"}),
        ("vsprov explain server.init.stopT", 2, {"server.init.stopTimeout"}),
        ("vsprov explain server.init.nothing.x", 2, set()),
        ("vsprov kill -s HU", 3, {"HUP"}),
        ("vsprov wait --for exi", 3, {"exited"}),
        ("vsprov get servers --sort-by mem", 4, {"memory"}),
        ("vsprov delete netw", 2, {"networks"}),
        ("vsprov get vol", 2, {"volumes"}),
        ("vsprov describe qu", 2, {"quotas"}),
    ],
)
def test_bash_completes_verbs_options_and_kinds(words: str, position: int, offered: set[str]) -> None:
    env = {"_VSPROV_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    out, _ = process(env=env).communicate()
    assert set(out.split()) == {f"plain,{word}" for word in offered}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("apply d", ["file,d"]),
        ("plan --values d", ["file,d"]),
        ("plan --out d", ["file,d"]),
        ("validate -f d", ["file,d"]),
        ("show d", ["file,d"]),
        ("init d", ["dir,d"]),
        ("--root d", ["dir,d"]),
        ("import d", ["file,d"]),
        ("export db1 d", ["file,d"]),
        ("export db1 -o d", ["file,d"]),
        ("export db1 -o ", ["file,", "plain,text", "plain,json"]),
        ("cp d", ["file,d", "plain,db1:"]),
        ("cp . d", ["file,d", "plain,db1:"]),
        ("clone db1 db2 --snapshot ", ["plain,monday", "plain,sunday"]),
        ("clone db1 db2 --snapshot m", ["plain,monday"]),
        ("snapshot rm db1 m", ["plain,monday"]),
        ("snapshot restore db1 ", ["plain,monday", "plain,sunday"]),
    ],
)
def test_files_are_completed_where_files_are_named_and_snapshots_of_the_server(
    words: str, offered: list[str], tmp_path: Path
) -> None:
    for name in ("monday", "sunday"):
        (tmp_path / "servers/db1/snapshots" / name).mkdir(parents=True)
    env = {
        "VSPROV_ROOT": str(tmp_path),
        "_VSPROV_COMPLETE": "bash_complete",
        "COMP_WORDS": f"vsprov {words}",
        "COMP_CWORD": str(len(words.split(" "))),
    }
    out, _ = process(env=env).communicate()
    assert out.splitlines() == offered


@pytest.mark.parametrize(
    ("words", "told"), [("cp w", "default\nnospace\nweb1:\n"), ("cp file x", "default\n\n")]
)
def test_bash_completes_a_file_or_the_beginning_of_a_path_in_a_server(
    cli: Cli, words: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "servers/web1").mkdir(parents=True)
    (tmp_path / "vsprov").write_text(f'#!/bin/sh\nexec {sys.executable} -m vsprov "$@"\n')
    (tmp_path / "vsprov").chmod(0o755)
    asked = f"""{cli("--show-completion", "bash").out}
        compopt() {{ echo "$2"; }}
        COMP_WORDS=(vsprov {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _vsprov_completion vsprov; echo "$COMPREPLY" """
    path = f"{tmp_path}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(CHECKOUT), "VSPROV_ROOT": str(tmp_path)}
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, env=env)
    assert (done.stdout, done.stderr) == (told, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_completes_names_of_servers(shell: str, tmp_path: Path) -> None:
    for name in ("web1", "web2", "db1", ".making-web3"):
        (tmp_path / "servers" / name).mkdir(parents=True)
    words = "vsprov stop we"
    env = {
        "VSPROV_ROOT": str(tmp_path),
        "_VSPROV_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": "we" if shell == "fish" else "2",
    }
    out, _ = process(env=env).communicate()
    assert set(re.findall(r"[a-z]+\d", out)) == {"web1", "web2"}


@pytest.mark.parametrize(
    ("kind", "offered"),
    [("servers", {"web1"}), ("server", {"web1"}), ("images", {"base"}), ("quotas", set())],
)
def test_names_are_completed_of_the_kind_that_was_typed(kind: str, offered: set[str], tmp_path: Path) -> None:
    (tmp_path / "servers" / "web1").mkdir(parents=True)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "base.json").touch()
    env = {
        "VSPROV_ROOT": str(tmp_path),
        "_VSPROV_COMPLETE": "bash_complete",
        "COMP_WORDS": f"vsprov get {kind} ",
        "COMP_CWORD": "3",
    }
    out, _ = process(env=env).communicate()
    assert set(out.split()) == {f"plain,{word}" for word in offered}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_function_of_a_shell_is_shown(cli: Cli, shell: str) -> None:
    out, _ = process(env={"_VSPROV_COMPLETE": f"{shell}_source"}).communicate()
    assert f"_VSPROV_COMPLETE={shell}_complete" in out
    assert f"_VSPROV_COMPLETE={shell}_complete" in cli("--show-completion", shell).out


def test_without_a_word_the_completion_of_the_shell_in_use_is_shown(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/zsh")
    assert cli("--show-completion").out.startswith("#compdef vsprov\n")
    monkeypatch.setenv("SHELL", "/bin/dash")
    assert cli("--show-completion").code == 64


@pytest.mark.parametrize(
    ("shell", "place", "startup"),
    [
        ("bash", ".bash_completions/vsprov.sh", ".bashrc"),
        ("zsh", ".zfunc/_vsprov", ".zshrc"),
        ("fish", ".config/fish/completions/vsprov.fish", None),
    ],
)
def test_completion_is_installed_once(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shell: str, place: str, startup: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if startup:
        (tmp_path / startup).write_text("mine=1")
    for _ in range(2):
        told = cli("--install-completion", shell)
        assert (told.code, told.out) == (
            0,
            f"Installed {tmp_path / place}; completion works in new shells.\n",
        )
    assert (tmp_path / place).read_text() == cli("--show-completion", shell).out
    if startup:
        mine, *added = (tmp_path / startup).read_text().splitlines()
        assert mine == "mine=1"
        assert len([line for line in added if line]) == 1


def test_a_shell_that_reads_the_installed_completion_completes(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli("--install-completion", "bash").code == 0
    asked = (
        "source ~/.bashrc; COMP_WORDS=(vsprov pla); COMP_CWORD=1; _vsprov_completion vsprov; echo $COMPREPLY"
    )
    (tmp_path / "vsprov").write_text(f'#!/bin/sh\nexec {sys.executable} -m vsprov "$@"\n')
    (tmp_path / "vsprov").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", asked],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(CHECKOUT)},
    )
    assert (done.stdout, done.stderr) == ("plan\n", "")


def test_completion_that_cannot_be_installed_is_an_error(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".zfunc").write_text("not a directory")
    monkeypatch.setenv("HOME", str(tmp_path))
    told = cli("--install-completion", "zsh")
    assert told.code == 1
    assert "install completion for zsh: " in told.err
