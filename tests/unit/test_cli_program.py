"""The command line as a whole: help, verbs, shared options, what is loaded."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli import CHECKOUT, NOWHERE, SERVER, Cli, ordinary_user
from vsprov.cli.foreign_verbs import INSTEAD
from vsprov.cli.options import duration
from vsprov.cli.program import GROUPS, VERBS, load, program
from vsprov.cli.verb import settings
from vsprov.errors import UsageError

# -- help


def test_help_lists_every_verb_with_what_it_does(cli: Cli) -> None:
    told = cli("--help")
    inside = {group: cli(group, "--help") for group in GROUPS}
    assert {each.code for each in (told, *inside.values())} == {0}
    for name, (_, summary) in VERBS.items():
        group, space, word = name.rpartition(" ")
        shown = inside[group].out if space else told.out
        assert re.search(rf"^  {word} +{re.escape(summary)}$", shown, re.MULTILINE), name
        assert not space or re.search(rf"^  {group} +{re.escape(GROUPS[group])}$", told.out, re.MULTILINE)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(cli: Cli, verb: str) -> None:
    told = cli(*verb.split(), "--help")
    assert told.code == 0
    assert told.out.startswith(f"Usage: vsprov {verb} [OPTIONS]")
    assert VERBS[verb][1] in told.out
    assert re.search(rf"Examples:\n(    .*\n)*    .*vsprov {verb}", told.out)
    assert "Options of every verb:" in told.out


@pytest.mark.parametrize("words", ["", "apply", "image", "image ls"])
def test_help_of_a_verb_is_what_its_help_option_prints(cli: Cli, words: str) -> None:
    assert cli("help", *words.split()) == cli(*words.split(), "--help")


def test_help_of_an_unknown_verb_is_wrong_usage(cli: Cli) -> None:
    told = cli("help", "aply")
    assert (told.code, told.out) == (64, "")
    assert told.err == "vsprov: No such command 'aply'. Did you mean 'apply'?\n  hint: vsprov --help\n"


def test_the_version_can_be_had_as_json(cli: Cli) -> None:
    found = json.loads(cli("version", "-o", "json").out)
    text = cli("version", "-q").out
    assert text == "vsprov {version} (Python {python}, {kernel}, {machine})\n".format(**found)


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_names_its_output_formats(cli: Cli, verb: str) -> None:
    outputs = load(verb).outputs
    told = cli(*verb.split(), "--help").out
    assert (f"  Outputs (-o): {', '.join(outputs)}.\n" in told) == (outputs != ("text",))


@pytest.mark.parametrize("verb", VERBS)
def test_no_two_options_of_a_verb_share_a_name(verb: str) -> None:
    names = [name for param in load(verb).params for name in (*param.opts, *param.secondary_opts)]
    assert len(names) == len(set(names))


def test_without_a_verb_the_help_is_shown_and_the_exit_code_is_that_of_wrong_usage(cli: Cli) -> None:
    told = cli()
    assert (told.code, told.out) == (64, "")
    assert told.err.startswith("Usage: vsprov ")


# -- usage


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["aply"], "vsprov: No such command 'aply'. Did you mean 'apply'?\n  hint: vsprov --help\n"),
        (["plan", "--prun"], "--prune"),
        (["exec"], "vsprov: Missing argument 'NAME'\n  hint: vsprov exec --help\n"),
        (["validate"], "vsprov: validate: no manifest given\n  hint: specify files"),
        (
            ["validate", "-o", "xml", "f"],
            "vsprov: -o xml: unsupported output format\n  hint: choose from text, json",
        ),
        (["--instance", "../etc", "get"], "vsprov: --instance '../etc': invalid name\n"),
        (["--instance", "", "get"], "vsprov: --instance: empty value\n"),
        (["get", "--instance="], "vsprov: --instance: empty value\n"),
        (["get", "--root", ""], "vsprov: --root: empty value\n"),
        (["get", "-o", ""], "vsprov: --output: empty value\n"),
        (["version", "-o", "yaml"], "vsprov: -o yaml: unsupported output format\n"),
        (["init", "-o", "json", "d"], "vsprov: -o json: unsupported output format\n"),
        (["schema", "-o", "wide"], "vsprov: -o wide: unsupported output format\n"),
        (["plan", "f", "--out", ""], "vsprov: --out '': not a file\n"),
        (["--show-completion", "tcsh"], "vsprov: --show-completion tcsh: unsupported shell"),
        (["schema", "pod"], "vsprov: schema pod: no such schema\n  hint: choose from manifest, image"),
        (["start"], "vsprov: specify exactly one of: names of servers, -l, --all\n"),
        (["kill"], "vsprov: specify exactly one of: names of servers, -l, --all\n"),
        (["kill", "-s", "FOO", "a"], "vsprov: --signal: 'FOO' is not a signal\n  hint: write TERM"),
        (["delete"], "vsprov: Missing argument 'KIND'\n"),
        (["delete", "server"], "vsprov: delete server: no names given\n"),
        (["destroy", "f", "--all"], "vsprov: destroy: specify either PATH or --all\n"),
        (["apply", "f", "--lock-timeout", "10"], "vsprov: --lock-timeout: '10' is not a duration\n"),
        (["apply", "f", "--parallelism", "0"], "vsprov: --parallelism 0: not a number between 1 and 1024\n"),
        (["get", "pods"], "vsprov: get pods: no such kind\n"),
        (["logs", "a", "-n", "-3"], "vsprov: --tail -3: not a number of lines\n"),
        (["exec", "a", "-e", "=2", "--", "true"], "vsprov: --env '=2': not a variable\n"),
    ],
)
def test_wrong_usage_ends_with_64_and_says_what_is_wrong(cli: Cli, words: list[str], said: str) -> None:
    told = cli(*words)
    assert (told.code, told.out) == (64, "")
    assert said in told.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("top", "no such command 'top'\n  hint: vsprov get servers -o wide, or vsprov ps\n"),
        ("help stats", "no such command 'stats'\n  hint: vsprov get servers -o wide, or vsprov ps\n"),
        ("events -f", "no such command 'events'\n  hint: vsprov describe NAME, or vsprov logs NAME\n"),
        ("image list", "no such command 'image list'\n  hint: vsprov image ls\n"),
        ("image top", "No such command 'top'\n  hint: vsprov image --help\n"),
    ],
)
def test_a_verb_of_another_tool_is_answered_with_what_does_the_same(cli: Cli, words: str, said: str) -> None:
    told = cli(*words.split())
    assert (told.code, told.out, told.err) == (64, "", f"vsprov: {said}")


@pytest.mark.parametrize(("foreign", "lines"), INSTEAD.items())
def test_a_verb_of_another_tool_is_none_of_ours_and_what_replaces_it_is_one(
    foreign: str, lines: tuple[str, ...]
) -> None:
    assert foreign not in VERBS
    assert foreign not in GROUPS
    assert lines
    for line in lines:
        verb = next(name for name in VERBS if f"{line} ".startswith(f"{name} "))
        load(verb).make_context(verb, line.removeprefix(verb).split(), resilient_parsing=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("plan --set x FILE", "vsprov: --set x: expected a.b=value\n"),
        ("plan --set-name A FILE", "vsprov: --set-name: 'A' is not a valid name\n"),
        ("plan -l = FILE", "vsprov: -l '=': not a selector\n"),
        ("plan -l a=b FILE", "vsprov: -l a=b: no server in the manifest matches\n"),
        ("plan --prune -l tier=web FILE", "vsprov: --prune: cannot be combined with -l\n"),
        ("plan --prune EMPTY", "vsprov: --prune: the manifest is empty"),
        ("diff --set x FILE", "vsprov: --set x: expected a.b=value\n"),
        ("diff -l = FILE", "vsprov: -l '=': not a selector\n"),
        ("apply --set x FILE", "vsprov: --set x: expected a.b=value\n"),
        ("apply --set-name A FILE", "vsprov: --set-name: 'A' is not a valid name\n"),
        ("apply -l = FILE", "vsprov: -l '=': not a selector\n"),
        ("apply --prune -l tier=web FILE", "vsprov: --prune: cannot be combined with -l\n"),
        ("apply --prune EMPTY", "vsprov: --prune: the manifest is empty"),
        ("apply PLAN FILE", "a saved plan can only be applied as it is\n"),
        ("apply PLAN", "not a plan saved by this version of vsprov: of format 0\n"),
        ("destroy --set x FILE", "vsprov: --set x: expected a.b=value\n"),
        ("destroy --set-name A FILE", "vsprov: --set-name: 'A' is not a valid name\n"),
        ("destroy -l = FILE", "vsprov: -l '=': not a selector\n"),
        ("destroy -l = EMPTY", "vsprov: -l '=': not a selector\n"),
        ("destroy --all -l tier=web", "vsprov: destroy --all: cannot be combined with -l\n"),
        ("get pods", "vsprov: get pods: no such kind\n"),
        ("get server/a pods/b", "vsprov: get pods: no such kind\n"),
        ("get -l =", "vsprov: -l '=': not a selector\n"),
        ("start -l =", "vsprov: -l '=': not a selector\n"),
        ("stop --all --timeout 10", "vsprov: --timeout: '10' is not a duration\n"),
        ("restart a --timeout x", "vsprov: --timeout: 'x' is not a duration\n"),
        ("exec -t -T a -- true", "vsprov: exec: -t and -T cannot be combined\n"),
        ("shell -e =2 a", "vsprov: --env '=2': not a variable\n"),
        ("logs a -n x", "vsprov: --tail x: not a number of lines\n"),
        ("image rm", "vsprov: image rm: no image given\n"),
        ("image pull", "vsprov: image pull: no manifest given\n"),
        ("image pull a/b:1", "an image from a registry needs --name, and is pulled alone\n"),
        ("image pull --name x FILE", "vsprov: --name and --insecure: only with the reference of an image"),
        ("image pull FILE other", "vsprov: image pull: other is not a file, and "),
        ("image pull --set x FILE", "vsprov: --set x: expected a.b=value\n"),
        ("image pull --set-name A FILE", "vsprov: --set-name: 'A' is not a valid name\n"),
    ],
)
def test_wrong_usage_is_told_before_root_is_asked_for(
    cli: Cli, tmp_path: Path, words: str, said: str
) -> None:
    texts = {"FILE": SERVER, "EMPTY": "", "PLAN": '{"format_version": "0"}'}
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    line = [str(tmp_path / f"{word}.yaml") if word in texts else word for word in words.split()]
    with ordinary_user():
        told = cli(*line)
    assert (told.code, told.out) == (64, "")
    assert said in told.err


def test_a_duration_on_the_command_line_may_be_a_plain_0() -> None:
    assert [duration(given, "--timeout") for given in ("0", "0s", "10s")] == [0, 0, 10_000_000]
    with pytest.raises(UsageError) as found:
        duration("5", "--timeout")
    assert (str(found.value), found.value.hint) == (
        "--timeout: '5' is not a duration", "write 1m30s, 10s or 250ms"
    )  # fmt: skip


@pytest.mark.parametrize("verb", ["plan", "diff", "apply", "destroy", "image pull"])
def test_a_wrong_manifest_is_told_before_root_is_asked_for(cli: Cli, tmp_path: Path, verb: str) -> None:
    (tmp_path / "wrong.yaml").write_text("kind: Pod\n")
    (tmp_path / "right.yaml").write_text(SERVER)
    with ordinary_user():
        assert cli(*verb.split(), tmp_path / "wrong.yaml").code == 65
        assert cli(*verb.split(), tmp_path / "right.yaml").code == 77


@pytest.mark.parametrize(
    "words", [["-o", "json", "validate"], ["validate", "-o", "json"], ["validate", "--output=json"]]
)
def test_shared_options_may_stand_before_or_after_the_verb(
    cli: Cli, tmp_path: Path, words: list[str]
) -> None:
    (tmp_path / "m.yaml").write_text(SERVER)
    assert cli(*words, tmp_path / "m.yaml").json()["valid"] is True


def test_an_option_after_the_verb_wins_over_one_before_it_and_both_over_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VSPROV_INSTANCE", "of-environment")
    monkeypatch.delenv("VSPROV_ROOT", raising=False)
    assert settings().instance.name == "of-environment"
    assert settings(instance="given").instance.root == "/var/lib/given"
    command = program()
    with command.make_context(
        "vsprov", ["--instance", "before", "version", "--instance", "after"]
    ) as context:
        verb = load("version").make_context("version", ["--instance", "after"], parent=context)
        load("version").invoke(verb)
        assert verb.params["settings"].instance.name == "after"
        verb = load("version").make_context("version", [], parent=context)
        load("version").invoke(verb)
        assert verb.params["settings"].instance.name == "before"


def test_the_root_is_where_the_instance_keeps_things_unless_it_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VSPROV_ROOT", "/srv/state/")
    assert settings().instance.root == "/srv/state"
    assert settings(root="there").instance.root == os.path.abspath("there")


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "..", "a" * 64, "a\n"])
def test_an_instance_name_is_a_label(name: str) -> None:
    with pytest.raises(UsageError, match="invalid name" if name else "empty"):
        settings(instance=name)


# -- what is loaded


VALIDATION = {"jsonschema", "referencing", "attr"}  # only needed to say what is wrong with a manifest
FORBIDDEN = {
    "version": {"click", "yaml", "json", "re", "vsprov.cli.app"},
    "--help": {"yaml", "rich", "pydantic", "vsprov.engine", "vsprov.manifest"},
    "validate {}": {
        "rich",
        "pydantic",
        "jinja2",
        "pyroute2",
        "ctypes",
        "vsprov.engine.apply",
        "vsprov.engine.guests",
        "vsprov.engine.images",
        "vsprov.engine.look",
        "vsprov.engine.run",
        "vsprov.engine.show",
        *VALIDATION,
    },
    "plan {}": {"rich", "jinja2", "pyroute2", "requests", *VALIDATION},
    "apply --allow-empty {}": {"rich", "jinja2", "pyroute2", "requests", *VALIDATION},
    "get -o json": {
        "rich",
        "pydantic",
        "jinja2",
        "pyroute2",
        "jsonschema",
        "yaml",
        "vsprov.manifest",
        "vsprov.engine.run.spawn",
    },
    "get": {"rich", "pydantic", "jinja2", "pyroute2", "jsonschema", "yaml", "vsprov.manifest"},
}


@pytest.mark.parametrize("words", FORBIDDEN)
def test_a_verb_loads_only_what_it_needs(words: str, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("" if "--allow-empty" in words else SERVER)
    command = [sys.executable, "-X", "importtime", "-m", "vsprov", *words.format(tmp_path / "m.yaml").split()]
    env = {key: text for key, text in os.environ.items() if not key.startswith("VSPROV_")} | NOWHERE
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, env=env)
    assert done.returncode in (0, 77), done.stderr[-500:]
    loaded = {
        line.rpartition("|")[2].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "vsprov.cli" in loaded
    assert FORBIDDEN[words] & loaded == set()
