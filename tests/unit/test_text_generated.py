"""Reading YAML and JSON of any content: it never raises, and what was written is what is read."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.yaml_texts import only, typed
from vsprov.errors import ManifestError, Problem
from vsprov.manifest.syntax.encoding import decode
from vsprov.manifest.syntax.text import Document, parse

JSON_TEXTS = st.text(st.characters(exclude_characters="\0\x7f", exclude_categories=["Cs"]))

JSON_KEYS = st.text(st.characters(exclude_characters="\0\x7f", exclude_categories=["Cs"]), max_size=80)
"""Escaped, they are shorter than 1024 characters, which is the most that YAML allows for a key."""


@given(
    st.recursive(JSON_TEXTS, lambda inner: st.lists(inner) | st.dictionaries(JSON_KEYS, inner), max_leaves=10)
)
@example("\U0001f600\\\U0001f600\\ud83d")
@example(["\\ud83d\\ude00", "\\\U0001f600", "\U0001f600\U0001f600"])
def test_json_with_escapes_is_read_as_it_is(value: Any) -> None:
    text = json.dumps([value], indent="\t")
    assert only(text) == [value]


def check_places(text: str, documents: list[Document], problems: list[Problem]) -> None:
    lines = re.split("\r\n|\r|\n", text.removeprefix("\ufeff"))
    places = [place for document in documents for place in document.positions.values()]
    for place in places + [problem.position for problem in problems if problem.position]:
        assert place.file == "f.yaml"
        assert 1 <= place.line <= len(lines)
        assert 1 <= place.column <= len(lines[place.line - 1]) + 1
    assert all(problem.position for problem in problems)


FRAGMENTS = [
    "a", "b: ", "- ", "? ", ": ", "\n", "\n  ", "\n    ", "\n---\n", "---", "...\n", "[", "]", "{", "}",
    ",", "'", '"', "|\n", ">-\n", "&a ", "*a", "!!int ", "!x ", "!<%ff> ", "#", "%YAML 1.2\n",
    "%TAG ! x\n", "\t", "\r\n", "\r", "é", "\ufeff", "\0", "\\x", "\u2028", "0755", "0x1", "1e999", "<<",
    "~", "@", "`", "\ud800", "\U0001f600", "a: 1\n",
]  # fmt: skip


@given(st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join)))
@example("a: !<%ff> x")
@example('"\\udc00"')
@example("{a: 1")
def test_reading_never_raises_and_every_place_is_in_the_text(text: str) -> None:
    documents, problems = parse(text, "f.yaml")
    check_places(text, documents, problems)


@given(st.binary())
def test_bytes_are_text_or_refused(data: bytes) -> None:
    try:
        text = decode(data, "f.yaml")
    except ManifestError as error:
        assert re.fullmatch(r"f\.yaml:\d+:\d+: byte 0x.. is not UTF-(8|16|32)", str(error))
    else:
        check_places(text, *parse(text, "f.yaml"))


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.sampled_from(
        [
            "no",
            "0755",
            "22:22",
            "1_000",
            "~",
            "",
            "=",
            "<<",
            "2026-01-01",
            ".inf",
            "0o17",
            "1e3",
            " x",
            "- x",
            "#",
        ]
    ),
)
STRUCTURES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.text("abcé:#- 1", max_size=8), inner, max_size=5)
    ),
    max_leaves=20,
)


class Quoting(yaml.SafeDumper):
    """Quotes every string, because the plain strings of YAML 1.1 and 1.2 differ."""


def represent_quoted(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"')


Quoting.add_representer(str, represent_quoted)


@given(STRUCTURES, st.booleans())
def test_what_is_written_is_what_is_read(value: object, flow: bool) -> None:
    text = yaml.dump(value, Dumper=Quoting, default_flow_style=flow, allow_unicode=False)
    assert typed(only(text)) == typed(value)


@given(
    st.dictionaries(
        st.text("abcdefgh", min_size=1), st.sampled_from(["no", "1:30:00", "=", "2026-01-01", "0b1"])
    )
)
def test_strings_that_only_yaml_1_1_has_to_quote_are_read_back(value: dict[str, str]) -> None:
    assert only(yaml.safe_dump(value)) == value
    assert only("".join(f"x{key}: {item}\n" for key, item in value.items()) or "{}") == {
        f"x{key}": item for key, item in value.items()
    }
