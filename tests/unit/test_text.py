from __future__ import annotations

import json

import pytest

from tests.unit.yaml_texts import only, typed
from vsprov.errors import ManifestError, Position
from vsprov.manifest.syntax import text as module
from vsprov.manifest.syntax.encoding import decode
from vsprov.manifest.syntax.text import MAX_PROBLEMS, parse


def wrong(text: str) -> list[str]:
    return [str(problem) for problem in parse(text, "f.yaml")[1]]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("", None), ("~", None), ("null", None), ("Null", None), ("NULL", None), ("nULL", "nULL"),
        ("true", True), ("True", True), ("TRUE", True), ("false", False), ("tRUE", "tRUE"),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"), ("n", "n"),
        ("0", 0), ("-0", 0), ("12", 12), ("+12", 12), ("-12", -12), ("0o17", 15), ("0x1F", 31),
        ("-0x1F", "-0x1F"), ("0o8", "0o8"), ("0b1", "0b1"), ("1_000", "1_000"), ("22:22", "22:22"),
        ("52:54:00:12:34:56", "52:54:00:12:34:56"), ("2026-01-01", "2026-01-01"), ("=", "="),
        ("1.5", 1.5), (".5", 0.5), ("5.", 5.0), ("1e3", 1000.0),
        ("-1.5E-1", -0.15), ("1e", "1e"), (".", "."), ("+", "+"), ("...x", "...x"), ("1.2.3", "1.2.3"),
        ("1２", "1２"), ("512Mi", "512Mi"), ("500m", "500m"), ("10.20.0.0/24", "10.20.0.0/24"),
        ('"1"', "1"), ("'true'", "true"), ('"<<"', "<<"), ("!!str 12", "12"), ("!!str", ""),
        ('!!int "12"', 12), ("!!float 1", 1.0), ("!!bool 'true'", True), ("!!null ''", None),
        ("!!seq [1]", [1]), ("!!map {a: 1}", {"a": 1}),
    ],
)  # fmt: skip
def test_a_scalar_means_what_the_core_schema_says(written: str, value: object) -> None:
    assert typed(only(f"k: {written}")) == {"k": typed(value)}


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("mode: 0755", ["f.yaml:1:7: '0755' has a leading zero"]),
        ("mode: -007", ["f.yaml:1:7: '-007' has a leading zero"]),
        ("a: .inf", ["f.yaml:1:4: '.inf' is not a finite number"]),
        ("a: -.INF", ["f.yaml:1:4: '-.INF' is not a finite number"]),
        ("a: .nan", ["f.yaml:1:4: '.nan' is not a finite number"]),
        ("a: 1e999", ["f.yaml:1:4: '1e999' is not a finite number"]),
        ("a: " + "9" * 4301, ["f.yaml:1:4: number too long: 4301 characters"]),
        ("a: 0x" + "f" * 4301, ["f.yaml:1:4: number too long: 4303 characters"]),
        ("a: 1." + "0" * 4301, ["f.yaml:1:4: number too long: 4303 characters"]),
        ("a: 1\nb: 2\na: 3\n", ["f.yaml:3:1: duplicate key 'a' (lines 1 and 3)"]),
        ("s: {a: 1, 'a': 2}", ["f.yaml:1:11: duplicate key 'a' (lines 1 and 1)"]),
        ("1: x", ["f.yaml:1:1: key 1 is not a string"]),
        ("true: x", ["f.yaml:1:1: key true is not a string"]),
        ("~: x", ["f.yaml:1:1: key ~ is not a string"]),
        ("? [a]\n: b", ["f.yaml:1:3: keys must be strings"]),
        ("a: &k b\n*k : c", ["f.yaml:2:1: keys must be strings"]),
        ("a: &m {b: 1}\nc:\n  <<: *m", ["f.yaml:3:3: merge keys are not supported"]),
        ("a: !foo x", ["f.yaml:1:4: tag '!foo' is not supported"]),
        ("a: ! x", ["f.yaml:1:4: tag '!' is not supported"]),
        ("a: !!binary x", ["f.yaml:1:4: tag '!!binary' is not supported"]),
        ("a: !!python/object/apply:os.system [id]",
         ["f.yaml:1:4: tag '!!python/object/apply:os.system' is not supported"]),
        ("a: !!int x\nb: !!bool 1\nc: !!map [1]",
         ["f.yaml:1:4: 'x' is not a valid !!int", "f.yaml:2:4: '1' is not a valid !!bool",
          "f.yaml:3:4: tag '!!map' is not supported"]),
        ("a: !e!x y", ["f.yaml:1:4: tags are not supported"]),
        ("a: *b", ["f.yaml:1:4: undefined alias *b"]),
        ("a: &a [*a]", ["f.yaml:1:8: alias *a refers to itself"]),
        ("a: &a 1\n---\nb: *a", ["f.yaml:3:4: undefined alias *a"]),
        ("a: 1\n\tb: 2", ["f.yaml:2:1: tab used for indentation"]),
        ("a:\n  \tb: 2", ["f.yaml:2:3: tab used for indentation"]),
        ("a: b: c", ["f.yaml:1:5: unexpected ':'"]),
        ("a: 1\nb\nc: 2", ["f.yaml:2:1: key without ':'"]),
        ("- a\nb: 1", ["f.yaml:2:1: expected '- ' or the end of the list"]),
        ("a: @x", ["f.yaml:1:4: '@' cannot start a value"]),
        ("a:\n  b: {c: 1\n", ["f.yaml:2:6: unclosed bracket"]),
        ("a: 'x\nb: 1\n", ["f.yaml:1:4: unclosed quote"]),
        ('a: "\\q"', ["f.yaml:1:5: unknown escape sequence"]),
        ("a: é\nb: \0x\n", ["f.yaml:2:4: character U+0000 is not allowed"]),
        ("a: \x1b[0m", ["f.yaml:1:4: character U+001B is not allowed"]),
        ("a: x\u2028b\U0010fff1", ["f.yaml:1:5: character U+2028 is not allowed"]),
        ("a: \ud800", ["f.yaml:1:4: character U+D800 is not allowed"]),
        ("a: 1\n\ufeffb: 2", ["f.yaml:2:1: character U+FEFF is not allowed"]),
        ("a: 1\rb", ["f.yaml:2:1: key without ':'"]),
        ("a: \x7f", ["f.yaml:1:4: character U+007F is not allowed"]),
        ('a: "x\\0y"', ["f.yaml:1:4: NUL characters are not allowed, even escaped"]),
    ],
)  # fmt: skip
def test_what_is_refused_is_named_with_its_place(text: str, problems: list[str]) -> None:
    assert wrong(text) == problems


