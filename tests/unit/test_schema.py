"""The schemas, the quick test against them, and what is said of what does not fit."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import regress
from hypothesis import example, given, strategies
from jsonschema import Draft202012Validator

from tests import effort
from tests.unit.manifest_documents import FITTING_DOCUMENTS, JSON, nearly_right
from vsprov.manifest import problems as module
from vsprov.manifest.fits import compiled
from vsprov.manifest.problems import dotted, validate
from vsprov.manifest.reference import main as write_reference
from vsprov.manifest.schema import document_schema, model_schema, published, to_text
from vsprov.manifest.syntax.text import Document, parse
from vsprov.model import objects
from vsprov.model.fields import Section, keys, value
from vsprov.model.limits.knobs import KNOBS
from vsprov.model.suggest import did_you_mean

ROOT = pathlib.Path(__file__).parents[2]

# Words of the schema language, which people who write manifests need not know.
JARGON = re.compile(
    r"schema|properties|instance|None\b|True\b|False\b|does not match|\^\[|not valid|<class|dict|array"
)


def of(value: Any) -> Document:
    return Document(value, {})


def said(text: str) -> list[str]:
    (document,) = parse(text, "m.yaml")[0]
    return [str(problem) for problem in validate(document)[0]]


def maps(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every map with keys of its own in a schema, with its path."""
    if "properties" in schema:
        yield path, schema
    for key, inner in schema.get("properties", {}).items():
        yield from maps(inner, f"{path}.{key}")
    if "items" in schema:
        yield from maps(schema["items"], f"{path}[]")


@pytest.mark.parametrize("name", published())
def test_a_published_schema_is_valid_and_up_to_date(name: str) -> None:
    schema = published()[name]
    Draft202012Validator.check_schema(schema)
    assert (ROOT / "schemas" / name).read_text() == to_text(schema), "run `make schemas`"


