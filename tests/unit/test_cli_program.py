"""The command line as a whole: verbs, shared options, exit codes, what is loaded, how it is interrupted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli import CHECKOUT, SERVER, Cli, ordinary_user, process
from vsprov import __version__
from vsprov.cli import app
from vsprov.cli.program import GROUPS, VERBS, load, program
from vsprov.cli.verb import settings
from vsprov.errors import UsageError

NOWHERE = {"VSPROV_INSTANCE": "vt-nowhere", "VSPROV_ROOT": "/nonexistent/vt-nowhere"}


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    for name, value in NOWHERE.items():
        monkeypatch.setenv(name, value)
    before = signal.getsignal(signal.SIGTERM)
    yield Cli(capsys)
    signal.signal(signal.SIGTERM, before)


# -- help


def test_help_lists_every_verb_with_what_it_does(cli: Cli) -> None:
    told = cli("--help")
    inside = cli("image", "--help")
    assert (told.code, inside.code) == (0, 0)
    for name, (_, summary) in VERBS.items():
        group, space, word = name.rpartition(" ")
        shown = inside.out if space else told.out
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
        (["destroy", "f", "--all"], "vsprov: destroy: specify either PATH or --all\n"),
        (["apply", "f", "--lock-timeout", "10"], "vsprov: --lock-timeout: '10' is not a duration\n"),
        (["apply", "f", "--parallelism", "0"], "vsprov: --parallelism 0: not a number between 1 and 1024\n"),
        (["get", "pods"], "vsprov: get pods: no such kind\n"),
        (["get", "networks"], "vsprov: get networks: this version of vsprov has no networks\n"),
        (["logs", "a", "-n", "-3"], "vsprov: --tail -3: not a number of lines\n"),
        (["exec", "a", "-e", "1X=2", "--", "true"], "vsprov: --env '1X=2': not a variable\n"),
    ],
)
def test_wrong_usage_ends_with_64_and_says_what_is_wrong(cli: Cli, words: list[str], said: str) -> None:
    told = cli(*words)
    assert (told.code, told.out) == (64, "")
    assert said in told.err


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
        ("shell -e 1X=2 a", "vsprov: --env '1X=2': not a variable\n"),
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
    },
    "plan {}": {"rich", "pydantic", "jinja2", "pyroute2"},
    "apply {}": {"rich", "pydantic", "jinja2", "pyroute2"},
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
    (tmp_path / "m.yaml").write_text("")
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


# -- how it ends


def test_version_tells_the_version(capfd: pytest.CaptureFixture[str]) -> None:
    done = process("version")
    out, err = done.communicate()
    assert (done.returncode, err) == (0, "")
    assert re.fullmatch(rf"vsprov {re.escape(__version__)} \(Python 3\.\d+\.\d+, Linux [^ ]+, [^ ]+\)\n", out)


def test_a_fault_of_vsprov_is_one_line_and_70(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object, **named: object) -> None:
        raise RuntimeError("the first line\nand the second")

    monkeypatch.setattr(app, "program", fail)
    monkeypatch.delenv("VSPROV_DEBUG", raising=False)
    told = cli("plan", "x")
    assert (told.code, told.out) == (70, "")
    assert told.err.splitlines()[0] == "vsprov: internal error: RuntimeError: the first line and the second"


def test_with_vsprov_debug_a_fault_shows_where_it_happened() -> None:
    words = "from vsprov.cli import app; app.program = None; raise SystemExit(app.run(['plan']))"
    done = subprocess.run(
        [sys.executable, "-c", words],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env={**os.environ, "VSPROV_DEBUG": "1"},
    )
    assert done.returncode == 70
    assert "Traceback (most recent call last)" in done.stderr


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_it_with_the_code_of_that_signal(number: signal.Signals, code: int, said: str) -> None:
    running = process("validate", "-")
    assert running.stdin and running.stderr
    try:
        deadline = time.monotonic() + 60
        while "pipe" not in _waits_in(running.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        running.send_signal(number)
        assert running.wait(60) == code
        assert running.stderr.read() == f"vsprov: {said}\n"
    finally:
        running.kill()
        running.communicate()


def _waits_in(pid: int) -> str:
    """Where in the kernel the process sleeps, as proc_pid_wchan(5) has it."""
    return Path(f"/proc/{pid}/wchan").read_text()


def test_it_ends_quietly_when_nobody_reads_its_output() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    running = process("schema", stdout=writer)
    os.close(writer)
    _, err = running.communicate()
    assert (running.returncode, err) == (141, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_an_error(unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        running = process("schema", stdout=full, env={"PYTHONUNBUFFERED": unbuffered})
        _, err = running.communicate()
    assert (running.returncode, err) == (1, "vsprov: write the output: No space left on device\n")


def test_it_works_with_standard_streams_closed() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -m vsprov schema <&- >&- 2>&-', sys.executable],
        cwd=CHECKOUT,
        check=False,
    )
    assert done.returncode == 0


def test_text_the_locale_cannot_write_is_spelt_out(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("apiVersion: vsprov/v1\nkind: Größe\n")
    running = process("validate", str(tmp_path / "m.yaml"), env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    _, err = running.communicate()
    assert running.returncode == 65
    assert "Gr\\xf6\\xdfe" in err


# -- completion


@pytest.mark.parametrize(
    ("words", "position", "offered"),
    [
        ("vsprov st", 1, {"start", "stop"}),
        ("vsprov plan --det", 2, {"--detailed-exitcode"}),
        ("vsprov get i", 2, {"images"}),
        ("vsprov get -o ", 3, {"text", "wide", "name", "json", "yaml"}),
        ("vsprov validate -o s", 3, {"sarif"}),
        ("vsprov schema s", 2, {"server"}),
    ],
)
def test_bash_completes_verbs_options_and_kinds(words: str, position: int, offered: set[str]) -> None:
    env = {"_VSPROV_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    out, _ = process(env=env).communicate()
    assert set(out.split()) == {f"plain,{word}" for word in offered}


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
