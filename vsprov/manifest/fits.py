"""A quick test that a value fits a schema, for the schemas that vsprov generates.

Loading jsonschema takes longer than everything else that an apply without changes does with a manifest. It is
needed only to say what is wrong. `fits` is therefore one-sided: what it accepts is valid; what it rejects has
to be decided by jsonschema. A keyword that it does not know makes it reject.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

_NOTES = frozenset(("description", "title", "default", "examples", "patternErrorMessage"))
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern of a schema. Its `$` matches only at the end; in Python it also matches before a newline."""
    return re.compile(pattern[:-1] + r"\Z" if pattern.endswith("$") else pattern)


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether the value certainly fits the schema. False if it does not, or if that is not certain."""
    for word, wanted in schema.items():
        if word in _NOTES:
            continue
        kind, test = _TESTS.get(word, _UNKNOWN)
        if isinstance(value, kind) and not test(value, wanted, schema):
            return False
    return True


def _type(value: Any, wanted: Any, schema: Mapping[str, Any]) -> bool:
    for name in (wanted,) if isinstance(wanted, str) else wanted:
        if isinstance(value, _TYPES.get(name, ())) and (name == "boolean" or not isinstance(value, bool)):
            return True
    return False


def _enum(value: Any, wanted: Any, schema: Mapping[str, Any]) -> bool:
    # True equals 1 in Python, but not in JSON.
    return value in wanted if isinstance(value, str) else any(value is each for each in wanted)


def _one_of(value: Any, wanted: Any, schema: Mapping[str, Any]) -> bool:
    """Only for options that require keys. `fits` cannot tell that a value does not fit another option."""
    if not isinstance(value, dict) or any(option.keys() != {"required"} for option in wanted):
        return False
    return sum(all(key in value for key in option["required"]) for option in wanted) == 1


def _pattern_properties(value: Any, wanted: Any, schema: Mapping[str, Any]) -> bool:
    return all(
        fits(inner, given)
        for pattern, given in wanted.items()
        for key, inner in value.items()
        if compiled(pattern).search(key)
    )


def _additional_properties(value: Any, wanted: Any, schema: Mapping[str, Any]) -> bool:
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for key, inner in value.items():
        if key in known or any(compiled(pattern).search(key) for pattern in patterns):
            continue
        if wanted is False or not fits(inner, wanted):
            return False
    return True


Test = tuple[type | tuple[type, ...], Callable[[Any, Any, Mapping[str, Any]], bool]]
_NUMBER = (int, float)
_UNKNOWN: Test = (object, lambda value, wanted, schema: False)

# By keyword of JSON Schema: the type of the values that it applies to, and its test of them.
_TESTS: dict[str, Test] = {
    "type": (object, _type),
    "const": (object, lambda value, wanted, _: isinstance(value, str) and value == wanted),
    "enum": (object, _enum),
    "minimum": (_NUMBER, lambda value, wanted, _: value >= wanted),
    "maximum": (_NUMBER, lambda value, wanted, _: value <= wanted),
    "pattern": (str, lambda value, wanted, _: bool(compiled(wanted).search(value))),
    "maxLength": (str, lambda value, wanted, _: len(value) <= wanted),
    "items": (list, lambda value, wanted, _: all(fits(item, wanted) for item in value)),
    "minItems": (list, lambda value, wanted, _: len(value) >= wanted),
    "maxItems": (list, lambda value, wanted, _: len(value) <= wanted),
    "required": (dict, lambda value, wanted, _: all(key in value for key in wanted)),
    "minProperties": (dict, lambda value, wanted, _: len(value) >= wanted),
    "maxProperties": (dict, lambda value, wanted, _: len(value) <= wanted),
    "propertyNames": (dict, lambda value, wanted, _: all(fits(key, wanted) for key in value)),
    "properties": (
        dict,
        lambda value, wanted, _: all(fits(value[k], wanted[k]) for k in value if k in wanted),
    ),
    "patternProperties": (dict, _pattern_properties),
    "additionalProperties": (dict, _additional_properties),
    "oneOf": (object, _one_of),
}