def test_a_strict_check_of_the_schemas_themselves_finds_nothing() -> None:
    check = pathlib.Path(sys.executable).parent / "check-jsonschema"
    schemas = sorted(map(str, (ROOT / "schemas").glob("*.json")))
    assert len(schemas) == len(published()) + 1  # and that of plans, which is not generated
    done = subprocess.run([check, "--check-metaschema", *schemas], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def patterns(schema: Any) -> Iterator[str]:
    """Every regular expression in a schema."""
    for key, inner in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if key == "pattern" and isinstance(inner, str):
            yield inner
        elif isinstance(inner, dict | list):
            yield from inner if key == "patternProperties" else ()
            yield from patterns(inner)


PATTERNS = sorted(
    {each for file in (ROOT / "schemas").glob("*.json") for each in patterns(json.loads(file.read_text()))}
)


@pytest.mark.parametrize("pattern", PATTERNS)
@given(data=strategies.data())
@effort.examples(8)
def test_a_pattern_means_the_same_in_the_editors_engine(pattern: str, data: strategies.DataObject) -> None:
    editors = regress.Regex(pattern, "u")  # ECMA-262 with the flag that JSON Schema asks for
    text = data.draw(strategies.from_regex(compiled(pattern)) | strategies.text(max_size=8))
    assert (editors.find(text) is None) == (compiled(pattern).search(text) is None)


def test_the_reference_is_up_to_date(tmp_path: pathlib.Path) -> None:
    write_reference(str(tmp_path / "new" / "manifest.md"))
    made = (tmp_path / "new" / "manifest.md").read_text()
    assert made == (ROOT / "docs" / "reference" / "manifest.md").read_text(), "run `make docs`"


@pytest.mark.parametrize("kind", objects.KINDS)
def test_every_map_is_closed_but_for_keys_that_begin_with_x(kind: str) -> None:
    for path, schema in maps(document_schema(kind)):
        assert schema["additionalProperties"] is False, path
        assert schema["patternProperties"] == {"^x-": {}}, path


@pytest.mark.parametrize("kind", objects.KINDS)
def test_every_key_is_described_and_its_default_fits_it(kind: str) -> None:
    for path, schema in maps(document_schema(kind)):
        for key, inner in schema["properties"].items():
            if "rlimits" not in path and "io.devices" not in path:
                assert inner.get("description", "").endswith((".", "…")), f"{path}.{key}"
            if "default" in inner:
                assert module.strict(inner).is_valid(inner["default"]), f"{path}.{key}"


def kinds_of(spec: type) -> Iterator[type]:
    """A section of the model and those of the maps in it."""
    yield spec
    for key in keys(spec).values():
        if inner := key.one or key.many:
            yield from kinds_of(inner)


@pytest.mark.parametrize("kind", objects.KINDS)
def test_a_default_is_shown_as_people_write_it_and_means_the_same(kind: str) -> None:
    for spec in kinds_of(objects.KINDS[kind].spec):
        properties = model_schema(spec)["properties"]
        for name, key in keys(spec).items():
            if key.kind and "default" in properties[name]:
                assert key.kind.parse(properties[name]["default"]) == key.default
    limits = document_schema("Image")["properties"]["spec"]["properties"]["limits"]["properties"]
    assert limits["size"]["default"] == "64Gi"
    init = document_schema("Server")["properties"]["spec"]["properties"]["init"]["properties"]
    assert init["stopTimeout"]["default"] == "10s"


def test_a_field_without_words_is_no_field_of_the_model() -> None:
    class Wordless(Section):
        good: str = value("", doc="A key.")
        bad: str = ""

    with pytest.raises(TypeError, match=r"Wordless\.bad"):
        keys(Wordless)


def test_every_knob_is_a_key_of_quotas_and_of_servers_with_its_words() -> None:
    quota = document_schema("Quota")["properties"]["spec"]
    server = document_schema("Server")["properties"]["spec"]["properties"]["resources"]
    for knob in KNOBS:
        group, key = knob.path.split(".", 1)
        for schema in (quota, server):
            assert schema["properties"][group]["properties"][key]["description"] == knob.doc
    assert sum(len(group["properties"]) for group in server["properties"].values()) == len(KNOBS)


def test_what_is_said_to_come_later_is_not_there_yet() -> None:
    keys = {
        key
        for kind in objects.KINDS
        for path, schema in maps(document_schema(kind))
        for key in schema["properties"]
    }
    assert keys & module.LATER_KEYS == {"devices"}  # of io; others are for later


@pytest.mark.parametrize(
    "name", ["web\n", "", "..", "a/b", "-rf", "a-", "A", "a_b", "x" * 64, "²", "１", "ﬁ"]
)
def test_a_name_that_is_no_label_is_refused(name: str) -> None:
    document = of({"apiVersion": "vsprov/v1", "kind": "Quota", "metadata": {"name": name}, "spec": {}})
    (problem,) = validate(document)[0]
    assert problem.path == "metadata.name"
    assert "is not a valid name" in problem.message
    assert problem.subject == "Quota"


@given(nearly_right() | JSON)
@example({"kind": [], "metadata": {"name": "q"}})
@example(
    {
        "apiVersion": "vsprov/v1",
        "kind": "Quota",
        "metadata": {"name": "q"},
        "spec": {"rlimits": {"as": False}},
    }
)
def test_whatever_is_wrong_is_said_in_the_words_of_the_manifest(value: Any) -> None:
    for problem in validate(of(value))[0]:
        about_keys = re.sub(r"'[^']*'|\"[^\"]*\"", "", f"{problem.message} {problem.hint}")
        assert not JARGON.search(about_keys), problem
        assert len(problem.message) <= 400
        assert "\n" not in str(problem) and "\x1b" not in str(problem)


@given(nearly_right())
def test_a_document_fits_or_something_is_said_of_it(value: Any) -> None:
    found, rest = validate(of(value))
    assert bool(found) != (isinstance(value, dict) and rest == value)


@given(FITTING_DOCUMENTS)
def test_nothing_is_said_of_a_document_that_fits_but_that_a_source_or_step_is_one(value: Any) -> None:
    alone = re.compile(r"spec\.(source(\.oci|\.build\.steps\[[0-9]+\])?|readiness|health)")
    for problem in validate(of(value))[0]:
        assert alone.fullmatch(problem.path) and problem.message.startswith("set exactly one of ")


@given(nearly_right())
def test_what_is_left_without_the_bad_parts_fits(value: Any) -> None:
    rest = validate(of(value))[1]
    assert rest is None or validate(of(rest))[0] == []


def test_a_document_is_not_changed_by_being_looked_at() -> None:
    value = {
        "apiVersion": "vsprov/v1",
        "kind": "Quota",
        "metadata": {"name": "q"},
        "spec": {"cpu": {"limt": 1}},
    }
    before = repr(value)
    validate(of(value))
    assert repr(value) == before


def test_a_problem_stands_where_its_key_does_even_behind_an_alias() -> None:
    text = """\
apiVersion: vsprov/v1
kind: Server
metadata: {name: a}
spec:
  image: i
  init: {command: [/bin/true]}
  resources:
    cpu: &c {weight: 5,
             limt: 5}
    memory: *c
"""
    assert said(text) == [
        "m.yaml:9:14: Server/a: spec.resources.cpu.limt: unknown key; did you mean 'limit'?",
        "m.yaml:8:14: Server/a: spec.resources.memory.weight: unknown key; known keys: "
        "min, low, high, max, swapMax, tcpMax, oomGroup",
        "m.yaml:9:14: Server/a: spec.resources.memory.limt: unknown key; known keys: "
        "min, low, high, max, swapMax, tcpMax, oomGroup",
    ]


@pytest.mark.parametrize("number", ["1.10", "1e3", "0x1F", "0o17", "00215e6", "+1", "-0", "True", "12"])
def test_a_text_that_looks_like_a_number_is_quoted_as_it_is_written(number: str) -> None:
    text = f"""\
apiVersion: vsprov/v1
kind: Server
metadata: {{name: a, labels: {{v: {number}, w: &w {number}, x: *w}}}}
spec: {{image: i, init: {{command: [{number}], env: {{V: {number}}}}}}}
"""
    (document,) = parse(text, "m.yaml")[0]
    found = validate(document)[0]
    assert len(found) == 5
    for problem in found:
        assert problem.hint == f'quote it: "{number}"'
        assert problem.message.endswith(f"got {number}" if number == "True" else f"got the number {number}")


def test_a_value_is_told_as_it_is_written() -> None:
    text = """\
apiVersion: vsprov/v1
kind: Server
metadata: {name: a}
spec:
  image: i
  state: 0x1F
  resources: {cpu: {weight: 0x100000}}
  init: {command: sh -c 'echo a  b'}
"""
    (document,) = parse(text, "m.yaml")[0]
    told = {problem.path: f"{problem.message}; {problem.hint}" for problem in validate(document)[0]}
    assert told == {
        "spec.state": "0x1F is not one of Running, Stopped; ",
        "spec.resources.cpu.weight": told["spec.resources.cpu.weight"],
        "spec.init.command": "expected a list, got the string \"sh -c 'echo a  b'\"; "
        'write ["sh", "-c", "echo a  b"]',
    }
    assert "0x100000" in told["spec.resources.cpu.weight"]


def test_an_item_of_a_list_is_not_read_like_the_list() -> None:
    text = """\
apiVersion: vsprov/v1
kind: Server
metadata: {name: a}
spec:
  image: i
  init: {command: [true, 5]}
  security: {capabilities: {add: [5]}}
  mounts: [{type: tmpfs, size: x}]
"""
    assert sorted(said(text)) == [
        "m.yaml:6:20: Server/a: spec.init.command[0]: expected a string, got true",
        "m.yaml:6:26: Server/a: spec.init.command[1]: expected a string, got the number 5",
        "m.yaml:7:35: Server/a: spec.security.capabilities.add[0]: expected a string, got the number 5",
        "m.yaml:8:12: Server/a: spec.mounts[0].target: required key is missing",
        "m.yaml:8:26: Server/a: spec.mounts[0].size: 'x' is not a size in bytes",
    ]


def test_one_value_gets_one_line() -> None:
    text = """\
apiVersion: vsprov/v1
kind: Server
metadata: {name: a}
spec: {image: 5, state: 5, init: {command: [a]}}
"""
    assert said(text) == [
        "m.yaml:4:8: Server/a: spec.image: expected a string, got the number 5",
        "m.yaml:4:18: Server/a: spec.state: 5 is not one of Running, Stopped",
    ]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("spec",), "spec"),
        (("spec", "mounts", 0, "target"), "spec.mounts[0].target"),
        (("metadata", "annotations", "vsprov/ignore"), "metadata.annotations.vsprov/ignore"),
        (("metadata", "labels", "a.b"), 'metadata.labels["a.b"]'),
        (("spec", "\x1b[31m"), 'spec["\\u001b[31m"]'),
        (("", 3), '[""][3]'),
    ],
)
def test_a_path_is_written_with_dots(path: tuple[str | int, ...], text: str) -> None:
    assert dotted(path) == text


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("limt", "limit"),
        ("read_only", "readOnly"),
        ("READONLY", "readOnly"),
        ("cup", "cpu"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_a_close_word_is_suggested(word: str, meant: str) -> None:
    suggestion = did_you_mean(word, ["limit", "readOnly", "cpu"])
    assert suggestion == (f"; did you mean '{meant}'?" if meant else "")
