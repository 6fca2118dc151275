"""Validation of a document against its schema, with messages about the keys of the manifest."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, islice
from typing import Any

from vsprov.errors import Position, Problem
from vsprov.manifest.fits import compiled, fits
from vsprov.manifest.schema import OPEN, document_schema
from vsprov.manifest.syntax.text import Document
from vsprov.model import objects
from vsprov.model.fields import Path, keys
from vsprov.model.limits.knobs import KNOBS
from vsprov.model.suggest import did_you_mean
from vsprov.model.values.patterns import NAME_PATTERN
from vsprov.model.values.units import UnitError
from vsprov.model.values.value_kinds import ITEM

MOST_LINES = 500  # for one document; further errors are ignored
MISSING = "required key is missing"
LATER = "is not supported by this version of vsprov"

Parse = Callable[[Any], Any]

# Keys of the format that this version does not support yet.
LATER_KEYS = frozenset("profile seccomp sysctls devices".split())

_TYPES = {
    "object": "a map",
    "array": "a list",
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
}


def validate(document: Document) -> tuple[list[Problem], dict[str, Any] | None]:
    """The problems of a document, and what can be read of it: everything, all but the bad parts, or None."""
    raw = document.value
    if not isinstance(raw, dict):
        message = f"expected a map with apiVersion, kind, metadata and spec, got {_type_of(raw)}"
        return [problem_at(document, (), message)], None
    kind = raw.get("kind")
    if not isinstance(kind, str) or kind not in objects.KINDS:
        return _unknown_kind(document, raw), None
    if fits(raw, document_schema(kind)):
        return [], raw
    errors = list(islice(_validator(objects.KINDS[kind]).iter_errors(raw), MOST_LINES))
    if not errors:
        return [], raw
    errors.sort(key=lambda error: error.validator != "type")  # only the first error of a value is reported
    lines = list(
        islice(chain.from_iterable(_translate(error, kind, document) for error in errors), MOST_LINES)
    )
    found: dict[Path, Problem] = {}
    for path, message, hint in lines:
        if path not in found:
            found[path] = problem_at(document, path, message, hint)
    rest = _without(raw, found)
    return list(found.values()), rest if _validator(objects.KINDS[kind]).is_valid(rest) else None


def problem_at(
    document: Document, path: Path, message: str, hint: str = "", *, warning: bool = False
) -> Problem:
    """A problem with the value at a path of the document."""
    return Problem(
        shorten(message),
        position_of(document, path),
        dotted(path),
        subject_of(document.value),
        shorten(hint),
        "warning" if warning else "error",
    )


def position_of(document: Document, path: Path) -> Position | None:
    """The position of the path or of the nearest key around it; None for a document without a text."""
    while path and path not in document.positions:
        path = path[:-1]
    return document.positions.get(path)


def subject_of(value: object) -> str:
    """`Server/web1`, `Server` or "", depending on what is valid."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(kind, str) or kind not in objects.KINDS:
        return ""
    metadata = value.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    named = isinstance(name, str) and compiled(NAME_PATTERN).search(name)
    return f"{value['kind']}/{name}" if named else str(value["kind"])


