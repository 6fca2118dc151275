from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.leaks import children
from vsprov.errors import ManifestError, Position, UsageError
from vsprov.manifest import template
from vsprov.manifest.syntax.text import parse
from vsprov.manifest.template import load_values, render

VALUES: Mapping[str, Any] = {
    "tier": "web",
    "count": 3,
    "memory": {"size": "1Gi"},
    "tags": ["a", "b"],
    "none": None,
}


def refusal(text: str) -> str:
    """The one problem of a template, with its place."""
    with pytest.raises(ManifestError) as raised:
        render(text, "t.j2", VALUES)
    (problem,) = raised.value.problems
    assert isinstance(problem.position, Position)
    return str(problem)


def test_a_template_becomes_text() -> None:
    listed = "{% for i in range(count) -%}\n- web{{ i }}\n{% endfor %}"
    text = "{# note #}a: {{ tier }}\n" + listed + "b: {{ memory.size }}\n"
    assert render(text, "t.j2", VALUES) == "a: web\n- web0\n- web1\n- web2\nb: 1Gi\n"
    assert render("{{ x | default(1) }}{{ 2 if x is defined else 3 }}", "t.j2", {}) == "13"
    assert render("<&>'\"é\U0001f600", "t.j2", {}) == "<&>'\"é\U0001f600"


def test_what_python_spells_otherwise_comes_out_as_yaml() -> None:
    values = {"a": [True, None, {"k": 1.5}], "yes": True, "none": None, "pair": (1, 2)}
    text = render("a: {{ a }}\nb: {{ yes }}\nc: {{ none }}\nd: {{ pair }}\n", "t.j2", values)
    assert text == 'a: [true, null, {"k": 1.5}]\nb: true\nc: null\nd: [1, 2]\n'


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_quoted_value_is_one_value_whatever_it_holds(value: str) -> None:
    text = f"k: {template._to_yaml(value)}\nl: {template._to_yaml([{'x': value}, value])}\n"
    (document,), problems = parse(text, "f")
    assert problems == []
    assert document.value == {"k": value, "l": [{"x": value}, value]}