def test_a_leading_zero_is_answered_with_both_spellings() -> None:
    (problem,) = parse("mode: 0755", "f.yaml")[1]
    assert problem.hint == "quote it to make it a string, or write 0o755 for an octal number"


def test_all_problems_of_a_text_are_found_and_the_sound_documents_kept() -> None:
    text = "a: 1\n---\nb: [x\n---\nc: 0755\n---\n\td: 1\n--- 'x\n---\ne: 5\ne: 6\n---\nf: 7\n"
    documents, problems = parse(text, "f.yaml")
    assert [document.value for document in documents] == [{"a": 1}, {"c": "0755"}, {"e": 5}, {"f": 7}]
    assert [str(problem) for problem in problems] == [
        "f.yaml:3:4: unclosed bracket",
        "f.yaml:5:4: '0755' has a leading zero",
        "f.yaml:7:1: tab used for indentation",
        "f.yaml:8:5: unclosed quote",
        "f.yaml:11:1: duplicate key 'e' (lines 10 and 11)",
    ]
    assert documents[3].positions[("f",)] == Position("f.yaml", 13, 1)


def test_positions_are_those_of_keys_and_of_items() -> None:
    text = """\
# é
--- # first
kind: Server
spec:
  ports:
    - port: 80
    - {port: 81}
  ü: [a, 'b']
"""
    (document,) = parse("\ufeff" + text.replace("\n", "\r\n"), "f.yaml")[0]
    assert {path: (at.line, at.column) for path, at in document.positions.items()} == {
        (): (3, 1),
        ("kind",): (3, 1),
        ("spec",): (4, 1),
        ("spec", "ports"): (5, 3),
        ("spec", "ports", 0): (6, 7),
        ("spec", "ports", 0, "port"): (6, 7),
        ("spec", "ports", 1): (7, 7),
        ("spec", "ports", 1, "port"): (7, 8),
        ("spec", "ü"): (8, 3),
        ("spec", "ü", 0): (8, 7),
        ("spec", "ü", 1): (8, 10),
    }
    assert len(document.positions) == 11
    assert ("spec", "ports", 2) not in document.positions
    assert ("kind", "x") not in document.positions
    with pytest.raises(KeyError):
        document.positions[("spec", "none")]


