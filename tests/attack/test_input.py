"""Manifests that are not meant well: each is refused quickly, by a line that says where; nothing is made."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from tests.instance import Instance
from tests.lab import Lab, image, server, to_yaml

HEAD = "apiVersion: vsprov/v1\n"


def refused(vsprov: Instance, text: str, *words: str) -> str:
    """What `validate` says of a manifest that it must refuse."""
    done = vsprov("validate", *words, "-", input=text, check=False)
    assert done.returncode == 65, (done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def named(name: str) -> str:
    return f"{HEAD}kind: Image\nmetadata: {{name: {name}}}\nspec: {{source: {{host: {{}}}}}}\n"


@pytest.mark.parametrize(
    "name",
    [
        '""',
        ".",
        "..",
        "a/b",
        "/a",
        r'"a\0b"',
        '"-rf"',
        "a" * 256,
        "cgroup.procs",
        "A",
        '"a "',
        "a_b",
        "a-",
        '"$(id)"',
        "'%d'",
    ],
)
def test_a_name_that_is_no_label_is_refused(vsprov: Instance, name: str) -> None:
    """D01."""
    assert "name" in refused(vsprov, named(name))


def test_a_name_with_a_line_break_at_its_end_is_refused(vsprov: Instance) -> None:
    r"""D02: `$` of a regular expression matches before it."""
    assert "name" in refused(vsprov, named(r'"web\n"'))


@pytest.mark.parametrize("name", ["wеb", "ｗeb", "ﬁle", r'"a‮b"', "a²", "１２", "ı", r'"é"'])
def test_letters_that_only_look_right_are_refused(vsprov: Instance, name: str) -> None:
    """D03."""
    assert "name" in refused(vsprov, named(name))


def test_an_alias_bomb_is_refused(vsprov: Instance) -> None:
    """D05: 400 bytes that would be millions of nodes."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    refused(vsprov, "\n".join(lines))


@pytest.mark.parametrize("text", ["&a [*a]", "[" * 20000, "{a: " * 5000, "- " * 20000])
def test_recursion_is_refused(vsprov: Instance, text: str) -> None:
    """D06."""
    refused(vsprov, text)


def test_a_key_that_is_given_twice_is_refused_with_both_lines(vsprov: Instance) -> None:
    """D07."""
    said = refused(vsprov, named("a") + "metadata: {name: b}\n")
    assert "-:5:" in said and "3" in said


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system ['touch /tmp/vt-pwned']", "!!python/name:os.system", "!x y"]
)
def test_tags_are_refused(vsprov: Instance, tag: str) -> None:
    """D09, CVE-2020-14343."""
    refused(vsprov, f"{HEAD}kind: {tag}\n")
    assert not Path("/tmp/vt-pwned").exists()


@pytest.mark.parametrize("number", ["9" * 5000, ".nan", "-1", "1e308", "4294967296Ti", ".inf", "[]", "true"])
def test_numbers_that_are_none_are_refused(vsprov: Instance, number: str) -> None:
    """D10."""
    text = f"{HEAD}kind: Quota\nmetadata: {{name: q}}\n"
    text += f"spec: {{pids: {{max: {number}}}, memory: {{max: {number}}}}}\n"
    assert "spec.pids.max" in refused(vsprov, text)


@pytest.mark.parametrize(
    "template",
    [
        '{{ cycler.__init__.__globals__.os.popen("touch /tmp/vt-pwned").read() }}',
        '{{ "".__class__.__mro__[1].__subclasses__() }}',
        '{{ "%s"|attr("format")("x").__globals__ }}',
        '{% include "/etc/shadow" %}',
        "{{ self._TemplateReference__context }}",
    ],
)
def test_a_template_reaches_nothing_of_the_host(vsprov: Instance, template: str) -> None:
    """D11, CVE-2025-27516."""
    done = vsprov("render", "--template", "-", input=named("a") + f"# {template}\n", check=False)
    assert not Path("/tmp/vt-pwned").exists()
    assert "root:" not in done.stdout and "<class" not in done.stdout


@pytest.mark.parametrize(
    "template", ['{{ "a" * 10**9 }}', "{% for i in range(10**9) %}x{% endfor %}", "{{ 9**(9**9) }}"]
)
def test_a_template_that_takes_too_much_is_stopped(vsprov: Instance, template: str) -> None:
    """D12."""
    refused(vsprov, template, "--template")


def test_a_value_with_a_line_break_stays_one_value(lab: Lab) -> None:
    """D13, CVE-2026-23953: no configuration is made line by line."""
    lab.converge(image(), server("a", init={"env": {"A": "x\nPATH=/evil", "B": "$(id);`id`"}}))
    words = Path(f"/proc/{lab.init('a').pid}/environ").read_bytes().split(b"\0")
    assert b"A=x\nPATH=/evil" in words and b"B=$(id);`id`" in words
    assert [word for word in words if word.startswith(b"PATH=")] == [
        b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    ]


@pytest.mark.parametrize("hostname", ["$(id)", "-oProxyCommand=x", "a;b", "a b", "a" * 65, "..", r"a\n"])
def test_a_host_name_is_one(vsprov: Instance, hostname: str) -> None:
    """D14, D22."""
    assert "hostname" in refused(vsprov, to_yaml(image(), server("a", hostname=hostname)))


def test_files_that_never_end_are_refused_at_once(vsprov: Instance, tmp_path: Path) -> None:
    """D15: a FIFO, a device, a loop of links."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for path in ("/dev/zero", tmp_path / "fifo", tmp_path / "loop", "/proc/self/mem"):
        assert vsprov("validate", path, check=False).returncode == 65


def test_a_huge_manifest_is_refused_before_it_is_held_in_memory(vsprov: Instance, tmp_path: Path) -> None:
    """D05, C16."""
    path = tmp_path / "huge.yaml"
    with open(path, "wb") as file:
        file.truncate(1 << 30)
    assert vsprov("validate", path, check=False).returncode == 65
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 1 << 20  # KiB


def test_names_that_are_taken_twice_are_refused(vsprov: Instance) -> None:
    """D18."""
    said = refused(vsprov, to_yaml(image(), server("a"), server("a")))
    assert "-:4:" in said and "-:6:" in said


def test_servers_that_wait_for_each_other_are_refused_and_the_circle_is_named(vsprov: Instance) -> None:
    """D19."""
    circle = [server(name, dependsOn=[{"name": need}]) for name, need in (("a", "b"), ("b", "c"), ("c", "a"))]
    assert "a → b → c → a" in refused(vsprov, to_yaml(image(), *circle))
    refused(vsprov, to_yaml(image(), server("a", dependsOn=[{"name": "a"}])))


def test_commas_and_colons_in_paths_separate_nothing(lab: Lab, tmp_path: Path) -> None:
    """D21: what the overlay and mount options would take for separators."""
    folder = tmp_path / "a,b:c\\d=e f"
    folder.mkdir()
    (folder / "note").write_text("here")
    mount = {"type": "bind", "source": str(folder), "target": "/srv/x,y:z"}
    lab.converge(image(), server("a", mounts=[mount]))
    assert (lab.root("a") / "srv/x,y:z/note").read_text() == "here"