def dotted(path: Path) -> str:
    """`spec.mounts[0].target`; keys with special characters are quoted."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z0-9_/-]{1,80}", part):
            out += f".{part}" if out else part
        else:
            out += f"[{shorten(json.dumps(part), 80)}]"
    return out


def shorten(text: str, most: int = 300) -> str:
    """The text, with its middle replaced by … if it is too long."""
    return text if len(text) <= most else f"{text[: most * 2 // 3]} … {text[-most // 4 :]}"


def quoted(value: object) -> str:
    """The value in printable form, shortened, for a message."""
    return shorten(repr(value) if isinstance(value, str) else json.dumps(value, default=str), 80)


def _unknown_kind(document: Document, raw: dict[str, Any]) -> list[Problem]:
    out = []
    version, kind = raw.get("apiVersion"), raw.get("kind")
    if version != objects.API_VERSION:
        out.append(problem_at(document, ("apiVersion",), *_wrong_version(raw)))
    choices = ", ".join(objects.KINDS)
    if "kind" not in raw:
        out.append(problem_at(document, ("kind",), MISSING, f"known kinds: {choices}"))
    elif isinstance(kind, str):
        close = did_you_mean(kind, objects.KINDS) or f"; known kinds: {choices}"
        out.append(problem_at(document, ("kind",), f"unknown kind {quoted(kind)}{close}"))
    else:
        out.append(
            problem_at(
                document, ("kind",), f"expected a string, got {_type_of(kind)}", f"known kinds: {choices}"
            )
        )
    return out


def _wrong_version(raw: Mapping[str, Any]) -> tuple[str, str]:
    hint = f"write apiVersion: {objects.API_VERSION}"
    if "apiVersion" not in raw:
        return MISSING, hint
    return f"unsupported version {quoted(raw['apiVersion'])}", hint


@cache
def _validator(kind: objects.ObjectKind) -> Any:
    return strict(document_schema(kind.name))


def strict(schema: Mapping[str, Any]) -> Any:
    """A validator that matches patterns as `compiled` does."""
    from jsonschema import Draft202012Validator, validators

    def pattern(validator: Any, given: str, instance: Any, schema: Any) -> Iterator[Any]:
        from jsonschema import ValidationError

        if isinstance(instance, str) and not compiled(given).search(instance):
            yield ValidationError("pattern")

    return validators.extend(Draft202012Validator, {"pattern": pattern})(schema)  # type: ignore[no-untyped-call]


def _without(raw: dict[str, Any], bad: Iterable[Path]) -> dict[str, Any]:
    """A copy without the keys that contain errors. A list is removed as a whole, so that no item moves."""
    rest = copy.deepcopy(raw)
    for path in bad:
        keys = path[: next((i for i, part in enumerate(path) if isinstance(part, int)), len(path))]
        holder: Any = rest
        for key in keys[:-1]:
            holder = holder.get(key) if isinstance(holder, dict) else None
        if keys and isinstance(holder, dict):
            holder.pop(keys[-1], None)
    return rest


Line = tuple[Path, str, str]


def _translate(error: Any, kind: str, document: Document) -> Iterator[Line]:
    """(path, message, hint) of each problem in one error of jsonschema."""
    path: Path = tuple(error.absolute_path)
    value, wanted, schema = error.instance, error.validator_value, error.schema
    if path == ("apiVersion",):
        yield path, *_wrong_version({"apiVersion": value})
    elif "propertyNames" in error.absolute_schema_path:
        yield (*path, value), f"{quoted(value)} {schema['patternErrorMessage']}", ""
    elif error.validator == "additionalProperties":
        for key in value:
            if key not in schema["properties"] and not re.match(OPEN, key):
                yield (*path, key), *_unknown_key(key, value[key], schema["properties"])
    elif error.validator == "required":
        for key in wanted:
            if key not in value:
                yield (*path, key), MISSING, f"{key}: {schema['properties'][key]['description']}"
    elif error.validator == "oneOf":
        if not isinstance(value, dict):
            return  # reported as an error of its type
        names = [option["required"][0] for option in wanted]
        given = " and ".join(name for name in names if name in value)
        yield path, f"set exactly one of {', '.join(names)}; got {given or 'none'}", ""
    else:
        yield path, *_bad_value(error, kind, path, document.source(path))


def _unknown_key(key: str, value: Any, properties: Mapping[str, Any]) -> tuple[str, str]:
    if key in LATER_KEYS:
        return f"this key {LATER}", ""
    inside = [name for name, schema in properties.items() if key in schema.get("properties", ())]
    from vsprov.manifest.other_tools import key_hint

    hint = key_hint(key, value, properties)
    if inside and (isinstance(value, dict) or not hint):
        return f"unknown key; it belongs in '{inside[0]}'", ""
    if hint:
        return "unknown key", hint
    close = did_you_mean(key, properties)
    return f"unknown key{close or '; known keys: ' + ', '.join(properties)}", ""


def _bad_value(error: Any, kind: str, path: Path, source: str | None) -> tuple[str, str]:
    """Message and hint for an invalid value. `source`: its text if that is not the printed value."""
    from vsprov.manifest.other_tools import value_hint

    value, wanted, schema = error.instance, error.validator_value, error.schema
    parse = parsers(kind).get(tuple(ITEM if isinstance(part, int) else part for part in path))
    quantity = isinstance(value, str | int | float) and not isinstance(value, bool)
    if parse and quantity and _takes_scalar(schema):
        for given in (value,) if source is None else (source, value):
            try:
                parse(given)
            except UnitError as wrong:
                return str(wrong), wrong.hint
    shown = shorten(source or quoted(value), 80)
    hint = value_hint(path, value)
    match error.validator:
        case "enum":
            message, usual = _not_a_choice(value, wanted, shown)
            return message, hint or usual
        case "pattern" if "patternErrorMessage" in schema:
            return f"{shown} {schema['patternErrorMessage']}", hint
        case "pattern":
            return f"{shown} is not an accepted value", schema.get("description", "")
        case "minimum":
            return f"{shown} is less than the minimum of {wanted}", ""
        case "maximum":
            return f"{shown} is more than the maximum of {wanted}", ""
        case "const":
            return f"expected {_yaml(wanted)}, got {_type_of(value, source)}", hint
        case "maxLength":
            return f"too long: {len(value)} characters, at most {wanted}", ""
        case "minItems":
            return "the list must not be empty", schema.get("description", "")
        case "maxItems":
            return f"too many items: {len(value)}, at most {wanted}", ""
        case "minProperties":
            return "the map must not be empty", f"known keys: {', '.join(schema['properties'])}"
        case "maxProperties":
            return f"too many keys: {len(value)}, at most {wanted}", ""
        case _ if "enum" in schema and isinstance(value, str | int | float):
            return _not_a_choice(value, schema["enum"], shown)
        case _:
            message, usual = _wrong_type(value, schema, source)
            return message, hint or usual


def _takes_scalar(schema: Mapping[str, Any]) -> bool:
    types = schema.get("type", ())
    return not {"string", "integer", "number", "boolean"}.isdisjoint(
        [types] if isinstance(types, str) else types
    )


def _wrong_type(value: Any, schema: Mapping[str, Any], source: str | None) -> tuple[str, str]:
    types = schema["type"]
    names = [types] if isinstance(types, str) else list(types)
    message = f"expected {' or '.join(_TYPES[name] for name in names)}, got {_type_of(value, source)}"
    if value is None:
        return message, "set a value or remove the key"
    if "string" in names and isinstance(value, bool | int | float):
        return message, f'quote it: "{shorten(source or _yaml(value), 40)}"'
    if names == ["array"] and isinstance(value, str):
        words = ", ".join(json.dumps(word, ensure_ascii=False) for word in _words(value))
        return message, shorten(f"write [{words}]", 120)
    if names == ["array"] and isinstance(value, int | float):
        return message, f"write [{shorten(source or _yaml(value), 40)}]"
    if names == ["array"] and isinstance(value, dict):
        return message, "begin each item with a dash"
    return message, f"known keys: {', '.join(schema['properties'])}" if "properties" in schema else ""


def _words(text: str) -> list[str]:
    """The words of a command line, as a shell divides it."""
    import shlex

    try:
        return shlex.split(text)
    except ValueError:  # an unclosed quote
        return text.split()


def _not_a_choice(value: Any, choices: Sequence[str], shown: str) -> tuple[str, str]:
    close = did_you_mean(value, choices) if isinstance(value, str) else ""
    return f"{shown} is not one of {', '.join(choices)}{close}", ""


def _type_of(value: object, source: str | None = None) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return source or _yaml(value)
    if isinstance(value, int | float):
        return f"the number {shorten(source or quoted(value), 80)}"
    if isinstance(value, str):
        return f"the string {quoted(value)}"
    return "a list" if isinstance(value, list) else "a map"


def _yaml(value: object) -> str:
    return shorten(json.dumps(value), 40)


def parsers(kind: str) -> dict[Path, Parse]:
    """The parser of the value at each path. Its errors are more specific than those of a pattern."""
    return _parsers(objects.KINDS[kind])


@cache
def _parsers(kind: objects.ObjectKind) -> dict[Path, Parse]:
    return dict(_parsers_of(kind.spec, ("spec",)))


def _parsers_of(kind: type, under: Path) -> Iterator[tuple[Path, Parse]]:
    for name, key in keys(kind).items():
        path = (*under, name)
        if key.one:
            yield from _parsers_of(key.one, path)
        elif key.many:
            yield from _parsers_of(key.many, (*path, ITEM))
            if key.expand:
                yield (*path, ITEM), key.expand
        elif key.each:
            yield (*path, ITEM), key.each
        elif key.read:
            yield from _knob_parsers(under if key.inline else path)
        elif key.parse:
            yield path, key.parse


def _knob_parsers(under: Path) -> Iterator[tuple[Path, Parse]]:
    for knob in KNOBS:
        path = (*under, *knob.path.split(".", 1))
        yield path, knob.kind.parse
        for part, parse in knob.kind.parts.items():
            yield (*path, *part), parse