def test_an_alias_has_its_own_position_and_its_content_that_of_the_anchor() -> None:
    (document,) = parse("a: &a\n  k: &s v\nb: *a\nc: *s\n", "f.yaml")[0]
    assert document.value == {"a": {"k": "v"}, "b": {"k": "v"}, "c": "v"}
    assert document.positions[("b",)] == Position("f.yaml", 3, 1)
    assert document.positions[("b", "k")] == Position("f.yaml", 2, 3)


def test_an_alias_means_the_latest_anchor_of_its_name() -> None:
    assert only("a: &x 1\nb: &x [&x 2, *x]\nc: *x") == {"a": 1, "b": [2, 2], "c": 2}


@pytest.mark.parametrize(
    "text", ["", "# nothing", "---\n", "---\n---\n# x\n---\n", "\ufeff", "%YAML 1.2\n---\n"]
)
def test_empty_documents_are_left_out(text: str) -> None:
    assert parse(text, "f.yaml") == ([], [])


def test_a_document_may_be_a_scalar_and_null_when_written_out() -> None:
    assert [document.value for document in parse("null\n---\n''\n--- 3\n", "f.yaml")[0]] == [None, "", 3]


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_nesting_ends_at_32() -> None:
    assert wrong(nested(32)) == []
    assert wrong(nested(33)) == ["f.yaml:1:33: more than 32 levels of nested maps and lists"]
    assert wrong("[" * 900) == ["f.yaml:1:33: more than 32 levels of nested maps and lists"]
    assert wrong("- " * 20_000) == ["f.yaml:1:65: more than 32 levels of nested maps and lists"]
    (far,) = wrong("[" * 20_000)  # which the parser may already refuse where it looks ahead
    assert far.endswith(": more than 32 levels of nested maps and lists")


def test_nesting_by_aliases_counts_too() -> None:
    chain = "a0: &a0 {}\n" + "".join(f"a{i}: &a{i} {{x: *a{i - 1}}}\n" for i in range(1, 40))
    assert wrong(chain) == ["f.yaml:32:15: more than 32 levels of nested maps and lists"]


def test_an_alias_bomb_is_refused_without_walking_it() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n"
    bomb += "".join(
        f"{chr(i)}: &{chr(i)} [{','.join(['*' + chr(i - 1)] * 9)}]\n" for i in range(ord("b"), ord("j"))
    )
    assert parse(bomb, "f.yaml")[0] == []
    assert wrong(bomb) == ["f.yaml:6:11: aliases expand to more than 200000 values"]


def test_aliases_may_add_200_000_values_to_a_text() -> None:
    def text(count: int) -> str:
        return f"a: &a [{','.join('x' * 999)}]\nb: [{','.join(['*a'] * count)}]\n"

    assert wrong(text(200)) == []
    assert wrong(text(201)) == ["f.yaml:2:605: aliases expand to more than 200000 values"]


