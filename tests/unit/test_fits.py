"""A quick test of documents accepts only what the full validation accepts."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given

from tests.unit.manifest_documents import FITTING_DOCUMENTS, JSON, nearly_right
from vsprov.manifest import fits as module
from vsprov.manifest.fits import fits
from vsprov.manifest.problems import strict
from vsprov.manifest.schema import document_schema
from vsprov.manifest.syntax.text import parse
from vsprov.model import objects

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "manifests" / "examples").rglob("*.yaml"))
VALIDATORS = {kind: strict(document_schema(kind)) for kind in objects.KINDS}


def kind_of(document: Any) -> str:
    """The kind whose schema is used for a document, which may be broken."""
    kind = document.get("kind") if isinstance(document, dict) else None
    return kind if isinstance(kind, str) and kind in objects.KINDS else "Server"


def keywords(schema: Any) -> Iterator[str]:
    """Every keyword in a schema."""
    for word, inner in schema.items():
        yield word
        if word in ("properties", "patternProperties"):
            for each in inner.values():
                yield from keywords(each)
        elif word in ("items", "propertyNames", "additionalProperties") and isinstance(inner, dict):
            yield from keywords(inner)
        elif word == "oneOf":
            for each in inner:
                yield from keywords(each)


@given(nearly_right() | JSON)
def test_what_fits_is_valid(value: Any) -> None:
    kind = kind_of(value)
    if fits(value, document_schema(kind)):
        assert VALIDATORS[kind].is_valid(value)


@given(FITTING_DOCUMENTS)
def test_what_is_valid_fits_unless_numbers_are_written_unusually(value: Any) -> None:
    kind = kind_of(value)
    assert fits(value, document_schema(kind)) == VALIDATORS[kind].is_valid(value)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_accepted_without_the_full_validation(path: pathlib.Path) -> None:
    for document in parse(path.read_text(), str(path))[0]:
        assert fits(document.value, document_schema(document.value["kind"]))


@pytest.mark.parametrize("kind", objects.KINDS)
def test_every_keyword_of_the_schemas_is_tested_or_a_note(kind: str) -> None:
    assert set(keywords(document_schema(kind))) <= {*module._TESTS, *module._NOTES}


def test_an_unknown_keyword_or_option_is_left_to_the_full_validation() -> None:
    assert not fits(1, {"type": "integer", "multipleOf": 1})
    assert not fits({}, {"type": "object", "oneOf": [{"type": "object"}]})
    assert not fits(None, {"type": "null"})


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        (True, {"type": "integer"}),
        (True, {"type": ["string", "number"]}),
        (1.0, {"type": "integer"}),
        (1, {"const": True}),
        (0, {"enum": [False]}),
        ("a\n", {"pattern": "^a$"}),
        ({"x": 1}, {"properties": {}, "additionalProperties": False}),
        ({"a": 1, "b": 1}, {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
        ({"A": 1}, {"propertyNames": {"pattern": "^a"}}),
        ([1, "a"], {"items": {"type": "integer"}}),
        (float("nan"), {"minimum": 0}),
    ],
)
def test_a_value_that_does_not_certainly_fit_is_rejected(value: Any, schema: dict[str, Any]) -> None:
    assert not fits(value, schema)