def test_a_value_cannot_bring_in_keys_when_it_is_quoted() -> None:
    hostile = 'x"\nprivileged: true #\x85\u2028'
    source = "env: {{ a | quote }}\nall: {{ b | to_yaml }}\nn: {{ 80 | quote }}\n"
    text = render(source, "t.j2", {"a": hostile, "b": [hostile]})
    assert parse(text, "f")[0][0].value == {"env": hostile, "all": [hostile], "n": "80"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n{{ teir }}", "t.j2:2:1: template: 'teir' is undefined; did you mean 'tier'?"),
        ("\n\n{{ memory.sise }}", "t.j2:3:1: template: 'sise' is undefined; did you mean 'size'?"),
        ("{{ zzz }}",
         "t.j2:1:1: template: 'zzz' is undefined; defined: tier, count, memory, tags, none"),
        ("{{ tier.foo }}", "t.j2:1:1: template: a str has no 'foo'"),
        ("\n{% if zzz %}{% endif %}",
         "t.j2:2:1: template: 'zzz' is undefined; defined: tier, count, memory, tags, none"),
        ("{% macro m() %}\n{{ teir }}{% endmacro %}\n{{ m() }}",
         "t.j2:2:1: template: 'teir' is undefined; did you mean 'tier'?"),
        ("\n{% for i in range(teir) %}{% endfor %}",
         "t.j2:2:1: template: 'teir' is undefined; did you mean 'tier'?"),
        ("{{ teir | quote }}", "t.j2:1:1: template: 'teir' is undefined; did you mean 'tier'?"),
        ("\n{% if %}", "t.j2:2:1: template: Expected an expression, got 'end of statement block'"),
        ("{{ tier | nope }}", "t.j2:1:1: template: No filter named 'nope'."),
        ("\n{{ 1 / 0 }}", "t.j2:2:1: template: division by zero"),
        ("{{ tags | random }}", "t.j2:1:1: template: No filter named 'random'."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(text: str, message: str) -> None:
    assert refusal(text) == message


@pytest.mark.parametrize(
    "tag", ["include '/etc/passwd'", "import 'x' as y", "from 'x' import y", "extends 'x'"]
)
def test_a_template_cannot_bring_in_files(tag: str) -> None:
    assert refusal("\n{% " + tag + " %}") == (
        "t.j2:2:1: template: templates cannot use other files (include, extends, import)"
    )


@pytest.mark.parametrize(
    "text",
    [
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ ('{0.__class__}' | attr('format'))(1) }}",
        "{{ self.__init__.__globals__ }}",
        "{{ tags.append(1) }}",
        "{{ memory.update(a=1) }}",
        "{{ environ }}",
        "{{ open('/etc/passwd') }}",
        "{{ lipsum() }}",
    ],
)
def test_a_template_reaches_nothing_but_its_values(text: str) -> None:
    assert "unsafe" in (said := refusal(text)) or "is undefined" in said or "has no '__init__'" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('\n{{ "a" * 10 ** 9 }}', "t.j2:2:1: template: needs more than 512 MiB of memory"),
        ("{{ 'x' | center(999999999) }}", "t.j2:1:1: template: needs more than 512 MiB of memory"),
        ("{{ '%999999999d' | format(1) }}", "t.j2:1:1: template: needs more than 512 MiB of memory"),
        ('{{ "a" * (16 * 1024 * 1024 + 1) }}', "t.j2:1:1: template: output is larger than 16 MiB"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}" + "x" * 100 + "{% endfor %}{% endfor %}",
         "t.j2:1:1: template: output is larger than 16 MiB"),
        ("{% macro f() %}\n{{ f() }}{% endmacro %}{{ f() }}", "t.j2:2:1: template: nested too deeply"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "t.j2:1:1: template: nested too deeply"),
    ],
)  # fmt: skip
def test_a_template_cannot_take_what_it_wants(text: str, said: str) -> None:
    assert refusal(text) == said


def test_a_long_range_is_refused_at_once() -> None:
    assert "Range too big" in refusal("{% for i in range(99999999) %}x{% endfor %}")


@pytest.mark.parametrize(
    "text",
    ["{{ 9 ** (9 ** 9) }}", "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"],
)
def test_a_template_that_never_ends_is_ended(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "MAX_SECONDS", 1)
    assert refusal(text) == "t.j2:1:1: template: takes longer than 1 s"


def test_a_template_of_the_largest_size_passes() -> None:
    assert len(render('{{ "a" * (16 * 1024 * 1024) }}', "t.j2", {})) == 16 * 1024 * 1024


def test_rendering_leaves_neither_process_nor_file_nor_limit_behind() -> None:
    def present() -> tuple[list[str], set[int], list[tuple[int, int]]]:
        kinds = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_CORE)
        limits = [resource.getrlimit(kind) for kind in kinds]
        return sorted(os.listdir("/proc/self/fd")), children(), limits

    before = present()
    render("{{ tier }}", "t.j2", VALUES)
    refusal("{{ nope }}")
    refusal('{{ "a" * 10 ** 9 }}')
    assert present() == before


def test_the_child_does_not_write_what_the_parent_has_yet_to_write(capfd: pytest.CaptureFixture[str]) -> None:
    print("once", end="")
    render("a", "t.j2", {})
    assert capfd.readouterr().out == "once"