def test_a_text_has_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrong("a: '" + "x" * 1024 * 1024 + "'") == []
    assert wrong("a: '" + "x" * (1024 * 1024 + 1) + "'") == ["f.yaml:1:4: value larger than 1 MiB"]
    assert wrong("x" * (16 * 1024 * 1024 + 1)) == ["f.yaml:1:1: the text is larger than 16 MiB"]
    documents, problems = parse("--- 1\n" * 20_001, "f.yaml")
    assert len(documents) == 20_000
    assert [str(problem) for problem in problems] == ["f.yaml:20001:1: more than 20000 documents"]
    monkeypatch.setattr(module, "MAX_NODES", 3)
    assert wrong("[1, 2, 3]") == []
    assert wrong("[1, 2, 3, 4]") == ["f.yaml:1:11: more than 3 values"]


@pytest.mark.parametrize("text", ["---\na: [\n" * 500, "\0" * 500, "\n".join(f"{i}: x" for i in range(500))])
def test_reading_ends_after_a_hundred_problems(text: str) -> None:
    problems = wrong(text)
    assert len(problems) == MAX_PROBLEMS + 1
    assert problems[-1].endswith("stopped after 100 problems")


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        (b"a: 1\nb: \xc3\xa9\xff\n", "f.yaml:2:5: byte 0xff is not UTF-8", "save the file as UTF-8"),
        ("a: 1\n".encode("utf-16") + b"\0\xdc", "f.yaml:2:1: byte 0x00 is not UTF-16",
         "save the file as UTF-8"),
        ("a: 1\n".encode("utf-32-be") + b"\0", "f.yaml:2:1: byte 0x00 is not UTF-32",
         "save the file as UTF-8"),
        (b"\xed\xa0\x80", "f.yaml:1:1: byte 0xed is not UTF-8", "save the file as UTF-8"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_text_are_named_with_their_place(data: bytes, message: str, hint: str) -> None:
    with pytest.raises(ManifestError) as raised:
        decode(data, "f.yaml")
    assert str(raised.value) == message
    assert raised.value.problems[0].hint == hint


def test_json_is_read_as_it_is() -> None:
    value = {"a": [1, 1.5, True, None, 'é\n\t"\\/'], "b": {}, "c": {"d": []}}
    assert only(json.dumps(value, indent="\t")) == value
    assert only(json.dumps(value)) == value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_yaml_is_read_in_every_encoding_and_with_every_end_of_line(
    encoding: str, mark: str, end: str
) -> None:
    lines = ["a: Größe \U0001f600", "b: |", "  one", "  two", "...", f"{mark}---", "c: [", "0x1F]", ""]
    documents, problems = parse(decode((mark + end.join(lines)).encode(encoding), "f.yaml"), "f.yaml")
    assert problems == []
    assert [one.value for one in documents] == [{"a": "Größe \U0001f600", "b": "one\ntwo\n"}, {"c": [31]}]
    assert str(documents[1].positions["c", 0]) == "f.yaml:8:1"
    assert only(decode((mark + '{"a": 1}').encode(encoding), "f.yaml")) == {"a": 1}


def test_what_newer_versions_of_yaml_do_not_take_for_a_line_break_is_text() -> None:
    text = "a\u2028b: x\x85y  \nc: 'x\u2028 y'\nd: |\n  x\u2029\n  y\ne: {a\u2028b: 1}\nf\x85: \"\\L\"\n"
    value = {
        "a\u2028b": "x\x85y",
        "c": "x\u2028 y",
        "d": "x\u2029\ny\n",
        "e": {"a\u2028b": 1},
        "f\x85": "\u2028",
    }
    assert only(text) == value
    (document,) = parse(text, "f.yaml")[0]
    assert str(document.positions["d",]) == "f.yaml:3:1"
    assert only("a: \U0010fff0") == {"a": "\U0010fff0"}