def test_values_files_merge_and_later_ones_win(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("web: {count: 1, size: 1Gi, tags: [a, b]}\nzone: x\nflat: 1\nno: no\n")
    (tmp_path / "b.yaml").write_text("web: {count: 2, tags: [c], new: {deep: 1}}\nflat: {now: map}\n")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_values([str(tmp_path / name) for name in ("a.yaml", "b.yaml", "empty.yaml")], []) == {
        "web": {"count": 2, "size": "1Gi", "tags": ["c"], "new": {"deep": 1}},
        "zone": "x",
        "flat": {"now": "map"},
        "no": "no",
    }


def test_a_setting_wins_over_files_and_never_changes_what_aliases_share(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {k: 1}\nb: *a\nc:\n")
    assert load_values([str(tmp_path / "a.yaml")], ["b.k=2", "c.d.e=x", "b.k=3"]) == {
        "a": {"k": 1},
        "b": {"k": 3},
        "c": {"d": {"e": "x"}},
    }


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("80", 80), ("-1", -1), ("0", 0), ("true", True), ("no", "no"), ("", ""), ("null", None),
        ("1.5", "1.5"), ("1.10", "1.10"), ("1.0", "1.0"), (".5", ".5"), ("00215e6", "00215e6"),
        ("12e4", "12e4"), ("1234567e8", "1234567e8"), ("0x1F", "0x1F"), ("0o17", "0o17"), ("0755", "0755"),
        ("+5", "+5"), ("-0", "-0"), ("True", "True"), ("~", "~"), (".inf", ".inf"), ("9" * 30, "9" * 30),
        ("22:22", "22:22"), ("'80'", "80"), ('"a\\nb"', "a\nb"), ("a=b", "a=b"), ("#fff", "#fff"),
        ("*x", "*x"), ("a: b #c", "a: b #c"), ("it's", "it's"),
    ],
)  # fmt: skip
def test_a_setting_is_a_string_or_a_whole_number_or_a_constant(written: str, value: object) -> None:
    values = load_values([], [f"k={written}"])
    assert values == {"k": value} and type(values["k"]) is type(value)
    if not written.startswith(("'", '"')):
        assert render("{{ k }}", "t", values) == written


@pytest.mark.parametrize("number", ["1.10", "1e3", "0x1F", "00215e6", "+1", "-0"])
def test_a_number_in_a_values_file_that_would_be_printed_differently_is_refused(
    tmp_path: Path, number: str
) -> None:
    (tmp_path / "v.yaml").write_text(f"port: 80\nload: 1.5\non: True\nimage: {{tags: [{number}]}}\n")
    with pytest.raises(ManifestError) as raised:
        load_values([str(tmp_path / "v.yaml")], [])
    (problem,) = raised.value.problems
    assert str(problem) == f"{tmp_path}/v.yaml:4:16: a template prints the number {number} differently"
    assert problem.hint == f'quote it: "{number}"'


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("a", "--set a: expected a.b=value"),
        ("=1", "--set : expected a.b=value"),
        ("a..b=1", "--set a..b: expected a.b=value"),
        ("a.b[0]=1", "--set a.b[0]: expected a.b=value"),
        ("a\n=1", "--set a\n: expected a.b=value"),
        ("a=[1]", "--set a: expected a scalar"),
        ("a={b: 1}", "--set a: expected a scalar"),
        ("a='x", "--set a: invalid quoted string"),
        ("a='x': y", "--set a: invalid quoted string"),
    ],
)
def test_a_bad_setting_is_refused(setting: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        load_values([], [setting])
    assert str(raised.value) == message


def test_a_setting_within_a_scalar_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--set a\.b: a is not a map"):
        load_values([], ["a=1", "a.b=2"])


def test_all_problems_of_values_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 0755\nb: 1\nb: 2\n")
    (tmp_path / "b.yaml").write_text("- a\n")
    (tmp_path / "c.yaml").write_text("a: 1\n---\nb: 1\n")
    with pytest.raises(ManifestError) as raised:
        load_values([str(tmp_path / name) for name in ("a.yaml", "b.yaml", "c.yaml")], [])
    assert [str(problem).removeprefix(f"{tmp_path}/") for problem in raised.value.problems] == [
        "a.yaml:1:4: '0755' has a leading zero",
        "a.yaml:3:1: duplicate key 'b' (lines 2 and 3)",
        "b.yaml:1:1: values must be a map",
        "c.yaml:3:1: values must be a single document",
    ]
